//! Service ports that drop packets since their traffic policy is `Local` and this node has no
//! endpoint (kube-proxy's `sync_proxy_rules_no_local_endpoints_total`).

use std::collections::BTreeSet;

use dataplane_common::{Frontend, FrontendKey, FrontendKind, names};

use crate::ebpf::maps::{MapError, MapWriter};

/// How many service ports of the live maps drop, by the policy that makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NoLocal {
    /// By `internalTrafficPolicy`.
    pub(super) internal: usize,
    /// By `externalTrafficPolicy`.
    pub(super) external: usize,
}

/// Counts in both families.
pub(super) fn count(maps: &mut impl MapWriter) -> Result<NoLocal, MapError> {
    let (mut internal, mut external) = (BTreeSet::new(), BTreeSet::new());
    let v4 = maps.entries::<FrontendKey<4>, Frontend>(names::FRONTENDS4)?;
    let v6 = maps.entries::<FrontendKey<16>, Frontend>(names::FRONTENDS6)?;
    let values =
        v4.into_iter().map(|(_, value)| value).chain(v6.into_iter().map(|(_, value)| value));
    for frontend in values {
        let is_internal = match frontend.kind() {
            Some(FrontendKind::ClusterIp) => true,
            Some(
                FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp,
            ) => false,
            Some(FrontendKind::HostPort) | None => continue,
        };
        // Clients from outside have the view of the policy in both cases.
        let drops = Frontend::LOCAL_OUTSIDE | Frontend::DROP_OUTSIDE;
        if frontend.flags & drops == drops && frontend.outside.count == 0 {
            let ports = if is_internal { &mut internal } else { &mut external };
            ports.insert(frontend.service);
        }
    }
    Ok(NoLocal { internal: internal.len(), external: external.len() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        ebpf::{Limits, Program, fake::FakeMaps},
        model::{
            Endpoint, Family, Frontend as Wanted, FrontendAddress, FrontendKind as Kind, Placement,
            PortKey, PortOwner, PortState, Protocol, TrafficPolicy, Views,
        },
    };

    fn key(name: &str) -> PortKey {
        let (namespace, service, port) = ("shop".into(), name.into(), "http".into());
        PortKey { namespace, service, port, family: Family::V4, owner: PortOwner::Service }
    }

    fn state(number: u8, policies: [TrafficPolicy; 2], views: Option<Views>) -> PortState {
        let frontend =
            |address, port, kind| Wanted { address, port, protocol: Protocol::Tcp, kind };
        let ip = FrontendAddress::Ip([10, 96, 0, number].into());
        let endpoint = |views| Endpoint {
            address: [10, 244, 0, number].into(),
            port: 8080,
            placement: Placement::Remote,
            views,
        };
        PortState {
            frontends: vec![
                frontend(ip, 80, Kind::ClusterIp),
                frontend(
                    FrontendAddress::NodeAddresses,
                    30_000 + u16::from(number),
                    Kind::NodePort,
                ),
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
            (key("both"), state(1, [Local, Local], elsewhere)),
            (key("external"), state(2, [Cluster, Local], elsewhere)),
            (key("cluster"), state(3, [Cluster, Cluster], elsewhere)),
            (key("here"), state(4, [Local, Local], here)),
            // Without endpoints anywhere packets are refused, whatever the policy.
            (key("nowhere"), state(5, [Local, Local], None)),
        ]);
        let mut maps = FakeMaps { fail_one_in: 0, ..FakeMaps::new(Limits::default()) };
        let mut program = Program::new(Limits::default());
        program.compile(&ports);
        program.apply(&mut maps, 0).unwrap();
        assert_eq!(count(&mut maps).unwrap(), NoLocal { internal: 1, external: 2 });
    }
}
