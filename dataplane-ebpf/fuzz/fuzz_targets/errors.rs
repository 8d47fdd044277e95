//! ICMP errors about packets that were translated before.
#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_ebpf_fuzz::errors(data));
