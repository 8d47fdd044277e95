//! Names of our chains: readable where they fit into 28 bytes, hashed where they do not.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::model::{Cidr, Endpoint, Family, PortKey, PortOwner, Protocol};

/// What `iptables` takes for a chain, without the byte that ends it.
const LEN_MAX: usize = 28;

/// The name of a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(Arc<str>);

impl Chain {
    /// A chain of this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names that one instance uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// `HASHPLANE-` for the instance `default`; others have a hash of their name in it.
    pub fn of(instance: &str) -> Self {
        let prefix = if instance == "default" {
            "HASHPLANE-".to_owned()
        } else {
            format!("HASHPLANE.{}-", hash(instance, 4))
        };
        Self { prefix }
    }

    /// Whether a chain is this instance's.
    pub fn is_ours(&self, chain: &str) -> bool {
        chain.starts_with(&self.prefix)
    }

    /// A chain of which there is one.
    pub(super) fn only(&self, name: &str) -> Chain {
        Chain(format!("{}{name}", self.prefix).into())
    }

    /// A chain of one service port.
    pub(super) fn port(&self, kind: &str, key: &PortKey) -> Chain {
        self.hashed(kind, &text(key))
    }

    /// The chain of one endpoint of a service port.
    pub(super) fn endpoint(&self, key: &PortKey, endpoint: &Endpoint) -> Chain {
        self.hashed("SEP", &format!("{}={}:{}", text(key), endpoint.address, endpoint.port))
    }

    /// The chain of the frontends in a network.
    pub(super) fn net(&self, net: Cidr) -> Chain {
        let bits = net.prefix_len;
        if let IpAddr::V4(address) = net.address {
            let [a, b, c, _] = address.octets();
            let name = match bits {
                16 => format!("{}NET-{a}.{b}", self.prefix),
                24 => format!("{}NET-{a}.{b}.{c}", self.prefix),
                bits => format!("{}N{bits}-{a}.{b}.{c}", self.prefix),
            };
            if name.len() <= LEN_MAX {
                return Chain(name.into());
            }
        }
        self.hashed("NET", &format!("{}/{bits}", net.address))
    }

    /// The chain of the frontends on node addresses from this port on.
    pub(super) fn node_ports(&self, protocol: Protocol, first: u16) -> Chain {
        let protocol = match protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        Chain(format!("{}{protocol}-{first}", self.prefix).into())
    }

    fn hashed(&self, kind: &str, text: &str) -> Chain {
        let mut name = format!("{}{kind}-", self.prefix);
        name.push_str(&hash(text, LEN_MAX - name.len()));
        Chain(name.into())
    }
}

/// What tells a service port from all others.
fn text(key: &PortKey) -> String {
    let family = match key.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let owner = match key.owner {
        PortOwner::Service => "",
        PortOwner::Pod => "pod ",
    };
    format!("{owner}{}/{}:{}/{family}", key.namespace, key.service, key.port)
}

/// The first digits, to the base 32, of the FNV-1a hash of 128 bits: the same in every version.
fn hash(text: &str, digits: usize) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let step = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    // The high bits of FNV know little of the last bytes; a few more steps carry them there.
    let padded = text.bytes().chain([0xff; 8]);
    let mut rest = padded.fold(OFFSET, step);
    let mut name = String::with_capacity(digits);
    for _ in 0..digits {
        name.push(char::from(ALPHABET[(rest >> 123) as usize]));
        rest <<= 5;
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_fits_and_no_two_are_alike() {
        for instance in ["default", "another", "a-very-long-name-of-an-instance"] {
            let names = Names::of(instance);
            let mut seen = BTreeSet::new();
            for number in 0..10_000u32 {
                let key = PortKey {
                    namespace: "n".into(),
                    service: format!("service-{number}").into(),
                    port: "p".into(),
                    family: Family::V4,
                    owner: PortOwner::Service,
                };
                let address = IpAddr::from(number.to_be_bytes());
                let net = Cidr { address, prefix_len: 24 };
                for chain in [names.port("SVC", &key), names.port("SVL", &key)] {
                    assert!(chain.as_str().len() <= LEN_MAX && names.is_ours(chain.as_str()));
                    assert!(seen.insert(chain), "{number}");
                }
                assert!(names.net(net).as_str().len() <= LEN_MAX);
            }
        }
        let net = Cidr { address: "255.255.255.0".parse().unwrap(), prefix_len: 24 };
        assert_eq!(Names::of("default").net(net).as_str(), "HASHPLANE-NET-255.255.255");
    }

    #[test]
    fn no_instance_takes_the_chains_of_another() {
        let (one, other) = (Names::of("default"), Names::of("other"));
        assert!(!one.is_ours(other.only("SERVICES").as_str()));
        assert!(!other.is_ours(one.only("SERVICES").as_str()));
    }
}
