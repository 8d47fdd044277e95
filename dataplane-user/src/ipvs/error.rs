//! Why IPVS could not be programmed.

use std::io;

use crate::{netlink, nftables};

/// What failed.
#[derive(Debug, thiserror::Error)]
pub enum IpvsError {
    /// The kernel has no IPVS.
    #[error("this kernel has no IPVS (CONFIG_IP_VS, module `ip_vs`): choose another mode")]
    Missing,
    /// The kernel refused something.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// `nf_tables` refused something.
    #[error(transparent)]
    Nftables(#[from] nftables::socket::NftablesError),
    /// A setting could not be made.
    #[error("cannot set {name} to {value}")]
    Setting {
        /// Its name, as sysctl has it.
        name: &'static str,
        /// The value.
        value: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel has no dummy devices.
    #[error("this kernel has no dummy devices (CONFIG_DUMMY, module `dummy`): choose another mode")]
    NoDummy,
    /// The dummy device is not there although it was made.
    #[error("cannot find device {0}")]
    NoDevice(String),
    /// Something failed that a test wanted to fail.
    #[cfg(test)]
    #[error("this call of a fake fails")]
    Fake,
}
