//! Services by number, without objects.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortOwner,
    PortState, Protocol, Views,
};

/// The only port of a service.
pub(super) fn port(of: u8) -> PortKey {
    PortKey {
        namespace: "n".into(),
        service: format!("s{of}").into(),
        port: "p".into(),
        family: Family::V4,
        owner: PortOwner::Service,
    }
}

/// A cluster IP and a node port with so many endpoints.
pub(super) fn service(of: u8, endpoints: u8) -> PortState {
    let frontend = |address, port, kind| Frontend { address, port, protocol: Protocol::Tcp, kind };
    let cluster_ip = FrontendAddress::Ip(IpAddr::V4(Ipv4Addr::new(10, 96, 0, of)));
    let endpoint = |at| Endpoint {
        address: IpAddr::V4(Ipv4Addr::new(10, 1, of, at)),
        port: 8080,
        placement: Placement::Local,
        views: Views::Both,
    };
    PortState {
        frontends: vec![
            frontend(cluster_ip, 80, FrontendKind::ClusterIp),
            frontend(FrontendAddress::NodeAddresses, 30000 + u16::from(of), FrontendKind::NodePort),
        ],
        endpoints: (1..=endpoints).map(endpoint).collect(),
        any_endpoint: true,
        ..PortState::default()
    }
}
