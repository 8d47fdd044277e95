//! Reads a scenario file.

use std::net::{IpAddr, SocketAddr};

use dataplane_user::model::{
    Cidr, Kind, NodeIdentity, ObjectEvent, ObjectName, ObjectRef, Packet, Protocol, Scope,
};
use serde_json::Value;

/// What a file says.
pub(crate) struct Scenario {
    pub(crate) title: String,
    pub(crate) node: NodeIdentity,
    pub(crate) packets: Vec<Packet>,
    /// The first one is how it begins.
    pub(crate) steps: Vec<Step>,
}

/// A change of objects.
pub(crate) struct Step {
    pub(crate) title: String,
    pub(crate) events: Vec<ObjectEvent>,
}

/// The scenario in a multi-document YAML text.
pub(crate) fn read(yaml: &str) -> Scenario {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let (first, objects) = documents.split_first().unwrap();
    let scenario = &first["scenario"];
    let mut steps = vec![Step { title: String::new(), events: Vec::new() }];
    for document in objects {
        if let Some(title) = document["step"].as_str() {
            let gone = texts(&document["delete"]).map(|name| ObjectEvent::Gone(reference(name)));
            steps.push(Step { title: title.to_owned(), events: gone.collect() });
        } else {
            steps.last_mut().unwrap().events.push(object(document));
        }
    }
    let packets = scenario["packets"].as_array().unwrap().iter().map(packet).collect();
    Scenario { title: text(&scenario["title"]).to_owned(), node: node(scenario), packets, steps }
}

fn node(scenario: &Value) -> NodeIdentity {
    let node = &scenario["node"];
    let addresses = texts(&node["addresses"]).map(|address| address.parse().unwrap());
    let mut identity = NodeIdentity::new(text(&node["name"]), addresses);
    identity.zone = node["zone"].as_str().map(Into::into);
    identity.node_port_addresses =
        texts(&node["nodePortAddresses"]).map(|block| Cidr::parse(block).unwrap()).collect();
    identity
}

/// `{from: pod, source: 10.1.0.9, to: "10.96.0.1:80/TCP"}`.
fn packet(value: &Value) -> Packet {
    let (to, protocol) = text(&value["to"]).rsplit_once('/').unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let source: IpAddr = text(&value["source"]).parse().unwrap();
    Packet {
        scope: match text(&value["from"]) {
            "pod" => Scope::Pod,
            "host" => Scope::Host,
            "outside" => Scope::Outside,
            other => panic!("packets do not come from {other}"),
        },
        source,
        destination: to.ip(),
        port: to.port(),
        protocol: match protocol {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => panic!("{other} is no protocol of a Service"),
        },
    }
}

fn object(document: &Value) -> ObjectEvent {
    fn read<T: serde::de::DeserializeOwned>(document: &Value) -> T {
        serde_json::from_value(document.clone()).unwrap()
    }
    let file = None;
    match document["kind"].as_str() {
        Some("Service") => ObjectEvent::Service { object: Box::new(read(document)), file },
        Some("EndpointSlice") => {
            ObjectEvent::EndpointSlice { object: Box::new(read(document)), file }
        }
        Some("Pod") => ObjectEvent::Pod { object: Box::new(read(document)), file },
        Some("Node") => ObjectEvent::Node { object: Box::new(read(document)), file },
        kind => panic!("a scenario has no use for kind {kind:?}"),
    }
}

/// `Service default/web`.
fn reference(text: &str) -> ObjectRef {
    let (kind, name) = text.split_once(' ').unwrap();
    let (namespace, name) = name.split_once('/').unwrap();
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).unwrap();
    ObjectRef { kind, name: ObjectName::new(namespace, name) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().map(text)
}
