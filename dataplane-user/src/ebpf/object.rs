//! The eBPF object that this binary embeds.

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hashplane-ebpf"));

/// The binary was built without the BPF tools and holds no programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this binary holds no eBPF programs: it was built without bpf-linker or rust-src; \
     run `cargo xtask setup` and build again"
)]
pub struct NoObject;

/// The ELF object with all programs and maps.
pub fn object() -> Result<&'static [u8], NoObject> {
    if OBJECT.is_empty() { Err(NoObject) } else { Ok(OBJECT) }
}
