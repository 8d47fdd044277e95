//! The packet library: parse, look up, select, track, rewrite. Runs in the kernel and on the host.
#![no_std]
#![forbid(unsafe_code)]
