//! Objects from YAML, and a table as text.

use std::fmt::Write as _;

use dataplane_user::model::{
    FrontendAddress, Kind, NodeIdentity, ObjectEvent, ObjectName, ObjectRef, Placement,
    ServiceTable,
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

pub(crate) fn node() -> NodeIdentity {
    NodeIdentity::new("here", ["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()])
}

/// The objects of a multi-document YAML text, as a source tells them.
pub(crate) fn objects(yaml: &str) -> Vec<ObjectEvent> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).unwrap();
    documents
        .into_iter()
        .map(|document| match document["kind"].as_str() {
            Some("Service") => service(serde_json::from_value(document).unwrap()),
            Some("EndpointSlice") => slice(serde_json::from_value(document).unwrap()),
            kind => panic!("a scenario has no use for kind {kind:?}"),
        })
        .collect()
}

pub(crate) fn service(object: Service) -> ObjectEvent {
    ObjectEvent::Service { object: Box::new(object), file: None }
}

pub(crate) fn slice(object: EndpointSlice) -> ObjectEvent {
    ObjectEvent::EndpointSlice { object: Box::new(object), file: None }
}

pub(crate) fn gone(kind: Kind, namespace: &str, name: &str) -> ObjectEvent {
    ObjectEvent::Gone(ObjectRef { kind, name: ObjectName::new(namespace, name) })
}

/// Service ports, then problems.
pub(crate) fn dump(table: &ServiceTable) -> String {
    let mut text = String::new();
    for key in table.keys() {
        let state = table.port(&key).expect("a key that is listed has a state");
        let family = format!("{:?}", key.family).to_lowercase();
        writeln!(text, "{}/{}:{} {family}", key.namespace, key.service, key.port).unwrap();
        for frontend in &state.frontends {
            let address = match frontend.address {
                FrontendAddress::Ip(address) => host(address),
                FrontendAddress::NodeAddresses => "node".into(),
            };
            writeln!(text, "  at {address}:{}/{}", frontend.port, frontend.protocol).unwrap();
        }
        for endpoint in &state.endpoints {
            let placement = match endpoint.placement {
                Placement::Host => "host",
                Placement::Local => "local",
                Placement::Remote => "remote",
            };
            writeln!(text, "  to {}:{} {placement}", host(endpoint.address), endpoint.port)
                .unwrap();
        }
        if state.endpoints.is_empty() {
            text.push_str("  refuses\n");
        }
    }
    for problem in table.problems() {
        writeln!(text, "problem: {problem}").unwrap();
    }
    text
}

fn host(address: std::net::IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}
