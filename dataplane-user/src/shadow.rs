//! Compares what the eBPF maps would decide with what netfilter did, without touching traffic.
