//! From Kubernetes objects to kernel state: sources feed a table, a backend programs the kernel.

pub mod model;
pub mod source;

pub mod netlink;

pub mod backend;
pub mod conntrack;
pub mod ebpf;
pub mod iptables;
pub mod ipvs;
pub mod nftables;

pub mod limits;
pub mod simulate;

pub mod leftovers;
pub mod probe;
pub mod shadow;
pub mod sync;

pub mod devices;

pub mod daemon;
pub mod http;
pub mod view;
