//! The kernel's connection tracking table: what of it is ours, what has to leave it, what moves to another backend.
