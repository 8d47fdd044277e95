//! What the packet library is given in the kernel, and the programs that call it.

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
