//! An XDP program that passes everything, for the far end of each NIC.
//!
//! A veth sends what an XDP program answers with `XDP_TX` only while its peer runs an XDP program
//! too (`veth_xdp_flush` in drivers/net/veth.c, Linux 4.19 to 6.18); a real NIC has no such peer.

use std::path::Path;

use anyhow::Context as _;
use aya::{Ebpf, programs::Xdp};
use bench::xdp_object;

/// `r0 = XDP_PASS; exit`.
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Loads the program and pins it at `path`.
pub(super) fn pin(path: &Path) -> anyhow::Result<()> {
    let mut object =
        Ebpf::load(&xdp_object::object(&CODE)).context("cannot load the XDP program of the lab")?;
    let program =
        object.program_mut(xdp_object::NAME).context("the XDP program of the lab is missing")?;
    let program: &mut Xdp = program.try_into().context("the program of the lab is no XDP")?;
    program.load().context("cannot load the XDP program of the lab")?;
    program.pin(path).with_context(|| format!("cannot pin {}", path.display()))
}
