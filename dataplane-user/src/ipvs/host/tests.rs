//! Against a real kernel, in a network namespace of its own; most kernels of build machines have no
//! IPVS, the virtual machine's has.

use std::{fs, process::Command, thread};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::{
    backend::Backend as _,
    ipvs::{
        Ipvs,
        render::render,
        tests::{balanced, key, node, web},
    },
    model::{Endpoint, Family, Frontend, FrontendAddress, PortKey, PortState, Protocol},
};

/// Runs in a namespace of its own, if the kernel has IPVS.
fn alone(name: &'static str, test: fn()) {
    let ran = thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            println!("SKIP {name}: no right to make a network namespace");
            return;
        }
        match Services::open() {
            Err(IpvsError::Missing) => {
                println!("SKIP {name}: this kernel has no IPVS (the virtual machine's has)");
            }
            Err(error) => panic!("{error}"),
            Ok(_) => {
                // Without any address of its own a host takes every endpoint's for a broadcast.
                let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
                assert!(up.unwrap().success());
                test();
            }
        }
    });
    ran.join().unwrap();
}

fn fresh() -> Ipvs {
    let mut ipvs = Ipvs::new("default");
    ipvs.observe().unwrap();
    ipvs.set_node(&node());
    ipvs
}

/// Whether a new process, told the same, finds nothing to do.
fn is_settled(states: &[(PortKey, PortState)]) -> bool {
    let mut again = fresh();
    for (key, state) in states {
        again.change(key, Some(state));
    }
    let (seen, wanted) = (render(again.seen()), render(again.program().contents()));
    assert_eq!(seen, wanted);
    let applied = again.apply(0).unwrap();
    applied == crate::backend::Applied::default()
}

/// A port of every protocol, in both families, with and without affinity, with source ranges.
fn states() -> Vec<(PortKey, PortState)> {
    let mut udp = web(&["10.1.0.1", "10.2.0.1"]);
    udp.frontends[0].protocol = Protocol::Udp;
    let mut v6 = web(&[]);
    v6.frontends[0].address = FrontendAddress::Ip("fd00::1".parse().unwrap());
    v6.endpoints = ["fd01::1", "fd01::2"]
        .map(|it| Endpoint { address: it.parse().unwrap(), ..web(&["10.1.0.1"]).endpoints[0] })
        .into();
    v6.frontends.push(Frontend {
        address: FrontendAddress::NodeAddresses,
        port: 30_000,
        kind: crate::model::FrontendKind::NodePort,
        ..v6.frontends[0]
    });
    v6.affinity_s = Some(10_800);
    let mut ranged = balanced(Some(60));
    ranged.source_ranges = Some(vec![
        crate::model::Cidr::parse("10.0.0.0/8").unwrap(),
        crate::model::Cidr::parse("10.1.0.0/16").unwrap(),
        crate::model::Cidr::parse("0.0.0.0/32").unwrap(),
    ]);
    vec![
        (key("tcp"), web(&["10.1.0.1", "10.2.0.1"])),
        (key("udp"), udp),
        (PortKey { family: Family::V6, ..key("v6") }, v6),
        (key("ranged"), ranged),
    ]
}

#[test]
fn ipvs_holds_what_it_was_told_and_gives_it_back() {
    alone("ipvs_holds_what_it_was_told_and_gives_it_back", || {
        let mut ipvs = fresh();
        for (key, state) in states() {
            ipvs.change(&key, Some(&state));
        }
        assert!(ipvs.apply(0).unwrap().written > 0);
        assert_eq!(ipvs.pending(), 0);
        assert!(is_settled(&states()), "a new process has nothing to do");
        assert_eq!(ipvs.upkeep().unwrap().drifted, 0);
        let setting = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/vs/{name}")).unwrap();
        assert_eq!(setting("conntrack").trim(), "1");
        assert!(leftovers("default").unwrap());
        ipvs.remove().unwrap();
        ipvs.remove().unwrap();
        assert!(!leftovers("default").unwrap());
    });
}

#[test]
fn ipvs_is_put_right_after_others_changed_it() {
    alone("ipvs_is_put_right_after_others_changed_it", || {
        let mut ipvs = fresh();
        for (key, state) in states() {
            ipvs.change(&key, Some(&state));
        }
        ipvs.apply(0).unwrap();
        let breaks: [fn(&mut Host); 4] = [
            |host| {
                let key = first_server(host);
                host.change_servers(&[Step::NoServer(key)]).unwrap();
            },
            |host| {
                let key = first_server(host);
                let to = "10.9.9.9:9".parse().unwrap();
                let more = Step::Destination { key, to, takes_new: true, exists: false };
                host.change_servers(&[more]).unwrap();
            },
            |_| {
                let gone = Command::new("ip").args(["link", "delete", "hashplane0"]).status();
                assert!(gone.unwrap().success());
            },
            |host| {
                let tables = host.tables.clone();
                tables[0].remove(&mut host.open().unwrap().netfilter).unwrap();
            },
        ];
        for (number, break_it) in breaks.into_iter().enumerate() {
            break_it(&mut Host::new("default", 0x4000));
            assert!(ipvs.upkeep().unwrap().drifted > 0, "{number}");
            ipvs.apply(0).unwrap();
            assert!(is_settled(&states()), "{number}");
            assert_eq!(ipvs.upkeep().unwrap().drifted, 0, "{number}");
        }
    });
}

fn first_server(host: &mut Host) -> ServerKey {
    let seen = host.observe(Which::All, true).unwrap();
    let mut addressed = seen.servers.keys().filter(|key| match key {
        ServerKey::Address(at) => at.protocol == Protocol::Tcp,
        ServerKey::Mark(..) => false,
    });
    *addressed.next().unwrap()
}

#[test]
fn a_kernel_without_ipvs_is_told_in_one_sentence() {
    let ran = thread::spawn(|| match Services::open() {
        Err(error) => {
            let wanted =
                "this kernel has no IPVS (CONFIG_IP_VS, module `ip_vs`): choose another mode";
            assert_eq!(error.to_string(), wanted);
        }
        Ok(_) => {
            println!("SKIP a_kernel_without_ipvs_is_told_in_one_sentence: this kernel has IPVS");
        }
    });
    ran.join().unwrap();
}
