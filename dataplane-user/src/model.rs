//! What this node should do with service traffic. No backend and no kernel API is named here.

pub mod types;

pub mod health;
pub mod identity;
pub mod object;
pub mod problem;

mod cidr;
mod claims;
mod names;
mod read;
mod slab;
mod slice;
mod spec;
mod views;
mod zones;

pub mod outcome;
pub mod plan;
pub mod route;
pub mod table;

#[cfg(test)]
pub(crate) mod tests;

pub use health::HealthCheck;
pub use identity::{NODE_PORTS_DEFAULT, NodeIdentity};
pub use object::{Kind, ObjectEvent, ObjectName, ObjectRef};
pub use outcome::Outcome;
pub use plan::{Clients, Served};
pub use problem::{Cause, Problem};
pub use route::{DropCause, Masquerade, Packet, Route, Scope, Target, route};
pub use table::ServiceTable;
pub use types::{
    Cidr, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortOwner,
    PortState, Protocol, TrafficPolicy, Views,
};
