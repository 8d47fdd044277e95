//! The one setting that rules alone cannot replace.

use std::{fs, io};

use super::program::Program;

/// Lets packets from and to loopback addresses leave by other devices, in this network namespace.
const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// A setting could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write 1 to {ROUTE_LOCALNET}, which node ports on loopback addresses need")]
pub(super) struct SysctlError(#[source] io::Error);

/// Makes the setting if node ports are on loopback addresses. A rule keeps out what it would let in.
pub(super) fn route_localnet(program: &Program) -> Result<(), SysctlError> {
    let is_set = || fs::read_to_string(ROUTE_LOCALNET).is_ok_and(|text| text.trim() == "1");
    if !program.needs_route_localnet() || is_set() {
        return Ok(());
    }
    fs::write(ROUTE_LOCALNET, "1").map_err(SysctlError)
}
