//! Which addresses of this node serve node ports.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::Devices;
use crate::model::Cidr;

/// The word for "the address of each family that masquerades".
const PRIMARY: &str = "primary";

/// Which addresses of this node serve frontends on every node address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All of them, and the loopback addresses for the node's own processes.
    #[default]
    All,
    /// One of each family: the one that masquerades.
    Primary,
    /// Those in one of these blocks; every address of a family that has no block here (as
    /// kube-proxy's `nodePortAddresses` has it).
    Blocks(Vec<Cidr>),
}

/// Why a text names no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a block.
    #[error("`{0}` is no block of addresses such as 192.0.2.0/24 or 2001:db8::/64")]
    NotABlock(Box<str>),
    /// The word beside blocks.
    #[error("`{PRIMARY}` stands alone or not at all")]
    PrimaryBesideBlocks,
    /// Nothing at all.
    #[error("no block of addresses is named")]
    Empty,
}

impl NodePortAddresses {
    /// From blocks, or from the one word `primary`.
    pub fn parse(words: &[&str]) -> Result<Self, ParseError> {
        let words: Vec<&str> = words.iter().copied().map(str::trim).collect();
        match words[..] {
            [] | [""] => Err(ParseError::Empty),
            [PRIMARY] => Ok(Self::Primary),
            _ if words.contains(&PRIMARY) => Err(ParseError::PrimaryBesideBlocks),
            _ => words.into_iter().map(block).collect::<Result<_, _>>().map(Self::Blocks),
        }
    }

    /// Those of the addresses of `devices` that serve node ports.
    pub fn choose(&self, devices: &Devices) -> BTreeSet<IpAddr> {
        let all = devices.node_addresses.iter().copied();
        match self {
            Self::All => all.collect(),
            Self::Primary => {
                let (v4, v6) = (devices.masquerade4.map(IpAddr::V4), devices.masquerade6);
                v4.into_iter().chain(v6.map(IpAddr::V6)).collect()
            }
            Self::Blocks(blocks) => all.filter(|address| is_chosen(blocks, *address)).collect(),
        }
    }

    /// Whether the loopback addresses serve node ports, for the node's own processes. There is one
    /// switch for both families, so a block around either address is enough.
    pub fn has_loopback(&self) -> bool {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        match self {
            Self::All => true,
            Self::Primary => false,
            Self::Blocks(blocks) => {
                blocks.iter().any(|block| loopback.iter().any(|ip| block.contains(*ip)))
            }
        }
    }
}

fn is_chosen(blocks: &[Cidr], address: IpAddr) -> bool {
    let mut family =
        blocks.iter().filter(|block| block.address.is_ipv4() == address.is_ipv4()).peekable();
    family.peek().is_none() || family.any(|block| block.contains(address))
}

fn block(text: &str) -> Result<Cidr, ParseError> {
    Cidr::parse(text).ok_or_else(|| ParseError::NotABlock(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NodePortAddresses, ParseError> {
        NodePortAddresses::parse(&text.split(',').collect::<Vec<_>>())
    }

    fn chosen(text: &str) -> Vec<String> {
        let addresses =
            ["192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8::1", "2001:db8:1::1"];
        let devices = Devices {
            node_addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            masquerade4: Some([192, 0, 2, 1].into()),
            masquerade6: Some("2001:db8::1".parse().unwrap()),
            ..Devices::default()
        };
        let chosen = parse(text).unwrap().choose(&devices);
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_block_chooses_among_the_addresses_of_its_family_only() {
        assert_eq!(
            chosen("192.0.2.0/25"),
            ["192.0.2.1", "2001:db8::1", "2001:db8:1::1"],
            "no block speaks of IPv6"
        );
        assert_eq!(chosen("192.0.2.77/24, 2001:db8::/48").len(), 3, "bits behind the prefix");
        assert_eq!(chosen("203.0.113.0/24,2001:db8::1/128"), ["2001:db8::1"]);
        assert_eq!(chosen("0.0.0.0/0,::/0").len(), 5);
        assert_eq!(chosen("198.51.100.7/32,192.0.2.1/32,::1/128"), ["192.0.2.1", "198.51.100.7"]);
    }

    #[test]
    fn primary_is_one_address_of_each_family() {
        assert_eq!(chosen("primary"), ["192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn loopback_serves_by_default_or_when_a_block_contains_it() {
        assert!(NodePortAddresses::default().has_loopback());
        for (text, expected) in [
            ("127.0.0.0/8", true),
            ("::1/128", true),
            ("0.0.0.0/0", true),
            ("192.0.2.0/24,::/0", true),
            ("192.0.2.0/24", false),
            ("127.0.0.2/32", false),
            ("primary", false),
        ] {
            assert_eq!(parse(text).unwrap().has_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn a_wrong_value_is_named() {
        for text in ["192.0.2.1", "192.0.2.0/33", "2001:db8::/129", "a/8", "192.0.2.0/24,", "/8"] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, ParseError::NotABlock(_)), "{text}: {error}");
        }
        assert_eq!(parse("primary,192.0.2.0/24"), Err(ParseError::PrimaryBesideBlocks));
        assert_eq!(parse(" "), Err(ParseError::Empty));
        let error = parse("192.0.2.0/33").unwrap_err().to_string();
        assert!(error.contains("`192.0.2.0/33`"), "{error}");
    }
}
