//! What a source says about objects.

use std::{fmt, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

/// The kinds of objects that a table reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `v1` Pod: host ports. Only those of this node matter.
    Pod,
    /// `v1` Node: the zone. Only this node's own matters.
    Node,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Pod, Self::Node];

    /// The name in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
        }
    }
}

/// Namespace and name. The namespace of a Node is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From two strings.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// Names one object among all kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectName { namespace, name } = &self.name;
        match self.kind {
            Kind::Node => write!(f, "Node {name}"),
            kind @ (Kind::Service | Kind::EndpointSlice | Kind::Pod) => {
                write!(f, "{} {namespace}/{name}", kind.name())
            }
        }
    }
}

/// One thing a source says. Objects are read once, at [`super::ServiceTable::apply`], and dropped.
#[derive(Clone, Debug)]
pub enum ObjectEvent {
    /// A Service is there, new or changed.
    Service {
        /// The object.
        object: Box<Service>,
        /// The file it was read from.
        file: Option<Arc<str>>,
    },
    /// An `EndpointSlice` is there, new or changed.
    EndpointSlice {
        /// The object.
        object: Box<EndpointSlice>,
        /// The file it was read from.
        file: Option<Arc<str>>,
    },
    /// A Pod is there, new or changed. Pods of other nodes may be told; they are ignored.
    Pod {
        /// The object.
        object: Box<Pod>,
        /// The file it was read from.
        file: Option<Arc<str>>,
    },
    /// A Node is there, new or changed. Other nodes may be told; they are ignored.
    Node {
        /// The object.
        object: Box<Node>,
        /// The file it was read from.
        file: Option<Arc<str>>,
    },
    /// An object is gone.
    Gone(ObjectRef),
    /// The source begins to name every object of this kind.
    ListBegin(Kind),
    /// The source has named every object of this kind: those it did not name since
    /// [`Self::ListBegin`] are gone.
    ListEnd(Kind),
    /// The source has told everything once.
    Synced,
}
