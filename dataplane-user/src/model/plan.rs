//! What a service port's state asks for, client by client: the same for every backend that writes rules.

use super::{
    route::{Masquerade, Scope},
    types::{Endpoint, FrontendKind, PortState, TrafficPolicy, Views},
};

/// What the clients of one scope get of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Served {
    /// Any endpoint of this view, which has some: [`PortState::view`].
    By(TrafficPolicy),
    /// A refusal at once.
    Refused,
    /// Silence: another node has endpoints.
    Dropped,
}

/// What the clients of one scope get of a frontend, and whether their address is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clients {
    /// Who serves them.
    pub served: Served,
    /// Whether the source is replaced whatever endpoint is chosen. A client that is its own
    /// endpoint always gets another source, one whose endpoint has the node's address never.
    pub masquerade: bool,
}

impl PortState {
    /// The endpoints that clients of this policy get, sorted.
    pub fn view(&self, policy: TrafficPolicy) -> impl Iterator<Item = &Endpoint> {
        let not = match policy {
            TrafficPolicy::Cluster => Views::Local,
            TrafficPolicy::Local => Views::Cluster,
        };
        self.endpoints.iter().filter(move |endpoint| endpoint.views != not)
    }

    /// What clients of `scope` get of a frontend of this kind. Source ranges come before this: they
    /// hold for [`FrontendKind::LoadBalancer`] in all scopes.
    pub fn clients(&self, kind: FrontendKind, scope: Scope) -> Clients {
        let is_outside = scope == Scope::Outside;
        let policy = match kind {
            FrontendKind::ClusterIp => self.internal,
            FrontendKind::HostPort => TrafficPolicy::Cluster,
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
                if is_outside {
                    self.external
                } else {
                    TrafficPolicy::Cluster
                }
            }
        };
        let keeps_source = match kind {
            FrontendKind::HostPort => true,
            FrontendKind::ClusterIp => scope == Scope::Pod,
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
                scope != Scope::Host && self.external == TrafficPolicy::Local
            }
        };
        let served = if self.view(policy).next().is_some() {
            Served::By(policy)
        } else if policy == TrafficPolicy::Local && self.any_endpoint {
            Served::Dropped
        } else {
            Served::Refused
        };
        Clients { served, masquerade: !keeps_source }
    }
}

impl Clients {
    /// In the words of [`super::Route`].
    pub fn masquerade(self) -> Masquerade {
        if self.masquerade { Masquerade::Always } else { Masquerade::Hairpin }
    }
}
