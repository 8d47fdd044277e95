//! Where packets go, as text: the table, the maps and every backend have to agree.

use std::collections::BTreeSet;

use dataplane_common::Reason;
use dataplane_user::{
    ebpf::simulate::{self, simulate_maps},
    model::{
        DropCause, Masquerade, NodeIdentity, Outcome, Packet, Placement, PortKey, Route, Scope,
        ServiceTable, route, route::Target,
    },
    simulate::{Simulated, node},
};

use crate::{maps::Maps, table::end};

/// The packet, and what both the table and the maps say about it.
pub(crate) fn tell(table: &ServiceTable, maps: &mut Maps, packet: &Packet) -> String {
    let from = match packet.scope {
        Scope::Host => "host",
        Scope::Pod => "pod",
        Scope::Outside => "outside",
    };
    let to = end(packet.destination, packet.port);
    let outcome = by_table(table, packet);
    let by_maps = by_maps(table.node(), maps, packet);
    assert_eq!(by_maps, outcome, "the maps (left) are not what the table says of {packet:?}");
    format!("{from} {} -> {to}/{}: {outcome}", packet.source, packet.protocol)
}

/// Tells each program what has changed.
pub(crate) fn tell_backends(
    table: &ServiceTable,
    changed: &BTreeSet<PortKey>,
    programs: &mut [Box<dyn Simulated>],
) {
    for program in programs {
        program.set_node(&node(table.node(), &["hp1"]));
        for key in changed {
            program.change(key, table.port(key).as_ref());
        }
    }
}

/// Asserts that each backend does with a packet what the table means.
pub(crate) fn check_backends(
    table: &ServiceTable,
    programs: &[Box<dyn Simulated>],
    packet: &Packet,
) {
    let wanted = Outcome::of(route(table, packet), packet);
    for program in programs.iter().filter(|program| program.cannot(packet).is_none()) {
        let seen = program.simulate(packet);
        assert_eq!(seen, wanted, "{} (left) and the table disagree on {packet:?}", program.mode());
    }
}

/// What the table means for a packet.
fn by_table(table: &ServiceTable, packet: &Packet) -> String {
    match route(table, packet) {
        Route::NotOurs => "not a service".to_owned(),
        Route::Refused => "refused".to_owned(),
        Route::Dropped(DropCause::NoLocalEndpoint) => NO_LOCAL.to_owned(),
        Route::Dropped(DropCause::SourceNotAllowed) => NOT_ALLOWED.to_owned(),
        Route::OneOf { endpoints, masquerade, affinity_s } => {
            let endpoints = endpoints.iter().map(|target| {
                let replaced = is_masqueraded(packet, target, masquerade);
                (end(target.address, target.port), replaced)
            });
            to_one_of(packet, endpoints, affinity_s)
        }
    }
}

/// What the datapath does with a packet, given these maps.
fn by_maps(node: &NodeIdentity, maps: &mut Maps, packet: &Packet) -> String {
    let Packet { scope, destination, .. } = *packet;
    let own = node.addresses.contains(&destination);
    let is_node = own || (destination.is_loopback() && scope == Scope::Host);
    let to_node = is_node && node.serves_node_ports(destination);
    match simulate_maps(maps, packet, to_node) {
        simulate::Route::NotAService => "not a service".to_owned(),
        simulate::Route::Refused => "refused".to_owned(),
        simulate::Route::Dropped(Reason::NoLocalEndpoint) => NO_LOCAL.to_owned(),
        simulate::Route::Dropped(Reason::SourceNotAllowed) => NOT_ALLOWED.to_owned(),
        simulate::Route::Dropped(reason) => format!("dropped: {}", reason.name()),
        simulate::Route::To { endpoints, affinity_s } => {
            let endpoints = endpoints.iter().map(|(at, replaced)| (at.to_string(), *replaced));
            to_one_of(packet, endpoints, affinity_s)
        }
    }
}

const NO_LOCAL: &str = "dropped: no endpoint on this node";
const NOT_ALLOWED: &str = "dropped: source not allowed";

fn is_masqueraded(packet: &Packet, target: &Target, masquerade: Masquerade) -> bool {
    let asked = match masquerade {
        Masquerade::Always => true,
        Masquerade::Hairpin => target.address == packet.source,
    };
    asked && target.placement != Placement::Host
}

/// `to 10.1.0.5:8080 or 10.1.1.6:8080 (masqueraded)`.
fn to_one_of(
    packet: &Packet,
    endpoints: impl Iterator<Item = (String, bool)>,
    affinity_s: Option<u32>,
) -> String {
    let endpoints = endpoints.map(|(at, masqueraded)| {
        // What the node itself sends has a node's address anyway.
        let masqueraded = masqueraded && packet.scope != Scope::Host;
        if masqueraded { format!("{at} (masqueraded)") } else { at }
    });
    let endpoints: Vec<String> = endpoints.collect();
    let stays = affinity_s
        .map_or_else(String::new, |seconds| format!(", then the same one for {seconds} s"));
    format!("to {}{stays}", endpoints.join(" or "))
}
