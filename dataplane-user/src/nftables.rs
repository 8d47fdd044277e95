//! The nftables backend: compile a table to map elements, compare with the kernel, apply in one transaction.
