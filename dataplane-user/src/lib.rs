//! From Kubernetes objects to kernel state: sources feed a table, a backend programs the kernel.

pub mod model;
pub mod source;

pub mod ebpf;
pub mod sync;

pub mod devices;

pub mod daemon;
pub mod http;
pub mod view;
