//! What this node should do with service traffic. No backend and no kernel API is named here.

pub mod types;

pub use types::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortState,
    Protocol,
};
