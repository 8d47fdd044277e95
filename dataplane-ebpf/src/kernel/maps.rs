//! The maps. Sizes given here are defaults; the loader may set others.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, bpf_fib_lookup},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
};
use dataplane_common::{
    Affinity, AffinityKey, Config, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey,
    Hook, Live, Peer, PeerKey, gate, names,
    reason::{COUNTERS_MAX, REASONS_MAX},
};

#[map]
pub(super) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(super) static LIVE: Array<Live> = Array::with_max_entries(EndpointId::INDEX_MAX, 0);
#[map]
pub(super) static GATE: Array<u64> = Array::with_max_entries(gate::WORDS, 0);
#[map]
pub(super) static ENDPOINTS4: Array<Endpoint<4>> = Array::with_max_entries(names::ENDPOINTS_MAX, 0);
#[map]
pub(super) static ENDPOINTS6: Array<Endpoint<16>> =
    Array::with_max_entries(names::ENDPOINTS_MAX, 0);
#[map]
pub(super) static FRONTENDS4: HashMap<FrontendKey<4>, Frontend> =
    HashMap::with_max_entries(names::FRONTENDS_MAX, 0);
#[map]
pub(super) static FRONTENDS6: HashMap<FrontendKey<16>, Frontend> =
    HashMap::with_max_entries(names::FRONTENDS_MAX, 0);
#[map]
pub(super) static NODE_ADDRESSES4: HashMap<[u8; 4], u32> =
    HashMap::with_max_entries(names::NODE_ADDRESSES_MAX, 0);
#[map]
pub(super) static NODE_ADDRESSES6: HashMap<[u8; 16], u32> =
    HashMap::with_max_entries(names::NODE_ADDRESSES_MAX, 0);
#[map]
pub(super) static FLOWS4: LruHashMap<FlowKey<4>, Flow<4>> =
    LruHashMap::with_max_entries(names::FLOWS_MAX, 0);
#[map]
pub(super) static FLOWS6: LruHashMap<FlowKey<16>, Flow<16>> =
    LruHashMap::with_max_entries(names::FLOWS_MAX, 0);
#[map]
pub(super) static PEERS: LruHashMap<PeerKey, Peer> =
    LruHashMap::with_max_entries(names::PEERS_MAX, 0);
/// `SourceKey<4>` without its first field, which the map type adds.
#[map]
pub(super) static SOURCES4: LpmTrie<[u8; 8], u32> =
    LpmTrie::with_max_entries(names::SOURCES_MAX, BPF_F_NO_PREALLOC);

/// `SourceKey<16>` without its first field.
#[map]
pub(super) static SOURCES6: LpmTrie<[u8; 20], u32> =
    LpmTrie::with_max_entries(names::SOURCES_MAX, BPF_F_NO_PREALLOC);

#[map]
pub(super) static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(names::AFFINITY_MAX, 0);

#[map]
pub(super) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// A flow that is put together before it is inserted: the 512-byte stack has no room for it.
#[repr(C)]
pub(super) struct Draft<const N: usize> {
    pub(super) key: FlowKey<N>,
    pub(super) flow: Flow<N>,
}

#[map]
pub(super) static DRAFT4: PerCpuArray<Draft<4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(super) static DRAFT6: PerCpuArray<Draft<16>> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(super) static DRAFT_AFFINITY: PerCpuArray<Affinity> = PerCpuArray::with_max_entries(1, 0);

/// The parameters of a route lookup, for the same reason.
#[map]
pub(super) static DRAFT_ROUTE: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);

/// Until when this CPU's refusals are paid for, in ns of the coarse clock.
#[map]
pub(super) static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Set by whoever compares the programs with the library, packet by packet: no limit on refusals.
#[unsafe(no_mangle)]
pub(super) static ANSWERS_UNLIMITED: Global<u8> = Global::new(0);

/// Count one packet or call.
#[inline(always)]
pub(super) fn count(hook: Hook, reason: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(hook as u32 * REASONS_MAX + reason) {
        // SAFETY: the pointer is to this CPU's own counter, aligned and alive for the whole
        // program run; programs are not preempted by themselves on one CPU.
        unsafe { *counter += 1 };
    }
}
