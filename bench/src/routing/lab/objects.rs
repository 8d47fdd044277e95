//! Services and slices of the lab: how many there are does not change what one of them is.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use dataplane_user::model::{Kind, ObjectEvent};
use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

/// The port of services for both protocols.
pub const PORT: u16 = 80;
/// The port of endpoints.
pub const TARGET_PORT: u16 = 8080;
/// The node port of the service in the middle, for datagrams.
pub const NODE_PORT: u16 = 30_001;
/// Name of the node under test.
pub const NODE: &str = "node-0";
const NAMESPACE: &str = "bench";

/// How many services there are, with how many endpoints each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
}

impl Size {
    /// The number of the service in the middle.
    pub const fn middle(self) -> u32 {
        self.services / 2
    }

    /// The number of the last service.
    pub const fn last(self) -> u32 {
        self.services.saturating_sub(1)
    }

    /// Whether a service has both families and datagrams: those that are asked for do.
    const fn is_probed(self, number: u32) -> bool {
        number == 0 || number == self.middle() || number == self.last()
    }

    /// Everything a source with these services tells.
    pub fn events(self) -> impl Iterator<Item = ObjectEvent> {
        let begin = |kind| std::iter::once(ObjectEvent::ListBegin(kind));
        let end = |kind| std::iter::once(ObjectEvent::ListEnd(kind));
        begin(Kind::Service)
            .chain((0..self.services).map(move |number| self.service(number)))
            .chain(end(Kind::Service))
            .chain(begin(Kind::EndpointSlice))
            .chain((0..self.services).flat_map(move |number| self.slices(number, 0)))
            .chain(end(Kind::EndpointSlice))
            .chain(std::iter::once(ObjectEvent::Synced))
    }

    fn service(self, number: u32) -> ObjectEvent {
        let probed = self.is_probed(number);
        let port = |name: &str, protocol: &str, node_port: Option<u16>| ServicePort {
            name: Some(name.to_owned()),
            port: i32::from(PORT),
            protocol: Some(protocol.to_owned()),
            target_port: Some(IntOrString::Int(i32::from(TARGET_PORT))),
            node_port: node_port.map(i32::from),
            ..ServicePort::default()
        };
        let exposed = number == self.middle();
        let mut ports = vec![port("tcp", "TCP", exposed.then_some(NODE_PORT - 1))];
        let mut addresses = vec![cluster_ip(number).to_string()];
        let mut families = vec!["IPv4".to_owned()];
        if probed {
            ports.push(port("udp", "UDP", exposed.then_some(NODE_PORT)));
            addresses.push(cluster_ip6(number).to_string());
            families.push("IPv6".to_owned());
        }
        let policy = if probed { "PreferDualStack" } else { "SingleStack" };
        let spec = ServiceSpec {
            cluster_ip: addresses.first().cloned(),
            cluster_ips: Some(addresses),
            external_traffic_policy: exposed.then(|| "Cluster".to_owned()),
            internal_traffic_policy: Some("Cluster".to_owned()),
            ip_families: Some(families),
            ip_family_policy: Some(policy.to_owned()),
            ports: Some(ports),
            selector: Some(BTreeMap::from([("app".to_owned(), name(number))])),
            session_affinity: Some("None".to_owned()),
            type_: Some(if exposed { "NodePort" } else { "ClusterIP" }.to_owned()),
            ..ServiceSpec::default()
        };
        let metadata = metadata(number, name(number), BTreeMap::new());
        let object = Service { metadata, spec: Some(spec), status: None };
        ObjectEvent::Service { object: Box::new(object), file: None }
    }

    /// The slices of a service whose pods are all on this host, 0 or 1.
    pub fn slices(self, number: u32, host: u32) -> Vec<ObjectEvent> {
        let mut slices = vec![self.slice(number, host, false)];
        if self.is_probed(number) {
            slices.push(self.slice(number, host, true));
        }
        slices
    }

    fn slice(self, number: u32, host: u32, ipv6: bool) -> ObjectEvent {
        let probed = self.is_probed(number);
        let port = |name: &str, protocol: &str| EndpointPort {
            name: Some(name.to_owned()),
            port: Some(i32::from(TARGET_PORT)),
            protocol: Some(protocol.to_owned()),
            app_protocol: None,
        };
        let mut ports = vec![port("tcp", "TCP")];
        if probed {
            ports.push(port("udp", "UDP"));
        }
        let endpoints = (0..self.endpoints)
            .map(|at| number * self.endpoints + at)
            .map(|pod| if ipv6 { pod_ip6(host, pod).into() } else { pod_ip(host, pod).into() });
        let labels = BTreeMap::from([("kubernetes.io/service-name".to_owned(), name(number))]);
        let family = if ipv6 { "6" } else { "4" };
        let object = EndpointSlice {
            address_type: format!("IPv{family}"),
            endpoints: Some(endpoints.map(|ip| endpoint(host, ip)).collect()),
            metadata: metadata(number, format!("{}-{family}", name(number)), labels),
            ports: Some(ports),
        };
        ObjectEvent::EndpointSlice { object: Box::new(object), file: None }
    }

    /// Where clients find a service.
    pub fn frontend(self, number: u32, ipv6: bool) -> SocketAddr {
        if ipv6 { (cluster_ip6(number), PORT).into() } else { (cluster_ip(number), PORT).into() }
    }

    /// One of the pods of a service.
    pub fn endpoint(self, number: u32, at: u32, ipv6: bool) -> SocketAddr {
        let pod = number * self.endpoints + at % self.endpoints;
        if ipv6 {
            (pod_ip6(0, pod), TARGET_PORT).into()
        } else {
            (pod_ip(0, pod), TARGET_PORT).into()
        }
    }
}

fn endpoint(host: u32, address: IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: Some(format!("node-{}", host + 1)),
        ..Endpoint::default()
    }
}

fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([10, 0, 0, 1]) + number)
}

fn cluster_ip6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits((0xfd96_u128 << 112) + 1 + u128::from(number))
}

fn pod_ip(host: u32, pod: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([10, 128, 0, 1]) + (host << 22) + pod)
}

fn pod_ip6(host: u32, pod: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits((u128::from(0xfd80 + host) << 112) + 1 + u128::from(pod))
}

fn metadata(number: u32, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels),
        resource_version: Some((100_000 + number).to_string()),
        uid: Some(format!("0f1c7d5e-7a43-4c0b-9e52-{number:012x}")),
        ..ObjectMeta::default()
    }
}

fn name(number: u32) -> String {
    format!("service-{number:06}")
}
