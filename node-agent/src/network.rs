//! The network of pods: the node's plugin, addresses, links, routes between nodes, the way out.

pub mod addresses;
pub mod egress;
pub(crate) mod follow;
pub mod plugin;
pub mod routes;
pub mod wiring;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde_json::json;

/// A network: its first address and how many bits all its addresses share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// First address; the bits of hosts are 0.
    pub address: IpAddr,
    /// Shared bits.
    pub prefix: u8,
}

impl Network {
    /// All bits of an address.
    pub fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether the network has the address.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || -> Option<Self> {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            (prefix <= Self::bits(address)).then_some(Self { address, prefix })
        };
        parse().ok_or_else(|| format!("{text:?} is no network, such as 10.244.0.0/16"))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What the plugin is told through its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Networks of this node's pods.
    pub(crate) networks: Vec<Network>,
    /// Where taken addresses are kept.
    pub(crate) state: PathBuf,
    /// The largest packet, in bytes.
    pub(crate) mtu: u32,
}

/// Makes the plugin known to the runtime: a link to this program, and its configuration.
pub(crate) fn install(plan: &Plan, conf: &Path, bin: &Path) -> io::Result<()> {
    let part = bin.join(".part");
    for name in [plugin::NAME, plugin::LOOPBACK] {
        if part.symlink_metadata().is_ok() {
            fs::remove_file(&part)?;
        }
        std::os::unix::fs::symlink(std::env::current_exe()?, &part)?;
        fs::rename(&part, bin.join(name))?;
    }
    let networks: Vec<String> = plan.networks.iter().map(Network::to_string).collect();
    let text = json!({
        "cniVersion": plugin::VERSION, "name": "hashplane",
        "plugins": [{
            "type": plugin::NAME, "networks": networks, "state": plan.state, "mtu": plan.mtu,
        }],
    });
    let file = conf.join("10-hashplane.conflist");
    let text = format!("{text:#}\n");
    if fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    // The runtime reads the directory whenever something in it changes.
    let part = conf.join(".part");
    fs::write(&part, text)?;
    fs::rename(&part, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_knows_its_addresses() {
        let network: Network = "10.244.1.0/24".parse().expect("a network");
        assert!(network.has("10.244.1.255".parse().expect("an address")));
        assert!(!network.has("10.244.2.0".parse().expect("an address")));
        assert!(!network.has("fd00::1".parse().expect("an address")));
        let all: Network = "::/0".parse().expect("a network");
        assert!(all.has("fd00::1".parse().expect("an address")));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("10.0.0.0".parse::<Network>().is_err());
    }
}
