//! What this node should do with service traffic. No backend and no kernel API is named here.

pub mod types;

pub mod object;
pub mod problem;

pub use object::{Kind, ObjectEvent, ObjectName, ObjectRef};
pub use problem::{Cause, Problem};
pub use types::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortState,
    Protocol,
};
