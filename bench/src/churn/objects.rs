//! Kubernetes objects of a cluster of any size, as an API server would send them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_user::model::ObjectEvent;
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

/// Namespaces that services are spread over.
const NAMESPACES: u32 = 100;
/// Nodes that pods are spread over; the first is the one we measure for.
const NODES: u32 = 100;
/// The service port.
pub(super) const PORT: u16 = 80;
/// Where cluster addresses, pod addresses and addresses of replaced pods begin.
const CLUSTER_IPS: u32 = u32::from_be_bytes([10, 0, 0, 1]);
const POD_IPS: u32 = u32::from_be_bytes([10, 128, 0, 1]);
const LATER_POD_IPS: u32 = u32::from_be_bytes([172, 16, 0, 1]);

/// Name of the node we measure for.
pub(super) const NODE: &str = "node-0";

/// The cluster address of a service.
pub(super) fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(CLUSTER_IPS + service)
}

/// The address of the pod that takes over in the change with this number.
pub(super) fn later_pod_ip(change: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(LATER_POD_IPS + change)
}

/// A Service with one TCP port.
pub(super) fn service(number: u32) -> ObjectEvent {
    let address = cluster_ip(number).to_string();
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: i32::from(PORT),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String("http".to_owned())),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some(address.clone()),
        cluster_ips: Some(vec![address]),
        internal_traffic_policy: Some("Cluster".to_owned()),
        ip_families: Some(vec!["IPv4".to_owned()]),
        ip_family_policy: Some("SingleStack".to_owned()),
        ports: Some(vec![port]),
        selector: Some(labels("app", &name(number))),
        session_affinity: Some("None".to_owned()),
        type_: Some("ClusterIP".to_owned()),
        ..ServiceSpec::default()
    };
    let metadata = metadata(number, name(number), labels("app", &name(number)));
    let object = Service { metadata, spec: Some(spec), status: None };
    ObjectEvent::Service { object: Box::new(object), file: None }
}

/// The slice of a Service. With `change` the first of its pods has been replaced by another.
pub(super) fn slice(number: u32, endpoints: u32, change: Option<u32>) -> ObjectEvent {
    let mut pods: Vec<Endpoint> = (0..endpoints)
        .map(|at| number * endpoints + at)
        .map(|pod| endpoint(number, pod, Ipv4Addr::from_bits(POD_IPS + pod)))
        .collect();
    if let (Some(change), Some(first)) = (change, pods.first_mut()) {
        first.addresses = vec![later_pod_ip(change).to_string()];
    }
    let port = EndpointPort {
        name: Some("http".to_owned()),
        port: Some(8080),
        protocol: Some("TCP".to_owned()),
        app_protocol: None,
    };
    let labels = labels("kubernetes.io/service-name", &name(number));
    let object = EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: Some(pods),
        metadata: metadata(number, format!("{}-{:05x}", name(number), number % 0x10_0000), labels),
        ports: Some(vec![port]),
    };
    ObjectEvent::EndpointSlice { object: Box::new(object), file: None }
}

fn endpoint(service: u32, pod: u32, address: Ipv4Addr) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: Some(format!("node-{}", pod % NODES)),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(format!("{}-{pod:x}", name(service))),
            namespace: Some(namespace(service)),
            ..ObjectReference::default()
        }),
        zone: Some("zone-a".to_owned()),
        ..Endpoint::default()
    }
}

fn metadata(number: u32, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace(number)),
        labels: Some(labels),
        resource_version: Some((100_000 + number).to_string()),
        uid: Some(format!("0f1c7d5e-7a43-4c0b-9e52-{number:012x}")),
        ..ObjectMeta::default()
    }
}

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

fn namespace(number: u32) -> String {
    format!("team-{:02}", number % NAMESPACES)
}
