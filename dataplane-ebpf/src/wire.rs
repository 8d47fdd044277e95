//! Where the fields of each header stand. Offsets live here and nowhere else.

pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;
