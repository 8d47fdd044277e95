//! Rules as kube-proxy makes them, beside those of others, in a namespace: the ones go, the others stay.

use std::{fmt::Write as _, process::Command, thread};

use super::*;
use crate::probe::tools::Variant;

/// A command line that must succeed; gives what it prints.
fn run(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn restore(program: &str, rules: &str) {
    let said = tools::run(program, &["--noflush"], rules, None);
    said.unwrap_or_else(|error| panic!("{error}\n{rules}"));
}

/// Runs in a network namespace of its own, or says aloud why not.
fn isolated(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a network namespace of our own needs root");
        return;
    }
    let outcome = thread::scope(|scope| {
        let inside = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            test();
        };
        scope.spawn(inside).join()
    });
    outcome.unwrap();
}

/// What kube-proxy makes for `services` services of one endpoint each, and what the kubelet and a
/// network plugin have beside it.
fn rules(services: usize, cidr: &str, host: &str) -> String {
    let mut text = String::from(
        "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
         *filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
         :CNI-FORWARD - [0:0]\n\
         -A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS\n\
         -A INPUT -j KUBE-FIREWALL\n\
         -A OUTPUT -j KUBE-FIREWALL\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A FORWARD -m comment --comment \"as -j KUBE-FORWARD does\" -j CNI-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A CNI-FORWARD -j ACCEPT\n\
         COMMIT\n*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n:CNI-MASQ - [0:0]\n",
    );
    for number in 0..services {
        write!(text, ":KUBE-SVC-{number:016} - [0:0]\n:KUBE-SEP-{number:016} - [0:0]\n").unwrap();
    }
    write!(
        text,
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A POSTROUTING -s {cidr} -j CNI-MASQ\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A CNI-MASQ ! -d {cidr} -j MASQUERADE\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n"
    )
    .unwrap();
    for number in 0..services {
        write!(text, "-A KUBE-SERVICES -d {host} -p tcp --dport {port} -j KUBE-SVC-{number:016}\n\
             -A KUBE-SVC-{number:016} ! -s {cidr} -j KUBE-MARK-MASQ\n\
             -A KUBE-SVC-{number:016} -m comment --comment \"ns/web{number} -> it's \\\"one\\\"\" -j KUBE-SEP-{number:016}\n\
             -A KUBE-SEP-{number:016} -p tcp -j DNAT --to-destination :{port}\n",
            port = 1000 + number).unwrap();
    }
    text.push_str("COMMIT\n");
    text
}

/// Both families: cluster addresses, and the mask of a host.
const FAMILIES: [(&str, &str, &str); 2] =
    [("iptables", "10.0.0.0/8", "10.96.0.1/32"), ("ip6tables", "fd00::/8", "fd00:96::1/128")];

/// The kubelet's and the plugin's rules, which stay as they are.
fn foreign(saved: &str) -> Vec<String> {
    let is_foreign = |line: &&str| {
        let kubelets = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-FIREWALL"];
        kubelets.iter().any(|name| line.contains(name)) || line.contains("CNI-")
    };
    saved.lines().filter(is_foreign).map(str::to_owned).collect()
}

fn check_chains(variant: Variant) {
    let infix = if variant == Variant::Nft { "nft" } else { "legacy" };
    for (family, ..) in FAMILIES {
        if variant.tools(family).is_err() {
            eprintln!("SKIPPED: no {family} of the {infix} variant (package iptables)");
            return;
        }
    }
    isolated(|| {
        let save = |family: &str| run(&format!("{family}-{infix}-save"));
        let mut before = Vec::new();
        for (family, cidr, host) in FAMILIES {
            restore(&format!("{family}-{infix}-restore"), &rules(50, cidr, host));
            before.push(foreign(&save(family)));
        }
        let found = find_kube_proxy();
        assert!(found.failed.is_empty(), "{:?}", found.failed);
        assert_eq!(found.leftovers.len(), 6, "three tables, two families: {:?}", found.leftovers);
        let nat = found.leftovers.iter().find(|one| one.what.contains("table nat")).unwrap();
        assert!(nat.what.starts_with("104 chains, such as KUBE-MARK-MASQ"), "{nat}");
        let removed = remove_kube_proxy();
        assert!(removed.failed.is_empty(), "{:?}", removed.failed);
        assert_eq!(removed.leftovers, found.leftovers);
        for ((family, ..), before) in FAMILIES.into_iter().zip(before) {
            let after = save(family);
            assert_eq!(foreign(&after), before);
            let left = after.lines().filter(|line| line.contains("KUBE-"));
            let left: Vec<&str> =
                left.filter(|line| !before.contains(&(*line).to_owned())).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert!(find_kube_proxy().leftovers.is_empty());
        assert!(remove_kube_proxy().leftovers.is_empty());
    });
}

#[test]
fn chains_of_kube_proxy_go_and_those_of_others_stay() {
    check_chains(Variant::Nft);
}

#[test]
fn legacy_chains_of_kube_proxy_go_and_those_of_others_stay() {
    check_chains(Variant::Legacy);
}

#[test]
fn tables_of_kube_proxy_go_and_those_of_others_stay() {
    if tools::run("nft", &["--version"], "", None).is_err() {
        eprintln!("SKIPPED: nft is missing (package nftables)");
        return;
    }
    isolated(|| {
        for family in ["ip", "ip6"] {
            run(&format!("nft add table {family} kube-proxy"));
            run(&format!("nft add chain {family} kube-proxy services"));
            run(&format!(
                "nft add chain {family} kube-proxy nat {{ type nat hook prerouting priority -100; }}"
            ));
            run(&format!("nft add rule {family} kube-proxy nat jump services"));
            run(&format!("nft add table {family} other"));
        }
        // Of that name, but in a family that kube-proxy does not use.
        run("nft add table inet kube-proxy");
        let names: Vec<String> =
            find_kube_proxy().leftovers.into_iter().map(|one| one.what).collect();
        assert_eq!(names, ["nftables table ip kube-proxy", "nftables table ip6 kube-proxy"]);
        let removed = remove_kube_proxy();
        assert!(removed.failed.is_empty(), "{:?}", removed.failed);
        let left = run("nft list tables");
        assert_eq!(left, "table ip other\ntable ip6 other\ntable inet kube-proxy\n");
        assert!(remove_kube_proxy().leftovers.is_empty());
    });
}

#[test]
fn the_device_of_kube_proxy_goes_with_its_virtual_servers() {
    isolated(|| {
        let made = Command::new("ip").args(["link", "add", "kube-ipvs0", "type", "dummy"]).output();
        if !made.unwrap().status.success() {
            eprintln!("SKIPPED: this kernel has no dummy devices (the virtual machine's has)");
            return;
        }
        run("ip address add 10.96.0.1/32 dev kube-ipvs0");
        run("ip address add fd00:96::1/128 dev kube-ipvs0");
        let servers = || std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
        let mut count = 0;
        if tools::run("ipvsadm", &["--version"], "", None).is_ok() {
            run("ipvsadm -A -t 10.96.0.1:80 -s rr");
            run("ipvsadm -A -u [fd00:96::1]:53 -s rr");
            run("ipvsadm -A -t 192.0.2.9:80 -s rr");
            count = 2;
        }
        let found = find_kube_proxy();
        assert!(found.failed.is_empty(), "{:?}", found.failed);
        let expected = format!("device kube-ipvs0, and {count} virtual servers for its addresses");
        assert_eq!(found.leftovers.last().unwrap().what, expected);
        assert!(remove_kube_proxy().failed.is_empty());
        assert!(nix::net::if_::if_nametoindex("kube-ipvs0").is_err());
        assert!(!servers().contains("0A600001"));
        assert_eq!(servers().contains("C0000209"), count > 0, "that of somebody else stays");
    });
}
