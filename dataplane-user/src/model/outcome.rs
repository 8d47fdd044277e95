//! What can be seen of a route from outside: the words in which backends are compared with it.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    route::{DropCause, Masquerade, Packet, Route, Scope},
    types::Placement,
};

/// Where the first packet of a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Left alone.
    NotOurs,
    /// Refused at once.
    Refused,
    /// Not answered at all.
    Dropped(DropCause),
    /// To one of these, each as likely as the others.
    To {
        /// The endpoints that may be chosen, and whether they see another source than the client.
        /// Processes of the host reach all but the host's own endpoints from an address of the node.
        endpoints: BTreeMap<SocketAddr, bool>,
        /// Seconds for which the client stays with its endpoint.
        affinity_s: Option<u32>,
    },
}

impl Outcome {
    /// What a route means for this packet.
    pub fn of(route: Route, packet: &Packet) -> Self {
        match route {
            Route::NotOurs => Self::NotOurs,
            Route::Refused => Self::Refused,
            Route::Dropped(cause) => Self::Dropped(cause),
            Route::OneOf { endpoints, masquerade, affinity_s } => {
                let endpoints = endpoints.into_iter().map(|of| {
                    let asked = packet.scope == Scope::Host
                        || match masquerade {
                            Masquerade::Always => true,
                            Masquerade::Hairpin => of.address == packet.source,
                        };
                    let replaced = asked && of.placement != Placement::Host;
                    (SocketAddr::new(of.address, of.port), replaced)
                });
                Self::To { endpoints: endpoints.collect(), affinity_s }
            }
        }
    }
}
