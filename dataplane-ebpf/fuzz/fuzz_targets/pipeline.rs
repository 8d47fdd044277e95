//! The whole pipeline, both directions.
#![forbid(unsafe_code)]
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane_ebpf_fuzz::pipeline(data));
