//! What the packet library is given in the kernel, and the programs that call it.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers take 32-bit lengths and indexes, and return small numbers in 64 bits"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros that make entry points hand contexts over by value"
)]
#![expect(clippy::cast_lossless, reason = "`From` is not const")]

mod bench;
mod log;
mod maps;
mod outcome;
mod packet;
mod socket;
mod tables;
mod tc;
mod xdp;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
