//! What is wrong with an object, and where.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{object::ObjectRef, types::Protocol};

/// Something in an object that the table cannot use. The rest of the object is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file the object came from, if it came from one.
    pub file: Option<Arc<str>>,
    /// The object.
    pub object: ObjectRef,
    /// Path of the field in the object.
    pub field: Box<str>,
    /// What is wrong with it.
    pub cause: Cause,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        write!(f, "{}: {}: {}", self.object, self.field, self.cause)
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The object has no name or no namespace.
    #[error("must not be empty")]
    Empty,
    /// A Service has no port at all, or none that can be used.
    #[error("the Service has no port that can be served")]
    NoPorts,
    /// A Service has no address and nothing else clients could connect to.
    #[error("the Service has no address that can be served, and no node port")]
    NoAddress,
    /// Not an IP address, or none that a service or a pod can have.
    #[error("`{0}` is not an address that a service or a pod can have")]
    NotAnAddress(Box<str>),
    /// The address is of another family than the slice says.
    #[error("`{address}` is not of the family {expected}")]
    OtherFamily {
        /// The address.
        address: IpAddr,
        /// `addressType` of the slice.
        expected: Box<str>,
    },
    /// A second address of one family.
    #[error("`{0}` is a second address of its family")]
    SecondAddress(IpAddr),
    /// A family or an address type that Kubernetes does not have.
    #[error("`{0}` is no IP family")]
    UnknownFamily(Box<str>),
    /// A Service type that Kubernetes does not have.
    #[error("`{0}` is no type of Service")]
    UnknownType(Box<str>),
    /// Two ports of one object have the same port and protocol.
    #[error("port {port}/{protocol} is there twice; the first one is served")]
    PortTwice {
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// Two ports of one object have the same name.
    #[error("port name `{0}` is there twice; the first one is served")]
    PortNameTwice(Arc<str>),
    /// Not in 1–65535.
    #[error("{0} is not a port (1-65535)")]
    NotAPort(i32),
    /// A slice's port without a number.
    #[error("has no number")]
    PortMissing,
    /// Not a protocol of Kubernetes.
    #[error("`{0}` is not a protocol; TCP, UDP and SCTP are")]
    UnknownProtocol(Box<str>),
    /// An address of a family that the Service does not have.
    #[error("`{0}` is not served: the Service is not of its family")]
    NotAFamilyOfIts(IpAddr),
    /// Not a range of addresses.
    #[error("`{0}` is not a range of addresses; it admits nobody")]
    NotARange(Box<str>),
    /// A traffic policy that Kubernetes does not have.
    #[error("`{0}` is not a traffic policy; Cluster and Local are")]
    UnknownPolicy(Box<str>),
    /// A traffic distribution that Kubernetes does not have.
    #[error(
        "`{0}` is not a traffic distribution; PreferSameZone, PreferSameNode and PreferClose are"
    )]
    UnknownDistribution(Box<str>),
    /// A session affinity that Kubernetes does not have.
    #[error("`{0}` is not a session affinity; None and ClientIP are")]
    UnknownAffinity(Box<str>),
    /// An `ipMode` that Kubernetes does not have.
    #[error("`{0}` is not an IP mode; VIP and Proxy are")]
    UnknownIpMode(Box<str>),
    /// A timeout that Kubernetes does not allow.
    #[error("{0} s is not a timeout of session affinity (1-86400); the Service has none")]
    AffinityOutOfRange(i32),
    /// A field that the API server would refuse here, because of what else the object says.
    #[error("has no effect: {0}")]
    NoEffect(&'static str),
    /// More zones than a table can tell apart.
    #[error("there are more than 65535 zones; it counts as none")]
    TooManyZones,
    /// Outside of the node's range of node ports.
    #[error("node port {port} is not in the node port range {first}-{last}")]
    NodePortOutOfRange {
        /// The node port.
        port: u16,
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
    /// Another object has the same address, port and protocol, and comes first.
    #[error("{address}:{port}/{protocol} belongs to {owner}")]
    Taken {
        /// The address; unspecified for a node port.
        address: IpAddr,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Who has it.
        owner: ObjectRef,
    },
    /// A slice does not say whose it is.
    #[error("the label is missing, so that no Service has these endpoints")]
    NoServiceLabel,
    /// A slice is for a Service that is not there. It is kept and used when the Service comes.
    #[error("there is no Service `{0}`; the endpoints wait for it")]
    NoSuchService(Arc<str>),
}

impl Cause {
    /// The name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NoPorts => "no_ports",
            Self::NoAddress => "no_address",
            Self::NotAnAddress(_) => "not_an_address",
            Self::OtherFamily { .. } => "other_family",
            Self::SecondAddress(_) => "second_address",
            Self::UnknownFamily(_) => "unknown_family",
            Self::UnknownType(_) => "unknown_type",
            Self::PortTwice { .. } => "port_twice",
            Self::PortNameTwice(_) => "port_name_twice",
            Self::NotAPort(_) => "not_a_port",
            Self::PortMissing => "port_missing",
            Self::UnknownProtocol(_) => "unknown_protocol",
            Self::NotAFamilyOfIts(_) => "not_a_family_of_its",
            Self::NotARange(_) => "not_a_range",
            Self::UnknownPolicy(_) => "unknown_policy",
            Self::UnknownDistribution(_) => "unknown_distribution",
            Self::UnknownAffinity(_) => "unknown_affinity",
            Self::UnknownIpMode(_) => "unknown_ip_mode",
            Self::AffinityOutOfRange(_) => "affinity_out_of_range",
            Self::NoEffect(_) => "no_effect",
            Self::TooManyZones => "too_many_zones",
            Self::NodePortOutOfRange { .. } => "node_port_out_of_range",
            Self::Taken { .. } => "taken",
            Self::NoServiceLabel => "no_service_label",
            Self::NoSuchService(_) => "no_such_service",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Collects what is wrong with one object while it is read.
#[derive(Debug)]
pub(super) struct Report {
    file: Option<Arc<str>>,
    object: ObjectRef,
    pub(super) problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(object: &ObjectRef, file: Option<&Arc<str>>) -> Self {
        Self { file: file.cloned(), object: object.clone(), problems: Vec::new() }
    }

    pub(super) fn add(&mut self, field: impl Into<Box<str>>, cause: Cause) {
        let (file, object) = (self.file.clone(), self.object.clone());
        self.problems.push(Problem { file, object, field: field.into(), cause });
    }
}
