//! Netlink by hand: messages, attributes, dumps and batches, for the families that no crate of ours speaks.
