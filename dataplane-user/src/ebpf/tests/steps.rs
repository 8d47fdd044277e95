//! Between two writes to the maps every packet has its old route or its new one.

use super::*;
use crate::{
    ebpf::{maps::MapWriter as _, simulate::Route},
    model::TrafficPolicy,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_change_that_stops_anywhere_leaves_each_packet_at_its_old_or_its_new_route(
        first in prop::collection::vec(edit(), 1..8),
        second in prop::collection::vec(edit(), 1..3),
    ) {
        let mut table = Table::new();
        let mut program = Program::new(SMALL);
        let mut maps = FakeMaps { fail_one_in: 0, ..FakeMaps::new(SMALL) };
        for (key, state) in &first {
            change(&mut table, &mut program, key, state.as_ref());
        }
        program.apply(&mut maps, 0).unwrap();
        let before = table.clone();
        for (key, state) in &second {
            change(&mut table, &mut program, key, state.as_ref());
        }
        for entries in 0.. {
            let mut stopped = FakeMaps { entries_left: Some(entries), ..maps.clone() };
            let mut program = program.clone();
            let is_done = program.apply(&mut stopped, 0).is_ok();
            for (packet, to_node) in packets(entries) {
                // A cluster IP that is also the node's own address changes hands in two steps.
                let is_exact = |table| meaning(table, &packet, false) != Route::NotAService;
                if to_node && (is_exact(&before) || is_exact(&table)) {
                    continue;
                }
                let seen = simulate_maps(&mut stopped, &packet, to_node);
                let old = meaning(&before, &packet, to_node);
                let new = meaning(&table, &packet, to_node);
                let named = format!("after {entries} entries, {packet:?}");
                prop_assert!(seen == new || seen == old && !is_done,
                    "{}: {:?} is neither {:?} nor {:?}", named, seen, old, new);
            }
            // It goes on from there.
            stopped.entries_left = None;
            program.apply(&mut stopped, 0).unwrap();
            for (packet, to_node) in packets(entries + 1) {
                let seen = simulate_maps(&mut stopped, &packet, to_node);
                prop_assert_eq!(seen, meaning(&table, &packet, to_node), "{:?}", packet);
            }
            if is_done { break }
        }
    }
}

/// Clients that are served are the subject of another test: ranges and endpoints change in two steps.
fn change(table: &mut Table, program: &mut Program, key: &PortKey, state: Option<&PortState>) {
    let state = state.map(|state| PortState { source_ranges: None, ..state.clone() });
    put(table, key, state.as_ref());
    program.change(key, state.as_ref()).unwrap();
}

#[test]
fn an_endpoint_leaves_a_view_only_after_the_frontends_have_left_it() {
    let (key, mut state) = service(1, 2);
    state.frontends[0].kind = FrontendKind::LoadBalancer;
    state.external = TrafficPolicy::Local;
    state.endpoints[0].views = Views::Both;
    let mut program = Program::new(SMALL);
    let mut maps = FakeMaps { fail_one_in: 0, ..FakeMaps::new(SMALL) };
    program.change(&key, Some(&state)).unwrap();
    program.apply(&mut maps, 0).unwrap();
    let before = identities(&program);
    // The one that was in both views is now in the local view alone, the other one in both.
    state.endpoints[0].views = Views::Local;
    state.endpoints[1].views = Views::Both;
    program.change(&key, Some(&state)).unwrap();
    let left = program.take_departed();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].address, left[0].views), (state.endpoints[0].address, 1));
    let index = left[0].id & 0xf_ffff;
    let views = |maps: &mut FakeMaps| {
        let live: Option<dataplane_common::Live> = maps.lookup("LIVE", &index).unwrap();
        live.unwrap().views
    };
    // The block stays as it is; both live entries are written, and the frontend is not.
    maps.entries_left = Some(2);
    program.apply(&mut maps, 0).unwrap_err();
    assert_eq!(views(&mut maps), 3, "it may still be chosen");
    maps.entries_left = None;
    program.apply(&mut maps, 0).unwrap();
    assert_eq!(views(&mut maps), 2);
    assert_eq!(identities(&program), before);
    assert_eq!(program.pending(), 0);
}
