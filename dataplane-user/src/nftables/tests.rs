//! The backend against the kernel, in network namespaces of its own.

mod kernel;
