//! Following a network namespace of our own, which ends with the thread.

use std::{net::IpAddr, process::Command, thread};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::devices::{Patterns, Role};

/// Longer than any change takes to be noticed, so that a loaded machine does not fail the test.
const PATIENCE: Duration = Duration::from_secs(10);

fn in_own_namespace(test: impl Future<Output = ()> + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    };
    thread::spawn(run).join().unwrap();
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn selection() -> Selection {
    Selection { pod_links: Patterns::new("veth*"), nics_auto: true, ..Selection::default() }
}

async fn until(
    devices: &mut watch::Receiver<Devices>,
    what: &str,
    fits: impl FnMut(&Devices) -> bool,
) {
    let seen = time::timeout(PATIENCE, devices.wait_for(fits)).await.map(drop);
    assert!(seen.is_ok(), "never saw {what}; now {:?}", devices.borrow().clone());
}

fn named(devices: &Devices, name: &str) -> Option<Role> {
    devices.devices.values().find(|device| device.name == name).map(|device| device.role)
}

#[test]
fn links_are_seen_as_they_appear_are_renamed_and_vanish() {
    in_own_namespace(async {
        let watch = Watch::start(selection()).await.unwrap();
        let mut devices = watch.devices();
        assert_eq!(*devices.borrow(), Devices::default());
        ip("link add vetha type veth peer name eth7");
        until(&mut devices, "both ends", |now| {
            named(now, "vetha") == Some(Role::PodLink) && named(now, "eth7") == Some(Role::Nic)
        })
        .await;
        ip("link set vetha name other");
        until(&mut devices, "no pod link", |now| named(now, "vetha").is_none()).await;
        ip("link set other name vethb");
        until(&mut devices, "the new name", |now| named(now, "vethb").is_some()).await;
        ip("link del vethb");
        until(&mut devices, "nothing", |now| now.devices.is_empty()).await;
    });
}

#[test]
fn addresses_and_default_routes_are_followed() {
    in_own_namespace(async {
        let watch = Watch::start(selection()).await.unwrap();
        let mut devices = watch.devices();
        ip("link add wan type veth peer name outside");
        ip("link set outside up");
        ip("link set wan up");
        ip("addr add 192.0.2.7/24 dev wan");
        ip("addr add 2001:db8::7/64 dev wan nodad");
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        until(&mut devices, "the addresses", |now| {
            now.node_addresses.len() == 2 && now.node_addresses.contains(&v4)
        })
        .await;
        assert_eq!(named(&devices.borrow().clone(), "wan"), None);
        ip("route add default via 192.0.2.1");
        until(&mut devices, "a NIC by its route", |now| named(now, "wan") == Some(Role::Nic)).await;
        let now = devices.borrow().clone();
        assert_eq!(now.masquerade4.map(IpAddr::V4), Some(v4));
        assert_eq!(now.masquerade6, Some("2001:db8::7".parse().unwrap()));
        ip("addr del 192.0.2.7/24 dev wan");
        until(&mut devices, "one address less", |now| !now.node_addresses.contains(&v4)).await;
        assert_eq!(devices.borrow().masquerade4, None);
    });
}

#[test]
fn an_interface_that_is_missing_is_named() {
    in_own_namespace(async {
        let selection = Selection { nics: Patterns::new("eth9"), ..Selection::default() };
        let error = Watch::start(selection).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no interface eth9, which --nics names");
    });
}
