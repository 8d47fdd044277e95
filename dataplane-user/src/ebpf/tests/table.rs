//! The whole way from objects to maps, against what the table means.

use super::{real::kernel_maps, *};
use crate::{
    ebpf::{maps::MapWriter, simulate::Route as Seen},
    model::{
        DropCause, Outcome, ServiceTable, route,
        tests::generate::{Step, World, packets as all_packets, step},
    },
};
use dataplane_common::Reason;

/// What the table says of a packet, in the words of the maps.
fn wanted(table: &ServiceTable, packet: &Packet) -> Seen {
    match Outcome::of(route(table, packet), packet) {
        Outcome::NotOurs => Seen::NotAService,
        Outcome::Refused => Seen::Refused,
        Outcome::Dropped(DropCause::NoLocalEndpoint) => Seen::Dropped(Reason::NoLocalEndpoint),
        Outcome::Dropped(DropCause::SourceNotAllowed) => Seen::Dropped(Reason::SourceNotAllowed),
        Outcome::To { endpoints, affinity_s } => Seen::To { endpoints, affinity_s },
    }
}

/// Whether frontends on node addresses are valid for the packet; the datapath asks `NODE_ADDRESSES`
/// and `CONFIG`.
fn to_node(table: &ServiceTable, packet: &Packet) -> bool {
    let (node, destination) = (table.node(), packet.destination);
    let is_loopback = destination.is_loopback() && packet.scope == Scope::Host;
    (is_loopback || node.addresses.contains(&destination)) && node.serves_node_ports(destination)
}

/// Tells each step to a table, its changes to a program, and what that marks to the maps. Every
/// packet must be where the table wants it, also after a restart.
fn follow(steps: &[Step], maps: &mut impl MapWriter) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let mut program = Program::new(SMALL);
    let packets = all_packets();
    for (turn, step) in steps.iter().enumerate() {
        world.tell(step);
        for key in world.table.take_changed() {
            program.change(&key, world.table.port(&key).as_ref()).unwrap();
        }
        let now = turn as u64 * GRACE_MS;
        program.apply(maps, now).unwrap();
        program.reclaim(now);
        prop_assert_eq!(program.contested(), 0, "the table has settled who has what");
        for packet in packets.iter().skip(turn % 13).step_by(13) {
            let to_node = to_node(&world.table, packet);
            let seen = simulate(&program, packet, to_node);
            prop_assert_eq!(seen, wanted(&world.table, packet), "{:?} after {}", packet, turn);
        }
    }
    let mut whole = Program::new(SMALL);
    whole.compile(&world.table);
    for packet in &packets {
        let (to_node, wanted) = (to_node(&world.table, packet), wanted(&world.table, packet));
        prop_assert_eq!(&simulate(&whole, packet, to_node), &wanted, "{:?} as a whole", packet);
        prop_assert_eq!(&simulate_maps(maps, packet, to_node), &wanted, "{:?} in maps", packet);
    }
    let mut next = Program::observe(maps).unwrap();
    prop_assert_eq!(next.pending(), 0, "the maps explain themselves");
    next.compile(&world.table);
    prop_assert_eq!(next.pending(), 0, "a restart has nothing to write");
    prop_assert_eq!(next.services(), program.services());
    prop_assert_eq!(identities(&next), identities(&program));
    prop_assert_eq!(next.needs_nic_replies(), program.needs_nic_replies());
    prop_assert_eq!(next.host_ports(), program.host_ports());
    Ok(())
}

proptest! {
    #[test]
    fn any_history_of_objects_sends_packets_where_the_table_wants_them(
        steps in prop::collection::vec(step(), 1..24)
    ) {
        follow(&steps, &mut FakeMaps { fail_one_in: 0, ..FakeMaps::new(SMALL) })?;
    }
}

#[test]
fn kernel_maps_send_packets_where_the_table_wants_them() {
    if kernel_maps(SMALL).is_none() {
        return;
    }
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..24))| {
        let mut maps = kernel_maps(SMALL).unwrap();
        follow(&steps, &mut maps)?;
    });
}
