//! What the kernel and the tools of this node can do, and which backends follow from that.
