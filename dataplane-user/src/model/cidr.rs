//! Ranges of addresses: read, and asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::types::Cidr;

impl Cidr {
    /// Reads `10.0.0.0/8` or `fd00::/8`; bits after the prefix are ignored, as Kubernetes does.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix_len) = text.trim().split_once('/')?;
        // `parse` takes a sign, which no prefix has.
        let digits = prefix_len.bytes().all(|byte| byte.is_ascii_digit());
        let (address, prefix_len) = (address.parse().ok()?, prefix_len.parse().ok()?);
        let fits = match address {
            IpAddr::V4(_) => prefix_len <= 32,
            IpAddr::V6(v6) => prefix_len <= 128 && v6.to_ipv4_mapped().is_none(),
        };
        (digits && fits).then(|| Self { address: masked(address, prefix_len), prefix_len })
    }

    /// One address.
    pub const fn of(address: IpAddr) -> Self {
        let prefix_len = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, prefix_len }
    }

    /// Whether an address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && masked(address, self.prefix_len) == self.address
    }
}

/// The first `prefix_len` bits of an address.
fn masked(address: IpAddr, prefix_len: u8) -> IpAddr {
    let cleared = |bits: u32| bits - u32::from(prefix_len).min(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(cleared(32)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(cleared(128)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(range: &str, address: &str) -> bool {
        Cidr::parse(range).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_has_the_addresses_that_share_its_first_bits() {
        assert!(has("10.1.0.0/16", "10.1.255.255") && !has("10.1.0.0/16", "10.2.0.0"));
        assert!(has("10.1.2.3/16", "10.1.0.0"), "bits after the prefix do not count");
        assert!(has("0.0.0.0/0", "255.255.255.255") && !has("0.0.0.0/0", "::1"));
        assert!(has("10.1.2.3/32", "10.1.2.3") && !has("10.1.2.3/32", "10.1.2.2"));
        assert!(has("::/0", "fd00::1") && has("fd00::/7", "fdff::1") && !has("fd00::/8", "fe00::"));
        assert!(has("fd00::1/128", "fd00::1") && !has("fd00::1/128", "fd00::"));
    }

    #[test]
    fn what_is_no_range_does_not_parse() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "/8",
            "fd00::/129",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/8/8",
            "all",
        ] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }
}
