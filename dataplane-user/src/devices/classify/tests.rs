//! Classification on made-up nodes.

use std::net::IpAddr;

use super::*;
use crate::devices::observe::{Address, DefaultRoute, Link};

fn link(name: &str) -> Link {
    Link { name: name.to_owned(), ..Link::default() }
}

fn address(link: u32, ip: &str) -> Address {
    Address { ip: ip.parse().unwrap(), link, secondary: false }
}

fn node() -> Seen {
    let mut links: std::collections::BTreeMap<u32, Link> = [
        (2, link("eth0")),
        (3, link("eth1")),
        (5, link("veth5")),
        (6, link("cni0")),
        (7, link("eni1234")),
        (8, link("wan")),
    ]
    .into();
    links.insert(1, Link { name: "lo".into(), loopback: true, ..Link::default() });
    Seen {
        links,
        addresses: vec![
            address(1, "127.0.0.1"),
            address(1, "::1"),
            address(1, "10.255.0.1"),
            address(2, "192.0.2.10"),
            address(2, "fe80::1"),
            address(3, "198.51.100.7"),
            Address { secondary: true, ..address(3, "2001:db8::dead") },
            address(3, "2001:db8::7"),
            address(5, "169.254.1.1"),
            address(6, "10.244.0.1"),
        ],
        default_routes: vec![DefaultRoute { family: Family::V4, metric: 0, link: 3 }],
    }
}

fn auto() -> Selection {
    Selection {
        pod_links: Patterns::new("veth*,lxc*,cali*,eni*,hp*"),
        nics_auto: true,
        ..Selection::default()
    }
}

fn roles(devices: &Devices) -> Vec<(&str, Role)> {
    devices.devices.values().map(|device| (device.name.as_str(), device.role)).collect()
}

#[test]
fn pod_links_and_nics_are_told_apart_by_name_and_route() {
    let mut seen = node();
    seen.default_routes.push(DefaultRoute { family: Family::V6, metric: 9, link: 8 });
    let expected = [
        ("eth0", Role::Nic),
        ("eth1", Role::Nic),
        ("veth5", Role::PodLink),
        ("eni1234", Role::PodLink),
        ("wan", Role::Nic),
    ];
    assert_eq!(roles(&classify(&seen, &auto())), expected);
}

#[test]
fn a_nic_named_in_full_wins_over_the_pattern_of_pod_links() {
    let selection = Selection { nics: Patterns::new("veth5"), nics_auto: false, ..auto() };
    let devices = classify(&node(), &selection);
    assert_eq!(roles(&devices), [("veth5", Role::Nic), ("eni1234", Role::PodLink)]);
}

#[test]
fn members_of_a_bond_are_left_to_the_bond() {
    let mut seen = node();
    seen.links.insert(20, Link { controller: Some(21), ..link("eth7") });
    seen.links.insert(21, link("bond0"));
    let devices = classify(&seen, &auto());
    assert!(!devices.devices.contains_key(&20));
    assert!(devices.devices.contains_key(&21));
}

#[test]
fn node_addresses_are_all_but_loopback_and_link_local() {
    let addresses: Vec<String> =
        classify(&node(), &auto()).node_addresses.iter().map(ToString::to_string).collect();
    let expected =
        ["10.244.0.1", "10.255.0.1", "192.0.2.10", "198.51.100.7", "2001:db8::7", "2001:db8::dead"];
    assert_eq!(addresses, expected);
}

#[test]
fn the_masquerade_address_is_the_primary_one_beside_the_default_route() {
    let devices = classify(&node(), &auto());
    assert_eq!(devices.masquerade4, Some("198.51.100.7".parse().unwrap()));
    assert_eq!(devices.masquerade6, Some("2001:db8::7".parse().unwrap()));
    let chosen: IpAddr = "192.0.2.10".parse().unwrap();
    let devices = classify(&node(), &Selection { node_ips: vec![chosen], ..auto() });
    assert_eq!(devices.masquerade4.map(IpAddr::V4), Some(chosen));
}

#[test]
fn what_is_named_but_missing_is_an_error() {
    let selection = Selection { nics: Patterns::new("eth*,eth9"), ..auto() };
    let error = check(&node(), &selection).unwrap_err();
    assert_eq!(error.to_string(), "there is no interface eth9, which --nics names");
    let selection = Selection { node_ips: vec!["203.0.113.1".parse().unwrap()], ..auto() };
    let error = check(&node(), &selection).unwrap_err();
    assert_eq!(
        error.to_string(),
        "203.0.113.1, which --node-ip names, is not an address of this node"
    );
}
