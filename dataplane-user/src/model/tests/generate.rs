//! Random objects of every kind, with every field that a table reads, and packets for them.
//!
//! Names, addresses and ports are few, so that they collide often.

mod objects;

use std::{collections::BTreeMap, net::IpAddr};

use proptest::{prelude::*, sample::select};
use serde_json::Value;

use self::objects::{node_object, pod, service, slice};

use crate::model::{
    Kind, NodeIdentity, ObjectEvent, ObjectName, ObjectRef, Packet, Protocol, Scope, ServiceTable,
};

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The object with this number is there, new or changed.
    Put(Kind, u8, Value),
    /// It is gone.
    Gone(Kind, u8),
    /// The source lists this kind again, and lost sight of one object.
    Relist(Kind),
    /// The node has its second addresses, or lost them.
    SecondAddresses(bool),
}

/// A table, and what its source would list.
#[derive(Debug)]
pub(crate) struct World {
    /// The table.
    pub(crate) table: ServiceTable,
    /// The last version of every object that is there.
    pub(crate) now: BTreeMap<(Kind, u8), Value>,
    /// Whether the node has its second addresses.
    pub(crate) second_addresses: bool,
}

impl World {
    /// An empty table of [`node`].
    pub(crate) fn new() -> Self {
        Self::of(node())
    }

    /// An empty table of another node.
    pub(crate) fn of(identity: NodeIdentity) -> Self {
        let table = ServiceTable::new(identity);
        Self { table, now: BTreeMap::new(), second_addresses: false }
    }

    /// After some steps.
    pub(crate) fn after(steps: &[Step]) -> Self {
        let mut world = Self::new();
        for step in steps {
            world.tell(step);
        }
        world
    }

    /// Tells the table one step.
    pub(crate) fn tell(&mut self, step: &Step) {
        match step {
            Step::Put(kind, number, object) => {
                self.now.insert((*kind, *number), object.clone());
                self.table.apply(event(*kind, object));
            }
            Step::Gone(kind, number) => {
                self.now.remove(&(*kind, *number));
                let name = name(*kind, *number);
                let namespace = if *kind == Kind::Node { "" } else { "n" };
                let name = ObjectName::new(namespace, &name);
                self.table.apply(ObjectEvent::Gone(ObjectRef { kind: *kind, name }));
            }
            Step::Relist(kind) => {
                let lost = self.now.keys().find(|(of, _)| of == kind).copied();
                lost.and_then(|key| self.now.remove(&key));
                self.table.apply(ObjectEvent::ListBegin(*kind));
                for (_, object) in self.now.iter().filter(|((of, _), _)| of == kind) {
                    self.table.apply(event(*kind, object));
                }
                self.table.apply(ObjectEvent::ListEnd(*kind));
            }
            Step::SecondAddresses(is_there) => {
                self.second_addresses = *is_there;
                self.table.set_addresses(node_addresses(*is_there));
            }
        }
    }
}

/// The node of every world: `here`, in zone `a` unless its object says otherwise.
pub(crate) fn node() -> NodeIdentity {
    let mut node = NodeIdentity::new("here", node_addresses(false));
    node.zone = Some("a".into());
    node
}

/// The addresses of the node.
pub(crate) fn node_addresses(with_second: bool) -> Vec<IpAddr> {
    let first = ["192.0.2.10", "2001:db8::10"];
    let second = ["192.0.2.11", "2001:db8::11"];
    let all = first.iter().chain(second.iter().filter(|_| with_second));
    all.map(|text| address(text)).collect()
}

/// An object as its source tells it.
pub(crate) fn event(kind: Kind, object: &Value) -> ObjectEvent {
    fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
        serde_json::from_value(object.clone()).unwrap()
    }
    match kind {
        Kind::Service => ObjectEvent::Service { object: Box::new(read(object)), file: None },
        Kind::EndpointSlice => {
            ObjectEvent::EndpointSlice { object: Box::new(read(object)), file: None }
        }
        Kind::Pod => ObjectEvent::Pod { object: Box::new(read(object)), file: None },
        Kind::Node => ObjectEvent::Node { object: Box::new(read(object)), file: None },
    }
}

/// One step. Histories of 1 to 40 of them reach most of what can be.
pub(crate) fn step() -> impl Strategy<Value = Step> {
    let kinds = || select(&Kind::ALL[..]);
    prop_oneof![
        6 => (0u8..4, service()).prop_map(|(of, object)| named(Kind::Service, of, object)),
        6 => (0u8..4, slice()).prop_map(|(of, object)| named(Kind::EndpointSlice, of, object)),
        2 => (0u8..2, pod()).prop_map(|(of, object)| named(Kind::Pod, of, object)),
        1 => (0u8..2, node_object()).prop_map(|(of, object)| named(Kind::Node, of, object)),
        1 => (kinds(), 0u8..4).prop_map(|(kind, of)| Step::Gone(kind, of)),
        1 => kinds().prop_map(Step::Relist),
        1 => any::<bool>().prop_map(Step::SecondAddresses),
    ]
}

/// Every packet that some step may make a frontend of, from a few clients in each scope, and some
/// that none can.
pub(crate) fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for is_v6 in [false, true] {
        for scope in [Scope::Pod, Scope::Host, Scope::Outside] {
            for (source, destination) in ends(scope, is_v6) {
                for port in [80, 81, 82, 8080, 30000, 30001, 30002] {
                    for protocol in PROTOCOLS {
                        packets.push(Packet { scope, source, destination, port, protocol });
                    }
                }
            }
        }
    }
    packets
}

fn ends(scope: Scope, is_v6: bool) -> Vec<(IpAddr, IpAddr)> {
    let mut destinations = Vec::new();
    destinations.extend((1..=4).map(|of| cluster_ip(of, is_v6)));
    destinations.extend((1..=4).map(|of| outer_ip(of, is_v6)));
    let node = node_addresses(true).into_iter().filter(|address| address.is_ipv6() == is_v6);
    destinations.extend(node.clone());
    let pods = [1, 2].map(|of| pod_ip(of, is_v6));
    let sources: Vec<IpAddr> = match scope {
        Scope::Pod => pods.into(),
        Scope::Host => {
            let loopback = if is_v6 { "::1" } else { "127.0.0.1" };
            destinations.push(address(loopback));
            // A node may have a load balancer's address and use it as its source.
            node.take(1).chain([outer_ip(1, is_v6)]).collect()
        }
        Scope::Outside => {
            let clients =
                if is_v6 { ["2001:db8:f::99", "fd01::105"] } else { ["198.51.100.99", "10.1.1.5"] };
            clients.iter().map(|text| address(text)).collect()
        }
    };
    let to = |source| destinations.iter().map(move |destination| (source, *destination));
    sources.into_iter().flat_map(to).collect()
}

/// Every protocol.
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Cluster IPs of Services; the fourth is nobody's.
fn cluster_ip(of: u8, is_v6: bool) -> IpAddr {
    address(&if is_v6 { format!("fd00::{of}") } else { format!("10.96.0.{of}") })
}

/// Addresses of load balancers and external IPs; the fourth is nobody's.
fn outer_ip(of: u8, is_v6: bool) -> IpAddr {
    address(&if is_v6 { format!("2001:db8:f::{of}") } else { format!("203.0.113.{of}") })
}

fn pod_ip(of: u8, is_v6: bool) -> IpAddr {
    address(&if is_v6 { format!("fd01::{of}") } else { format!("10.1.0.{of}") })
}

fn name(kind: Kind, number: u8) -> String {
    match kind {
        Kind::Service => format!("s{number}"),
        Kind::EndpointSlice => format!("e{number}"),
        Kind::Pod => format!("p{number}"),
        // A Node that is not this one says nothing.
        Kind::Node => if number == 0 { "here" } else { "elsewhere" }.to_owned(),
    }
}

fn named(kind: Kind, number: u8, mut object: Value) -> Step {
    object["metadata"]["name"] = name(kind, number).into();
    if kind != Kind::Node {
        object["metadata"]["namespace"] = "n".into();
    }
    Step::Put(kind, number, object)
}
