//! Every backend's program as a function of packets, so that each can be held to the table's meaning.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_common::Reason;

use crate::{
    backend::{Desired, Mode, Node},
    ebpf, iptables, ipvs,
    model::{DropCause, NodeIdentity, Outcome, Packet, PortKey, PortState, Scope},
    nftables,
};

/// What a kernel should hold, and what would become of packets if it did.
pub trait Simulated {
    /// Whose program it is.
    fn mode(&self) -> Mode;
    /// Makes the program right for this node.
    fn set_node(&mut self, node: &Node);
    /// Makes the program right for the whole table.
    fn compile(&mut self, table: &dyn Desired);
    /// Makes the program right for one service port; `None` when it is gone.
    fn change(&mut self, key: &PortKey, state: Option<&PortState>);
    /// Where the first packet of a flow goes.
    fn simulate(&self, packet: &Packet) -> Outcome;
    /// Which of the backend's limits ([`crate::limits::of`]) keeps it from serving packets like this one.
    fn cannot(&self, _packet: &Packet) -> Option<&'static str> {
        None
    }
}

/// An empty program of every backend.
pub fn every_backend() -> Vec<Box<dyn Simulated>> {
    vec![
        Box::new(Ebpf::new()),
        Box::new(nftables::Program::default()),
        Box::new(ipvs::Program::new()),
        Box::new(iptables::Program::default()),
    ]
}

/// What backends are told of the node that a table is for, with the devices of its pods.
pub fn node(identity: &NodeIdentity, pod_links: &[&str]) -> Node {
    let served = |address: &IpAddr| identity.serves_node_ports(*address);
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    Node {
        addresses: identity.addresses.clone(),
        node_port_addresses: identity.addresses.iter().copied().filter(served).collect(),
        loopback: loopback.iter().all(served),
        pod_links: pod_links.iter().map(|&link| link.to_owned()).collect(),
    }
}

/// More service ports, endpoints and source ranges than a generated table or a scenario has.
const LIMITS: ebpf::Limits = ebpf::Limits {
    frontends4: 1024,
    frontends6: 1024,
    endpoints4: 4096,
    endpoints6: 4096,
    live: 4096,
    sources4: 1024,
    sources6: 1024,
};

/// The maps' contents, and what `CONFIG` and the maps of node addresses would say beside them.
#[derive(Debug)]
struct Ebpf {
    program: ebpf::Program,
    node: Node,
}

impl Ebpf {
    fn new() -> Self {
        Self { program: ebpf::Program::new(LIMITS), node: Node::default() }
    }

    /// Whether frontends on node addresses are valid for the packet.
    fn is_to_node(&self, packet: &Packet) -> bool {
        if packet.destination.is_loopback() {
            return packet.scope == Scope::Host && self.node.loopback;
        }
        self.node.node_port_addresses.contains(&packet.destination)
    }
}

impl Simulated for Ebpf {
    fn mode(&self) -> Mode {
        Mode::Ebpf
    }

    fn set_node(&mut self, node: &Node) {
        self.node = node.clone();
    }

    fn compile(&mut self, table: &dyn Desired) {
        self.program.compile(table);
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        // A port without room stays out, which shows in what is simulated.
        let _ = self.program.change(key, state);
    }

    fn simulate(&self, packet: &Packet) -> Outcome {
        use ebpf::simulate::{Route, simulate};
        match simulate(&self.program, packet, self.is_to_node(packet)) {
            Route::NotAService => Outcome::NotOurs,
            Route::Refused => Outcome::Refused,
            Route::Dropped(Reason::SourceNotAllowed) => {
                Outcome::Dropped(DropCause::SourceNotAllowed)
            }
            Route::Dropped(_) => Outcome::Dropped(DropCause::NoLocalEndpoint),
            Route::To { endpoints, affinity_s } => Outcome::To { endpoints, affinity_s },
        }
    }
}

#[cfg(test)]
mod tests;
