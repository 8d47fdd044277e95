//! The IPv6 parser.
#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_ebpf_fuzz::headers6(data));
