//! Which links get programs, which addresses are the node's: pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use super::{Device, Devices, Error, Patterns, Role, Selection, observe::Seen};
use crate::{ipvs, model::Family};

/// The device of kube-proxy's IPVS mode.
const KUBE_IPVS: &str = "kube-ipvs0";

/// How NICs are called by the kernel, systemd and the usual distributions.
static NIC_NAMES: LazyLock<Patterns> =
    LazyLock::new(|| Patterns::new("eth*,en*,wl*,ww*,ib*,bond*,team*"));

/// What the dataplane does with the devices and addresses that netlink named.
pub fn classify(seen: &Seen, selection: &Selection) -> Devices {
    let devices = seen.links.iter().filter_map(|(index, link)| {
        let role = role(seen, selection, *index)?;
        Some((*index, Device { name: link.name.clone(), role, veth: link.veth }))
    });
    let devices = devices.collect();
    // What IPVS makes the node's own is a Service's, whose proxy ever did it.
    let is_virtual = |link: &u32| {
        let name = seen.links.get(link).map(|link| link.name.as_str());
        name.is_some_and(|name| name == KUBE_IPVS || ipvs::device::is_ours(name))
    };
    let addresses = seen.addresses.iter().filter(|address| !is_virtual(&address.link));
    let node_addresses: BTreeSet<IpAddr> =
        addresses.map(|address| address.ip).filter(is_node_address).collect();
    let mut found = Devices { devices, node_addresses, ..Devices::default() };
    if let Some(IpAddr::V4(ip)) = masquerade(seen, selection, &found, Family::V4) {
        found.masquerade4 = Some(ip);
    }
    if let Some(IpAddr::V6(ip)) = masquerade(seen, selection, &found, Family::V6) {
        found.masquerade6 = Some(ip);
    }
    found.node_port_addresses = selection.node_ports.choose(&found);
    found
}

/// Whether everything that was asked for by name is there.
pub fn check(seen: &Seen, selection: &Selection) -> Result<(), Error> {
    let lists = [(&selection.nics, "--nics"), (&selection.pod_links, "--pod-links")];
    for (patterns, flag) in lists {
        for name in patterns.names() {
            if !seen.links.values().any(|link| link.name == name) {
                return Err(Error::NoInterface { name: name.to_owned(), flag });
            }
        }
    }
    for address in &selection.node_ips {
        if !seen.addresses.iter().any(|ours| ours.ip == *address) {
            return Err(Error::NotOurAddress { address: *address });
        }
    }
    Ok(())
}

fn role(seen: &Seen, selection: &Selection, index: u32) -> Option<Role> {
    let link = seen.links.get(&index)?;
    if link.loopback {
        return None;
    }
    // A NIC that is named in full is meant, even where its name also looks like a pod's link.
    if selection.nics.names().any(|name| name == link.name) {
        return Some(Role::Nic);
    }
    if selection.pod_links.matches(&link.name) {
        return Some(Role::PodLink);
    }
    if selection.nics.matches(&link.name) {
        return Some(Role::Nic);
    }
    // A member of a bond or bridge has no addresses; its packets show up on the owner again.
    let member = link.controller.is_some()
        && !seen
            .addresses
            .iter()
            .any(|address| address.link == index && !is_link_local(address.ip));
    let usual = NIC_NAMES.matches(&link.name) && !member;
    let default_route = seen.default_routes.iter().any(|route| route.link == index);
    (selection.nics_auto && (usual || default_route)).then_some(Role::Nic)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Loopback addresses are the socket hooks' business; link-local ones do not name a node (CNI
/// plugins give the same 169.254 gateway to every pod link).
fn is_node_address(ip: &IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !is_link_local(*ip)
}

fn masquerade(
    seen: &Seen,
    selection: &Selection,
    found: &Devices,
    family: Family,
) -> Option<IpAddr> {
    let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
    if let Some(chosen) = selection.node_ips.iter().find(|ip| of_family(ip)) {
        return Some(*chosen);
    }
    let nic = |index: &u32| found.devices.get(index).is_some_and(|device| device.role == Role::Nic);
    // The NIC of this family's default route, of any default route, then any NIC, then any link
    // that leads to no pod: the first that has an address.
    let own = seen.default_routes.iter().filter(|route| route.family == family);
    let own = own.chain(&seen.default_routes).map(|route| route.link);
    let nics = seen.links.keys().copied().filter(nic);
    let rest = seen.links.keys().copied().filter(|index| !found.devices.contains_key(index));
    own.chain(nics).chain(rest).find_map(|index| {
        let candidates = seen.addresses.iter().filter(|address| address.link == index);
        candidates
            .filter(|address| of_family(&address.ip) && is_node_address(&address.ip))
            .min_by_key(|address| address.secondary)
            .map(|address| address.ip)
    })
}

/// All-zero when there is none, as the programs expect it.
pub fn octets4(ip: Option<Ipv4Addr>) -> [u8; 4] {
    ip.map_or([0; 4], |ip| ip.octets())
}

/// All-zero when there is none, as the programs expect it.
pub fn octets6(ip: Option<Ipv6Addr>) -> [u8; 16] {
    ip.map_or([0; 16], |ip| ip.octets())
}

#[cfg(test)]
mod tests;
