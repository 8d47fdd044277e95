//! Against maps in the kernel.

use aya::maps::MapData;
use dataplane_common::{
    Affinity, AffinityKey, Endpoint as Slot, EndpointId, Flow, FlowKey, Frontend as Entry,
    FrontendKey, Live, Peer, PeerKey, SourceKey, Tuple, gate, names,
};

use super::*;
use crate::ebpf::{
    kernel::{ARRAY, HASH, LPM_TRIE, LRU_HASH, Plain, create},
    maps::{KernelMaps, MapWriter},
};

fn add<K: Plain, V: Plain>(maps: &mut KernelMaps, name: &'static str, kind: u32, max: u32) {
    let fd = create::<K, V>(kind, max).unwrap();
    maps.insert(name, MapData::from_fd(fd).unwrap()).unwrap();
}

/// New maps in the kernel, or `None`, said aloud, when we may not make any.
pub(super) fn kernel_maps(limits: Limits) -> Option<KernelMaps> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: kernel maps need root");
        return None;
    }
    let mut maps = KernelMaps::default();
    add::<FrontendKey<4>, Entry>(&mut maps, names::FRONTENDS4, HASH, limits.frontends4);
    add::<FrontendKey<16>, Entry>(&mut maps, names::FRONTENDS6, HASH, limits.frontends6);
    add::<u32, Slot<4>>(&mut maps, names::ENDPOINTS4, ARRAY, limits.endpoints4);
    add::<u32, Slot<16>>(&mut maps, names::ENDPOINTS6, ARRAY, limits.endpoints6);
    add::<u32, Live>(&mut maps, names::LIVE, ARRAY, limits.live);
    add::<u32, u64>(&mut maps, names::GATE, ARRAY, gate::WORDS);
    add::<FlowKey<4>, Flow<4>>(&mut maps, names::FLOWS4, LRU_HASH, 1 << 12);
    add::<FlowKey<16>, Flow<16>>(&mut maps, names::FLOWS6, LRU_HASH, 1 << 12);
    add::<PeerKey, Peer>(&mut maps, names::PEERS, LRU_HASH, 1 << 12);
    add::<SourceKey<4>, u32>(&mut maps, names::SOURCES4, LPM_TRIE, limits.sources4);
    add::<SourceKey<16>, u32>(&mut maps, names::SOURCES6, LPM_TRIE, limits.sources6);
    add::<AffinityKey, Affinity>(&mut maps, names::AFFINITY, LRU_HASH, 1 << 12);
    Some(maps)
}

#[test]
fn a_map_with_other_sizes_is_neither_read_nor_written() {
    let Some(mut maps) = kernel_maps(SMALL) else { return };
    let error = maps.lookup::<u32, u32>(names::LIVE, &1).unwrap_err().to_string();
    assert!(error.contains("its values have 8 bytes instead of 4"), "{error}");
    assert!(maps.update(names::LIVE, &[1u64], &[1u32]).is_err());
    assert!(maps.delete(names::FRONTENDS4, &[1u8]).is_err());
    assert!(maps.entries::<u32, [u8; 3]>(names::LIVE).is_err());
}

#[test]
fn an_identity_that_a_socket_or_a_client_remembers_does_not_come_back() {
    let Some(mut maps) = kernel_maps(SMALL) else { return };
    let (remembered, stayed_with) = (EndpointId::new(9, 3), EndpointId::new(8, 6));
    let key =
        PeerKey { cookie: 1, addr: [0; 16], port: [0; 2], protocol: 17, direction: 1, pad: [0; 4] };
    let peer = Peer { addr: [0; 16], port: [0; 2], views: 0, endpoint: remembered.to_bits() };
    maps.update(names::PEERS, &[key], &[peer]).unwrap();
    let key = AffinityKey::of_address(2, [1; 16]);
    let (addr, endpoint) = ([2; 16], stayed_with.to_bits());
    let affinity = Affinity { last_ns: 1, addr, port: [0, 80], flags: 0, endpoint };
    maps.update(names::AFFINITY, &[key], &[affinity]).unwrap();
    let mut program = Program::observe(&mut maps).unwrap();
    let ids: Vec<EndpointId> =
        (0..2000).map_while(|_| program.shared.ids.take(Live::CLUSTER)).collect();
    for (index, generation) in [(9, 4), (8, 7)] {
        let again = ids.iter().find(|id| id.index() == index).unwrap();
        assert_eq!(again.generation(), generation);
    }
}

#[test]
fn kernel_maps_take_a_program_and_give_it_back() {
    let Some(mut maps) = kernel_maps(SMALL) else { return };
    let mut table: Table = (1..=40).map(|number| service(number, 5)).collect();
    let mut program = Program::new(maps.limits().unwrap());
    program.compile(&table);
    program.apply(&mut maps, 0).unwrap();
    for number in 10..=30 {
        let gone = key(number, Family::V4);
        table.remove(&gone);
        program.change(&gone, None).unwrap();
    }
    program.apply(&mut maps, 0).unwrap();
    for number in 0..50 {
        let packet = to_service(number);
        assert_eq!(simulate_maps(&mut maps, &packet, false), meaning(&table, &packet, false));
    }
    let mut next = Program::observe(&mut maps).unwrap();
    next.compile(&table);
    assert_eq!(next.pending(), 0);
    assert_eq!(identities(&next), identities(&program));
    assert_eq!(next.services(), program.services());
}

#[test]
fn flows_in_the_kernel_are_swept_in_batches_and_missing_keys_do_not_matter() {
    let Some(mut maps) = kernel_maps(SMALL) else { return };
    let key = |client: u16| {
        let (src, dst) = ([10, 0, 0, 1], [10, 9, 0, 1]);
        FlowKey::forward(Tuple { src, dst, src_port: client.to_be_bytes(), dst_port: [0, 80] }, 17)
    };
    let keys: Vec<FlowKey<4>> = (0..500).map(key).collect();
    let flow = |seen| Flow {
        to: keys[0].tuple(),
        endpoint: 1,
        seen,
        service: 2,
        flags: 0,
        link: dataplane_common::Link::default(),
        link_seen: 0,
    };
    let flows: Vec<Flow<4>> = (0..500).map(|at| flow(if at < 400 { 1 } else { 1000 })).collect();
    maps.update(names::FLOWS4, &keys, &flows).unwrap();
    let sweep = crate::ebpf::flows::sweep(&mut maps, 1001).unwrap();
    assert_eq!((sweep.expired, sweep.entries), (400, 100));
    // 400 of these are gone already, between those that are not.
    maps.delete(names::FLOWS4, &keys).unwrap();
    assert!(maps.entries::<FlowKey<4>, Flow<4>>(names::FLOWS4).unwrap().is_empty());
}
