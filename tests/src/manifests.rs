//! Services, their `EndpointSlices` and Pods as YAML in the folder that the daemons watch.

mod endpoint;
mod folder;
mod node;
mod pod;
mod service;

pub use endpoint::Endpoint;
pub use folder::{ManifestFolder, Written};
pub use node::write_zone;
pub use pod::HostPorts;
pub use service::Service;

use crate::agent::protocol::Transport;

/// The protocol's name in Kubernetes.
pub(crate) const fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
        Transport::Sctp => "SCTP",
    }
}
