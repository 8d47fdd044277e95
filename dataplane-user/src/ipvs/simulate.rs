//! Does what nftables and IPVS would do with a program's contents, to compare with the meaning of a
//! table.

use std::net::SocketAddr;

use super::{
    contents::{Contents, Element, Held},
    limits,
    program::Program,
    server::{Scheduler, Server, ServerKey, Virtual},
    treatment::{Action, Treatment},
};
use crate::{
    backend::{Desired, Mode, Node},
    model::{DropCause, Outcome, Packet, PortKey, PortState, Scope},
    simulate::Simulated,
};

/// Where the first packet of a flow goes.
pub fn simulate(program: &Program, packet: &Packet) -> Outcome {
    let contents = program.contents();
    let Packet { destination, port, protocol, .. } = *packet;
    let wanted = Virtual { address: destination, protocol, port };
    let Some(Held::Treatment(treatment)) = contents.elements.get(&Element::Service(wanted)) else {
        let is_closed = has(contents, &Element::Closed(destination));
        return if is_closed { Outcome::Refused } else { Outcome::NotOurs };
    };
    if treatment.ranged && !contents.ranges(wanted).any(|range| range.contains(packet.source)) {
        return Outcome::Dropped(DropCause::SourceNotAllowed);
    }
    match treatment.action(packet.scope) {
        Action::Refuse => Outcome::Refused,
        Action::Drop => Outcome::Dropped(DropCause::NoLocalEndpoint),
        Action::Serve => served(contents, wanted, *treatment, packet, false),
        Action::Masquerade => served(contents, wanted, *treatment, packet, true),
    }
}

/// What IPVS does with a packet that gets to it: asks for its mark first.
fn served(
    contents: &Contents,
    wanted: Virtual,
    treatment: Treatment,
    packet: &Packet,
    masquerades: bool,
) -> Outcome {
    let is_inside = packet.scope != Scope::Outside;
    let mark = contents.elements.get(&Element::Mark(wanted));
    let by_mark = match mark.filter(|_| treatment.marked && is_inside) {
        Some(Held::Mark(mark)) => contents.servers.get(&ServerKey::Mark(wanted.family(), *mark)),
        Some(Held::Nothing | Held::Treatment(_)) | None => None,
    };
    let server = by_mark.or_else(|| contents.servers.get(&ServerKey::Address(wanted)));
    // Without a server the node's own sockets get the packet.
    let Some(server) = server else { return Outcome::NotOurs };
    let replaced = |to: &SocketAddr| {
        // What stays on this node passes no hook where its source could be replaced.
        let stays = has(contents, &Element::Node(to.ip()));
        let is_hairpin = to.ip() == packet.source && has(contents, &Element::Hairpin(to.ip()));
        !stays && (masquerades || is_hairpin)
    };
    Outcome::To {
        endpoints: server.destinations.iter().map(|to| (*to, replaced(to))).collect(),
        affinity_s: affinity(server),
    }
}

/// A hash has no timeout: a client stays for as long as the endpoints do.
fn affinity(server: &Server) -> Option<u32> {
    match server.scheduling.scheduler {
        Scheduler::RoundRobin => server.scheduling.persistence_s,
        Scheduler::Maglev => Some(u32::MAX),
    }
}

fn has(contents: &Contents, element: &Element) -> bool {
    contents.elements.contains_key(element)
}

/// Why this program cannot serve packets like this one as its table wants it.
pub fn cannot(program: &Program, packet: &Packet) -> Option<&'static str> {
    let Packet { scope, destination, port, protocol, .. } = *packet;
    if destination.is_loopback() {
        return limits::loopback(scope);
    }
    let contents = program.contents();
    let wanted = Virtual { address: destination, protocol, port };
    let is_mapped = has(contents, &Element::Service(wanted));
    if !is_mapped
        && contents.addresses.contains(&destination)
        && !program.is_cluster_ip(destination)
    {
        return Some(limits::OTHER_PORTS);
    }
    is_hashed(contents, wanted, scope).then_some(limits::HASHED)
}

fn is_hashed(contents: &Contents, wanted: Virtual, scope: Scope) -> bool {
    let Some(Held::Mark(mark)) = contents.elements.get(&Element::Mark(wanted)) else {
        return false;
    };
    let server = contents.servers.get(&ServerKey::Mark(wanted.family(), *mark));
    let is_hashed = server.is_some_and(|server| server.scheduling.scheduler == Scheduler::Maglev);
    is_hashed && scope != Scope::Outside
}

impl Simulated for Program {
    fn mode(&self) -> Mode {
        Mode::Ipvs
    }

    fn set_node(&mut self, node: &Node) {
        Self::set_node(self, node);
    }

    fn compile(&mut self, table: &dyn Desired) {
        Self::compile(self, table);
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        Self::change(self, key, state);
    }

    fn simulate(&self, packet: &Packet) -> Outcome {
        simulate(self, packet)
    }

    fn cannot(&self, packet: &Packet) -> Option<&'static str> {
        cannot(self, packet)
    }
}
