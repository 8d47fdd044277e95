//! What the programs know of this node: `CONFIG` and the node's addresses.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use dataplane_common::{Config, V4, V6, names};

use crate::{
    devices::{
        Devices, Role,
        classify::{octets4, octets6},
        ports::source_ports,
    },
    ebpf::{
        load::Features,
        maps::{MapError, MapWriter},
    },
};

/// What of the configuration does not come from devices.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `SO_NETNS_COOKIE` of the node's own namespace.
    pub netns_cookie: u64,
    /// Ports of sockets that ask for none.
    pub ephemeral: RangeInclusive<u16>,
    /// Ports of `NodePort` services.
    pub node_ports: RangeInclusive<u16>,
    /// What the kernel offers.
    pub features: Features,
    /// Whether TC programs run at all.
    pub tc: bool,
    /// Whether programs log.
    pub debug: bool,
    /// Whether node ports are on the loopback addresses too.
    pub loopback: bool,
    /// Whether some endpoint has the node's own address.
    pub host_endpoints: bool,
}

/// The configuration that `facts` and `devices` ask for.
pub fn config(facts: &Facts, devices: &Devices) -> Config {
    let pod_links = devices.devices.values().any(|device| device.role == Role::PodLink);
    let flags = [
        (facts.tc && pod_links, Config::POD_LINKS),
        (facts.host_endpoints, Config::NIC_REPLIES),
        (facts.loopback, Config::LOOPBACK),
    ];
    let ports = source_ports(&facts.ephemeral, &facts.node_ports);
    Config {
        host_netns_cookie: facts.netns_cookie,
        flags: flags.iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit),
        masquerade4: octets4(devices.masquerade4),
        masquerade6: octets6(devices.masquerade6),
        source_port_min: ports.min,
        source_port_count: ports.count,
        node_port_min: *facts.node_ports.start(),
        node_port_max: *facts.node_ports.end(),
    }
}

/// Writes the configuration.
pub fn write_config(maps: &mut impl MapWriter, config: Config) -> Result<(), MapError> {
    maps.update(names::CONFIG, &[0u32], &[config])
}

/// Makes the maps of node addresses hold exactly `addresses`: new ones first.
pub fn write_addresses(
    maps: &mut impl MapWriter,
    addresses: &BTreeSet<IpAddr>,
) -> Result<(), MapError> {
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    for address in addresses {
        match address {
            IpAddr::V4(ip) => v4.insert(ip.octets()),
            IpAddr::V6(ip) => v6.insert(ip.octets()),
        };
    }
    write_family::<V4>(maps, names::NODE_ADDRESSES4, &v4)?;
    write_family::<V6>(maps, names::NODE_ADDRESSES6, &v6)
}

fn write_family<const N: usize>(
    maps: &mut impl MapWriter,
    map: &'static str,
    wanted: &BTreeSet<[u8; N]>,
) -> Result<(), MapError> {
    let seen: BTreeSet<[u8; N]> =
        maps.entries::<[u8; N], u32>(map)?.into_iter().map(|(key, _)| key).collect();
    let new: Vec<_> = wanted.difference(&seen).copied().collect();
    let gone: Vec<_> = seen.difference(wanted).copied().collect();
    maps.update(map, &new, &vec![1u32; new.len()])?;
    maps.delete(map, &gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Device;

    #[test]
    fn the_config_says_what_devices_and_kernel_offer() {
        let facts = Facts {
            netns_cookie: 7,
            ephemeral: 32768..=60999,
            node_ports: 30000..=32767,
            features: Features { set_retval: true },
            tc: true,
            debug: false,
            loopback: false,
            host_endpoints: false,
        };
        let mut devices =
            Devices { masquerade4: Some([192, 0, 2, 1].into()), ..Devices::default() };
        let without = config(&facts, &devices);
        assert_eq!(without.flags, 0);
        assert_eq!((without.masquerade4, without.masquerade6), ([192, 0, 2, 1], [0; 16]));
        assert_eq!((without.source_port_min, without.source_port_count), (1024, 28976));
        devices.devices.insert(3, Device { name: "veth3".into(), role: Role::PodLink, veth: true });
        assert_eq!(config(&facts, &devices).flags, Config::POD_LINKS);
        let facts = Facts { loopback: true, ..facts };
        assert_eq!(config(&facts, &devices).flags, Config::POD_LINKS | Config::LOOPBACK);
    }
}
