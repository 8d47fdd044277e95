//! The iptables backend: compile a table to chains, compare with the kernel, restore what differs.
