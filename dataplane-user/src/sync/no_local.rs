//! Service ports that drop packets since their traffic policy is `Local` and this node has no
//! endpoint (kube-proxy's `sync_proxy_rules_no_local_endpoints_total`).

use std::{cell::RefCell, collections::BTreeSet};

use crate::{
    backend::Desired,
    model::{FrontendKind, PortKey, PortState, TrafficPolicy, Views},
};

/// How many service ports drop, by the policy that makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocal {
    /// By `internalTrafficPolicy`.
    pub internal: usize,
    /// By `externalTrafficPolicy`.
    pub external: usize,
}

/// Which service ports those are. Costs O(change), and memory for those that drop.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    internal: BTreeSet<PortKey>,
    external: BTreeSet<PortKey>,
}

impl Tracker {
    /// How many there are.
    pub(super) fn count(&self) -> NoLocal {
        NoLocal { internal: self.internal.len(), external: self.external.len() }
    }

    /// Takes in one service port; `None` when it is gone.
    pub(super) fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        let (internal, external) = state.map_or((false, false), drops);
        put(&mut self.internal, key, internal);
        put(&mut self.external, key, external);
    }
}

fn put(ports: &mut BTreeSet<PortKey>, key: &PortKey, is_there: bool) {
    if is_there {
        ports.insert(key.clone());
    } else {
        ports.remove(key);
    }
}

/// Whether packets to cluster IPs and packets from outside to other frontends are dropped.
fn drops(state: &PortState) -> (bool, bool) {
    let is_local = |views| matches!(views, Views::Both | Views::Local);
    if !state.any_endpoint || state.endpoints.iter().any(|it| is_local(it.views)) {
        return (false, false);
    }
    let has = |is_internal: bool| {
        state.frontends.iter().any(|frontend| match frontend.kind {
            FrontendKind::ClusterIp => is_internal,
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
                !is_internal
            }
            FrontendKind::HostPort => false,
        })
    };
    let of = |policy, is_internal| policy == TrafficPolicy::Local && has(is_internal);
    (of(state.internal, true), of(state.external, false))
}

/// A table whose service ports are taken in as somebody reads them.
pub(super) struct Watched<'a> {
    pub(super) table: &'a dyn Desired,
    pub(super) tracker: RefCell<&'a mut Tracker>,
}

impl Desired for Watched<'_> {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        self.table.keys()
    }

    fn port(&self, key: &PortKey) -> Option<PortState> {
        let state = self.table.port(key);
        self.tracker.borrow_mut().change(key, state.as_ref());
        state
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{
        Endpoint, Family, Frontend, FrontendAddress, Placement, PortOwner, Protocol,
    };

    fn key(name: &str) -> PortKey {
        let (namespace, service, port) = ("shop".into(), name.into(), "http".into());
        PortKey { namespace, service, port, family: Family::V4, owner: PortOwner::Service }
    }

    fn state(policies: [TrafficPolicy; 2], views: Option<Views>) -> PortState {
        let frontend = |address, port, kind| {
            let protocol = Protocol::Tcp;
            Frontend { address, port, protocol, kind }
        };
        let ip = FrontendAddress::Ip([10, 96, 0, 1].into());
        let endpoint = |views| Endpoint {
            address: [10, 244, 0, 1].into(),
            port: 8080,
            placement: Placement::Remote,
            views,
        };
        PortState {
            frontends: vec![
                frontend(ip, 80, FrontendKind::ClusterIp),
                frontend(FrontendAddress::NodeAddresses, 30_000, FrontendKind::NodePort),
            ],
            endpoints: views.map(endpoint).into_iter().collect(),
            internal: policies[0],
            external: policies[1],
            any_endpoint: views.is_some(),
            ..PortState::default()
        }
    }

    #[test]
    fn a_policy_counts_where_only_other_nodes_have_endpoints() {
        use TrafficPolicy::{Cluster, Local};
        let (elsewhere, here) = (Some(Views::Cluster), Some(Views::Both));
        let ports = BTreeMap::from([
            (key("both"), state([Local, Local], elsewhere)),
            (key("external"), state([Cluster, Local], elsewhere)),
            (key("cluster"), state([Cluster, Cluster], elsewhere)),
            (key("here"), state([Local, Local], here)),
            // Without endpoints anywhere packets are refused, whatever the policy.
            (key("nowhere"), state([Local, Local], None)),
        ]);
        let mut tracker = Tracker::default();
        let watched = Watched { table: &ports, tracker: RefCell::new(&mut tracker) };
        for key in watched.keys() {
            assert_eq!(watched.port(&key).as_ref(), ports.get(&key));
        }
        assert_eq!(tracker.count(), NoLocal { internal: 1, external: 2 });
        tracker.change(&key("both"), Some(&state([Local, Local], here)));
        tracker.change(&key("external"), None);
        assert_eq!(tracker.count(), NoLocal::default());
    }
}
