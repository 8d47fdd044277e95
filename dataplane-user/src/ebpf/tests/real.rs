//! Against maps in the kernel.
