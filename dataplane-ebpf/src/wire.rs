//! Where the fields of each header stand. Offsets live here and nowhere else.

pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod tcp;
pub mod udp;

/// `N` bytes of a header. Fields are copied whole: byte by byte, the compiler would keep each byte
/// in a register of its own and run out of the kernel's stack.
#[inline(always)]
fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    match header.get(at..).and_then(<[u8]>::first_chunk) {
        Some(field) => *field,
        None => [0; N],
    }
}

/// Write `N` bytes of a header.
#[inline(always)]
fn set_field<const N: usize>(header: &mut [u8], at: usize, value: &[u8; N]) {
    if let Some(field) = header.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = *value;
    }
}
