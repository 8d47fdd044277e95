//! The eBPF backend: compile a table to map entries, compare with the kernel, apply.

pub mod object;
pub mod program;

pub mod maps;

pub mod pin;

pub mod load;

pub mod attach;

pub mod kernel;
