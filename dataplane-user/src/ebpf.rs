//! The eBPF backend: compile a table to map entries, compare with the kernel, apply.

pub mod object;
