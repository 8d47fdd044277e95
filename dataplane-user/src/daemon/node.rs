//! What the programs know of this node: `CONFIG` and the node's addresses.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use dataplane_common::{Config, V4, V6, names};

use crate::{
    backend::{self, Needs},
    devices::{
        Devices, Role,
        classify::{octets4, octets6},
        ports::source_ports,
    },
    ebpf::maps::{MapError, MapWriter},
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
    /// Whether TC programs run at all.
    pub tc: bool,
    /// Whether node ports are on the loopback addresses too.
    pub loopback: bool,
}

/// The configuration that `facts`, `devices` and `needs` ask for.
pub fn config(facts: &Facts, devices: &Devices, needs: &Needs) -> Config {
    let pod_links = devices.devices.values().any(|device| device.role == Role::PodLink);
    let flags = [
        (facts.tc && pod_links, Config::POD_LINKS),
        (needs.nic_replies, Config::NIC_REPLIES),
        (facts.loopback, Config::LOOPBACK),
    ];
    // Host ports do not move the source ports: flows that have one would lose their answers. A
    // source port that is a host port as well is told apart by the whole flow.
    let ports = source_ports(&facts.ephemeral, &facts.node_ports);
    let (mut first, mut last) = (*facts.node_ports.start(), *facts.node_ports.end());
    if let Some(host_ports) = &needs.host_ports {
        (first, last) = (first.min(*host_ports.start()), last.max(*host_ports.end()));
    }
    Config {
        host_netns_cookie: facts.netns_cookie,
        flags: flags.iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit),
        masquerade4: octets4(devices.masquerade4),
        masquerade6: octets6(devices.masquerade6),
        source_port_min: ports.min,
        source_port_count: ports.count,
        node_port_min: first,
        node_port_max: last,
    }
}

/// What backends know of a node with these devices.
pub fn backend_node(devices: &Devices, loopback: bool) -> backend::Node {
    let links = devices.devices.values().filter(|device| device.role == Role::PodLink);
    backend::Node {
        addresses: devices.node_addresses.clone(),
        node_port_addresses: devices.node_port_addresses.clone(),
        loopback,
        pod_links: links.map(|device| device.name.clone()).collect(),
    }
}

/// What an earlier process had configured beyond its node ports. The flows of that time are still
/// in the maps.
pub fn read_needs(
    maps: &mut impl MapWriter,
    node_ports: &RangeInclusive<u16>,
) -> Result<Needs, MapError> {
    let Some(config) = maps.lookup::<u32, Config>(names::CONFIG, &0)? else {
        return Ok(Needs::default());
    };
    let (first, last) = (config.node_port_min, config.node_port_max);
    let is_wider = first != 0 && (first < *node_ports.start() || last > *node_ports.end());
    Ok(Needs {
        nic_replies: config.flags & Config::NIC_REPLIES != 0,
        host_ports: is_wider.then_some(first..=last),
    })
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
    use crate::{
        devices::Device,
        ebpf::{Limits, fake::FakeMaps},
    };

    fn facts() -> Facts {
        Facts {
            netns_cookie: 7,
            ephemeral: 32768..=60999,
            node_ports: 30000..=32767,
            tc: true,
            loopback: false,
        }
    }

    #[test]
    fn the_config_says_what_devices_and_kernel_offer() {
        let facts = facts();
        let mut devices =
            Devices { masquerade4: Some([192, 0, 2, 1].into()), ..Devices::default() };
        let without = config(&facts, &devices, &Needs::default());
        assert_eq!(without.flags, 0);
        assert_eq!((without.masquerade4, without.masquerade6), ([192, 0, 2, 1], [0; 16]));
        assert_eq!((without.source_port_min, without.source_port_count), (1024, 28976));
        devices.devices.insert(3, Device { name: "veth3".into(), role: Role::PodLink, veth: true });
        assert_eq!(config(&facts, &devices, &Needs::default()).flags, Config::POD_LINKS);
        let facts = Facts { loopback: true, ..facts };
        let flags = config(&facts, &devices, &Needs::default()).flags;
        assert_eq!(flags, Config::POD_LINKS | Config::LOOPBACK);
    }

    #[test]
    fn host_ports_widen_the_range_of_node_ports_and_leave_source_ports_alone() {
        let (facts, devices) = (facts(), Devices::default());
        let without = config(&facts, &devices, &Needs::default());
        assert_eq!((without.node_port_min, without.node_port_max), (30000, 32767));
        let needs = Needs { nic_replies: true, host_ports: Some(80..=8080) };
        let with = config(&facts, &devices, &needs);
        assert_eq!((with.node_port_min, with.node_port_max), (80, 32767));
        assert_eq!(with.flags, Config::NIC_REPLIES);
        let ports = |config: Config| (config.source_port_min, config.source_port_count);
        assert_eq!(ports(with), ports(without));
    }

    #[test]
    fn a_new_process_reads_what_the_old_one_needed() {
        let mut maps = FakeMaps { fail_one_in: 0, ..FakeMaps::new(Limits::default()) };
        let facts = facts();
        let read = |maps: &mut FakeMaps| read_needs(maps, &facts.node_ports).unwrap();
        assert_eq!(read(&mut maps), Needs::default());
        let needs = Needs { nic_replies: true, host_ports: Some(80..=8080) };
        for (needs, expected) in [
            (&needs, Needs { host_ports: Some(80..=32767), ..needs.clone() }),
            (&Needs::default(), Needs::default()),
        ] {
            let config = config(&facts, &Devices::default(), needs);
            write_config(&mut maps, config).unwrap();
            assert_eq!(read(&mut maps), expected);
        }
    }
}
