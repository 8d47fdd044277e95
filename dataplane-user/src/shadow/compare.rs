//! One new connection, decided twice.

use crate::{
    backend::Node,
    conntrack::{Entry, entry::status},
    ebpf::simulate::Route,
    model::{Packet, Protocol, Scope},
};

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// Both send it to an endpoint of the same view, with the same kind of source.
    Agrees,
    /// Neither takes it for a service's.
    NotAService,
    /// Netfilter translated it, eBPF would not.
    OnlyNetfilter,
    /// eBPF would translate it, netfilter did not.
    OnlyEbpf,
    /// eBPF would refuse it or drop it, netfilter let it pass.
    Refused,
    /// Netfilter chose an endpoint that eBPF would not choose.
    Endpoint,
    /// The endpoint sees the client in one and the node in the other.
    Masquerade,
    /// They differ, but the table changed a moment ago: nobody knows which one netfilter had.
    Unsure,
}

impl Finding {
    /// All of them, in the order of [`super::Counts`].
    pub const ALL: [Self; 8] = [
        Self::Agrees,
        Self::NotAService,
        Self::OnlyNetfilter,
        Self::OnlyEbpf,
        Self::Refused,
        Self::Endpoint,
        Self::Masquerade,
        Self::Unsure,
    ];

    /// As metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::NotAService => "not_a_service",
            Self::OnlyNetfilter => "only_netfilter",
            Self::OnlyEbpf => "only_ebpf",
            Self::Refused => "refused",
            Self::Endpoint => "endpoint",
            Self::Masquerade => "masquerade",
            Self::Unsure => "unsure",
        }
    }

    /// Whether somebody should look at it.
    pub const fn is_difference(self) -> bool {
        match self {
            Self::Agrees | Self::NotAService | Self::Unsure => false,
            Self::OnlyNetfilter
            | Self::OnlyEbpf
            | Self::Refused
            | Self::Endpoint
            | Self::Masquerade => true,
        }
    }
}

/// The first packet of a connection, as it came; nothing for protocols that services do not have.
pub fn packet(entry: &Entry, scope: Scope) -> Option<Packet> {
    let protocol = match entry.protocol {
        dataplane_common::TCP => Protocol::Tcp,
        dataplane_common::UDP => Protocol::Udp,
        dataplane_common::SCTP => Protocol::Sctp,
        _ => return None,
    };
    let (source, to) = (entry.original.source.ip(), entry.original.destination);
    Some(Packet { scope, source, destination: to.ip(), port: to.port(), protocol })
}

/// Whether frontends on every node address are at this packet's destination.
pub fn is_to_node(packet: &Packet, node: &Node) -> bool {
    let loopback = node.loopback && packet.scope == Scope::Host && packet.destination.is_loopback();
    loopback || node.node_port_addresses.contains(&packet.destination)
}

/// What eBPF would do with the packet, and what became of it.
pub fn compare(route: &Route, entry: &Entry, packet: &Packet, node: &Node) -> Finding {
    let seen = entry.reply.destination.ip();
    let to = entry.reply.source;
    match route {
        Route::NotAService if is_translated(entry) => Finding::OnlyNetfilter,
        Route::NotAService => Finding::NotAService,
        Route::Refused | Route::Dropped(_) => Finding::Refused,
        Route::To { endpoints, .. } => match endpoints.get(&to) {
            None if is_translated(entry) => Finding::Endpoint,
            None => Finding::OnlyEbpf,
            Some(replaced) => {
                // A socket of the host has one of the node's addresses anyway; which one it is the
                // route decides.
                let same = if packet.scope == Scope::Host {
                    !replaced || seen.is_loopback() || node.addresses.contains(&seen)
                } else {
                    *replaced == (seen != packet.source)
                };
                if same { Finding::Agrees } else { Finding::Masquerade }
            }
        },
    }
}

fn is_translated(entry: &Entry) -> bool {
    entry.endpoint().is_some() || entry.status & status::DESTINATION_NAT != 0
}
