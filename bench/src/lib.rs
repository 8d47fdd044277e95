//! What a packet and a change cost: the measurements behind `hashplane bench`.
#![forbid(unsafe_code)]

pub mod churn;
pub mod frame;
pub mod icmp;
pub mod packets;
pub mod report;
pub mod rig;
pub mod routing;
pub mod xdp_object;
