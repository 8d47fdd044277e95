//! Objects from YAML, and a table as text.

use std::fmt::Write as _;

use dataplane_user::model::{
    Cidr, FrontendAddress, FrontendKind, Kind, NodeIdentity, ObjectEvent, ObjectName, ObjectRef,
    Packet, Placement, PortOwner, PortState, Protocol, Route, Scope, ServiceTable, TrafficPolicy,
    Views, route,
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
            Some("Pod") => {
                let object = serde_json::from_value(document).unwrap();
                ObjectEvent::Pod { object: Box::new(object), file: None }
            }
            Some("Node") => {
                let object = serde_json::from_value(document).unwrap();
                ObjectEvent::Node { object: Box::new(object), file: None }
            }
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

/// A table of these objects, in this order.
pub(crate) fn table(yaml: &str) -> ServiceTable {
    let mut table = ServiceTable::new(node());
    for event in objects(yaml) {
        table.apply(event);
    }
    table
}

/// What is wrong with the objects of a table.
pub(crate) fn problems(table: &ServiceTable) -> Vec<String> {
    table.problems().iter().map(ToString::to_string).collect()
}

/// What becomes of a TCP flow from a client that every scope may have.
pub(crate) fn ask(table: &ServiceTable, scope: Scope, destination: &str, port: u16) -> Route {
    let source = match (scope, destination.contains(':')) {
        (Scope::Pod, false) => "10.1.0.9",
        (Scope::Pod, true) => "fd01::9",
        (Scope::Host, false) => "192.0.2.10",
        (Scope::Host, true) => "2001:db8::10",
        (Scope::Outside, false) => "198.51.100.1",
        (Scope::Outside, true) => "2001:db8:f::1",
    };
    ask_from(table, scope, source, destination, port)
}

/// What becomes of a TCP flow.
pub(crate) fn ask_from(
    table: &ServiceTable,
    scope: Scope,
    source: &str,
    destination: &str,
    port: u16,
) -> Route {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    route(table, &Packet { scope, source, destination, port, protocol: Protocol::Tcp })
}

/// The endpoints of a route, as text.
pub(crate) fn targets(route: &Route) -> Vec<String> {
    match route {
        Route::OneOf { endpoints, .. } => {
            endpoints.iter().map(|it| format!("{}:{}", host(it.address), it.port)).collect()
        }
        Route::NotOurs | Route::Refused | Route::Dropped(_) => panic!("leads nowhere: {route:?}"),
    }
}

/// Service ports, then problems.
pub(crate) fn dump(table: &ServiceTable) -> String {
    let mut text = String::new();
    for key in table.keys() {
        let state = table.port(&key).expect("a key that is listed has a state");
        let family = format!("{:?}", key.family).to_lowercase();
        let owner = match key.owner {
            PortOwner::Service => "",
            PortOwner::Pod => " of a pod",
        };
        writeln!(text, "{}/{}:{} {family}{owner}", key.namespace, key.service, key.port).unwrap();
        rules(&mut text, &state);
        for frontend in &state.frontends {
            let address = match frontend.address {
                FrontendAddress::Ip(address) => host(address),
                FrontendAddress::NodeAddresses => "node".into(),
            };
            let kind = match frontend.kind {
                FrontendKind::ClusterIp | FrontendKind::NodePort => "",
                FrontendKind::LoadBalancer => " load balancer",
                FrontendKind::ExternalIp => " external",
                FrontendKind::HostPort => " host port",
            };
            writeln!(text, "  at {address}:{}/{}{kind}", frontend.port, frontend.protocol).unwrap();
        }
        for endpoint in &state.endpoints {
            let placement = match endpoint.placement {
                Placement::Host => "host",
                Placement::Local => "local",
                Placement::Remote => "remote",
            };
            let views = match endpoint.views {
                Views::Cluster => "",
                Views::Both => ", also under policy Local",
                Views::Local => ", only under policy Local",
            };
            writeln!(text, "  to {}:{} {placement}{views}", host(endpoint.address), endpoint.port)
                .unwrap();
        }
        if state.endpoints.is_empty() {
            text.push_str(if state.any_endpoint { "  drops\n" } else { "  refuses\n" });
        }
    }
    for problem in table.problems() {
        writeln!(text, "problem: {problem}").unwrap();
    }
    text
}

/// What is not as it is for most Services.
fn rules(text: &mut String, state: &PortState) {
    if state.internal == TrafficPolicy::Local {
        text.push_str("  internal policy Local\n");
    }
    if state.external == TrafficPolicy::Local {
        text.push_str("  external policy Local\n");
    }
    if let Some(affinity_s) = state.affinity_s {
        writeln!(text, "  affinity {affinity_s} s").unwrap();
    }
    if let Some(ranges) = &state.source_ranges {
        let range = |range: &Cidr| format!(" {}/{}", range.address, range.prefix_len);
        let ranges: String = ranges.iter().map(range).collect();
        writeln!(
            text,
            "  load balancer for{}",
            if ranges.is_empty() { " nobody" } else { &ranges }
        )
        .unwrap();
    }
}

fn host(address: std::net::IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}
