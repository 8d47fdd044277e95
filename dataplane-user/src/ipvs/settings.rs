//! What IPVS has to be told before it serves: settings of this network namespace.

use std::fs;

use super::error::IpvsError;

/// How long a silent TCP connection is remembered, in seconds. IPVS forgets it after 15 minutes by
/// default; connection tracking, which all other modes rely on, after days. 24 hours are kube-proxy's
/// for the latter (`--conntrack-tcp-timeout-established`).
pub(super) const TCP_TIMEOUT_S: u32 = 24 * 60 * 60;

/// A setting below `/proc/sys/net/ipv4/vs/` (Linux, `Documentation/networking/ipvs-sysctl.rst`). They
/// are those of kube-proxy; `conn_reuse_mode` stays as it is, since only kernels before 5.9 delayed
/// connections for it.
const SETTINGS: [(&str, &str, &str); 3] = [
    // Without connection tracking nothing of nftables holds for what IPVS sends, masquerade above all.
    ("net.ipv4.vs.conntrack", "/proc/sys/net/ipv4/vs/conntrack", "1"),
    // A packet for a destination that went finds another one, instead of nobody until a timeout.
    ("net.ipv4.vs.expire_nodest_conn", "/proc/sys/net/ipv4/vs/expire_nodest_conn", "1"),
    // Session affinity to a destination that takes no new connections ends.
    (
        "net.ipv4.vs.expire_quiescent_template",
        "/proc/sys/net/ipv4/vs/expire_quiescent_template",
        "1",
    ),
];

/// Makes all of them, where they are not made already.
pub(super) fn make() -> Result<(), IpvsError> {
    for (name, path, value) in SETTINGS {
        if fs::read_to_string(path).is_ok_and(|seen| seen.trim() == value) {
            continue;
        }
        fs::write(path, value).map_err(|source| IpvsError::Setting { name, value, source })?;
    }
    Ok(())
}
