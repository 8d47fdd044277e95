//! Maps that fail, a process that dies in the middle, maps too small.

use super::*;

proptest! {
    #[test]
    fn maps_become_right_though_one_call_in_ten_fails(
        edits in prop::collection::vec(edit(), 1..24)
    ) {
        let mut table = Table::new();
        let mut program = Program::new(SMALL);
        let mut maps = FakeMaps::new(SMALL);
        for (key, state) in edits {
            put(&mut table, &key, state.as_ref());
            program.change(&key, state.as_ref()).unwrap();
            let _ = program.apply(&mut maps, 0);
        }
        settle(&mut program, &mut maps);
        for (packet, to_node) in packets(0) {
            let seen = simulate_maps(&mut maps, &packet, to_node);
            prop_assert_eq!(seen, meaning(&table, &packet, to_node), "{:?}", packet);
        }
    }

    #[test]
    fn a_crash_at_any_call_is_healed_by_the_next_process(
        first in prop::collection::vec(edit(), 1..16),
        second in prop::collection::vec(edit(), 1..16),
        crash_at in 0u64..12,
    ) {
        let mut table = Table::new();
        let mut program = Program::new(SMALL);
        let mut maps = FakeMaps { fail_one_in: 0, ..FakeMaps::new(SMALL) };
        for (key, state) in &first {
            put(&mut table, key, state.as_ref());
            program.change(key, state.as_ref()).unwrap();
        }
        program.apply(&mut maps, 0).unwrap();
        for (key, state) in &second {
            put(&mut table, key, state.as_ref());
            program.change(key, state.as_ref()).unwrap();
        }
        // The process dies: each call after the first `crash_at` fails in its middle.
        maps.calls = 0;
        for _ in 0..crash_at {
            maps.fail_one_in = 4;
            if program.apply(&mut maps, 0).is_ok() { break }
        }
        drop(program);
        maps.fail_one_in = 0;
        let mut program = Program::observe(&mut maps).unwrap();
        program.compile(&table);
        settle(&mut program, &mut maps);
        for (packet, to_node) in packets(0) {
            let seen = simulate_maps(&mut maps, &packet, to_node);
            prop_assert_eq!(seen, meaning(&table, &packet, to_node), "{:?}", packet);
        }
        // Nothing is left over: a third process finds nothing to put right. (Ports that lost each
        // frontend to others hold identities that the maps cannot explain.)
        let third = Program::observe(&mut maps).unwrap();
        prop_assert!(third.pending() == 0 || program.contested() > 0);
        prop_assert_eq!(third.services().len(), table_services(&program));
    }
}

fn table_services(program: &Program) -> usize {
    // A port whose frontends all belong to others leaves no trace in the maps.
    fn visible<const N: usize>(half: &crate::ebpf::half::Half<N>) -> usize {
        let owns = |slot: u32, key| half.frontends.get(&key).is_some_and(|o| o.slot == slot);
        let ports =
            (0u32..).zip(&half.ports).filter_map(|(slot, port)| Some((slot, port.as_ref()?)));
        ports.filter(|(slot, port)| port.frontends.iter().any(|key| owns(*slot, *key))).count()
    }
    visible(&program.v4) + visible(&program.v6)
}

fn settle(program: &mut Program, maps: &mut FakeMaps) {
    for _ in 0..200 {
        if program.apply(maps, 0).is_ok() {
            assert_eq!(program.pending(), 0);
            return;
        }
    }
    panic!("200 tries were not enough");
}

#[test]
fn a_restart_keeps_numbers_blocks_and_identities_and_writes_nothing() {
    let table: Table = (1..=20).map(|number| service(number, 5)).collect();
    let mut program = Program::new(SMALL);
    program.compile(&table);
    let mut maps = FakeMaps { fail_one_in: 0, ..FakeMaps::new(SMALL) };
    program.apply(&mut maps, 0).unwrap();
    let mut next = Program::observe(&mut maps).unwrap();
    assert!(next.services().iter().all(|service| service.key.is_none()));
    next.compile(&table);
    assert_eq!(next.services(), program.services());
    assert_eq!(identities(&next), identities(&program));
    assert_eq!(next.pending(), 0);
}

#[test]
fn twenty_thousand_services_in_maps_for_ten_thousand_leave_the_first_ten_thousand_working() {
    // Each has an address, which is a cluster IP and takes an entry more.
    let limits = Limits { frontends4: 20_000, endpoints4: 1 << 17, live: 1 << 17, ..SMALL };
    let mut table: Table = (0..20_000).map(|number| service(number, 5)).collect();
    let mut program = Program::new(limits);
    program.compile(&table);
    assert_eq!(program.left_out().len(), 10_000);
    assert_eq!(program.services().len(), 10_000);
    let mut maps = FakeMaps::new(limits);
    settle(&mut program, &mut maps);
    let works = |maps: &mut FakeMaps, number: u32| {
        let packet = to_service(number);
        let alone = Table::from([service(number, 5)]);
        simulate_maps(maps, &packet, false) == meaning(&alone, &packet, false)
    };
    assert!((0..10_000).all(|number| works(&mut maps, number)));
    assert!((10_000..20_000).all(|number| !works(&mut maps, number)));
    let error = program.left_out()[&key(12_345, Family::V4)].to_string();
    assert_eq!(
        error,
        "cannot fit port '' of service shop/service-12345 into map FRONTENDS4: \
         it holds 20000 entries at most"
    );
    // Room appears: the next in line takes it, though the map is full until the deletion.
    let gone = key(3, Family::V4);
    table.remove(&gone);
    program.change(&gone, None).unwrap();
    assert_eq!(program.retry(&table), 1);
    settle(&mut program, &mut maps);
    assert!(works(&mut maps, 10_000) && !works(&mut maps, 10_001) && !works(&mut maps, 3));
}

#[test]
fn a_change_without_room_for_a_new_block_is_made_in_place() {
    let limits = Limits { endpoints4: 5, ..SMALL };
    let (name, mut state) = service(1, 5);
    let mut program = Program::new(limits);
    program.change(&name, Some(&state)).unwrap();
    state.endpoints.remove(2);
    program.change(&name, Some(&state)).unwrap();
    state.endpoints.extend([endpoint(Family::V4, 900), endpoint(Family::V4, 901)]);
    program.change(&name, Some(&state)).unwrap_err();
    assert_eq!(program.left_out()[&name].map, "ENDPOINTS4");
    let mut maps = FakeMaps::new(limits);
    settle(&mut program, &mut maps);
    state.endpoints.truncate(4);
    let packet = to_service(1);
    let wanted = meaning(&Table::from([(name, state)]), &packet, false);
    assert_eq!(simulate_maps(&mut maps, &packet, false), wanted);
}
