//! What the live maps say, for people and programs.
//!
//! The field names of every row are stable: they are what `-o json` prints.

mod blocks;
pub mod desired;
pub mod doctor;
pub mod flows;
pub mod read;
pub mod status;
pub mod table;

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use dataplane_common::Live;
pub use status::Status;

/// Which port of which Service a number in the maps stands for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceName {
    /// The number in frontends and flows.
    pub number: u32,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Name of the port; empty for the only one.
    pub port: String,
}

/// One of a few words.
pub type Word = Cow<'static, str>;

/// Names by number; empty where no daemon runs that could tell.
pub type Names = BTreeMap<u32, ServiceName>;

/// `namespace/service:port`, or `#number` for one that nobody names.
pub fn display_name(names: &Names, number: u32) -> String {
    match names.get(&number) {
        None => format!("#{number}"),
        Some(name) if name.port.is_empty() => format!("{}/{}", name.namespace, name.service),
        Some(name) => format!("{}/{}:{}", name.namespace, name.service, name.port),
    }
}

/// One frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct FrontendRow {
    /// `namespace/service:port`, or `#number`.
    pub service: String,
    /// The number of the service port.
    pub number: u32,
    /// The address; none stands for every address of the node.
    pub address: Option<IpAddr>,
    /// `4` or `6`.
    pub family: u8,
    /// The port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIP` or `HostPort`.
    pub kind: Word,
    /// Endpoints that take new flows from anybody.
    pub endpoints: u32,
    /// Those of them that are on this node.
    pub local: u32,
    /// What clients on this node get: its pods and its own processes.
    pub inside: Clients,
    /// What all other clients get.
    pub outside: Clients,
    /// Seconds for which a client stays with its endpoint after its last new flow.
    pub affinity_s: Option<u32>,
    /// The clients that are served, as address and prefix length; none means all of them.
    pub source_ranges: Option<Vec<String>>,
}

/// What some of a frontend's clients get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Clients {
    /// The traffic policy whose view they get: `Cluster` or `Local`.
    pub policy: Word,
    /// Endpoints that take new flows from them.
    pub endpoints: u32,
    /// What becomes of their packets: `served`, or without an endpoint `refused` or `dropped`.
    pub outcome: Word,
    /// Whether their source becomes the node's address.
    pub masquerade: bool,
}

/// One endpoint of one service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct EndpointRow {
    /// `namespace/service:port`, or `#number`.
    pub service: String,
    /// The number of the service port.
    pub number: u32,
    /// The address.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `local`, `host` or `remote`.
    pub placement: Word,
    /// Its identity, as in flows.
    pub id: u32,
    /// Whether it takes new flows.
    pub live: bool,
    /// The traffic policies in whose view it does: `Cluster`, `Local`.
    pub views: Vec<Word>,
}

/// One flow, seen from the client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct FlowRow {
    /// `namespace/service:port`, or `#number`.
    pub service: String,
    /// The number of the service port.
    pub number: u32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The frontend's address.
    pub frontend: IpAddr,
    /// The frontend's port.
    pub frontend_port: u16,
    /// The endpoint's address.
    pub endpoint: IpAddr,
    /// The endpoint's port.
    pub endpoint_port: u16,
    /// The address the endpoint sees as the client's.
    pub source: IpAddr,
    /// The port the endpoint sees as the client's.
    pub source_port: u16,
    /// `new`, `established`, `closing` or `closed`.
    pub state: Word,
    /// Seconds since the last packet of this direction, where that is known.
    pub idle_s: Option<u32>,
    /// The traffic policies in whose view the endpoint was chosen: `Cluster`, `Local`.
    pub views: Vec<Word>,
    /// Whether the client had the endpoint by session affinity.
    pub affinity: bool,
    /// Whether the endpoint sees the node's address in place of the client's: `no`, `yes`, or
    /// `hairpin` where the client is the endpoint itself.
    pub masquerade: Word,
    /// Whether packets are sent on by route, past the node's stack.
    pub forwarded: bool,
}

/// `TCP`, `UDP`, `SCTP`, or the number.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        dataplane_common::TCP => "TCP".to_owned(),
        dataplane_common::UDP => "UDP".to_owned(),
        dataplane_common::SCTP => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// The traffic policies of some views: bits of [`dataplane_common::Live`].
fn policies(views: u32) -> Vec<Word> {
    let all = [(Live::CLUSTER, "Cluster"), (Live::LOCAL, "Local")];
    all.into_iter().filter(|(bit, _)| views & bit != 0).map(|(_, name)| Word::from(name)).collect()
}

/// The address of 4 or 16 bytes.
fn ip<const N: usize>(addr: [u8; N]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(addr.as_slice()) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(addr.as_slice()).ok().map(IpAddr::from)
}
