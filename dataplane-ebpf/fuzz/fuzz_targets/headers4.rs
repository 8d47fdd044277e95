//! The IPv4 parser.
#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_ebpf_fuzz::headers4(data));
