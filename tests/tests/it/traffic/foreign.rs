//! What others have put into the kernel is theirs: no start, change, stop or cleanup touches it.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use hashplane_tests::{
    Place,
    agent::protocol::Transport,
    lab::{Family, NodeName},
    manifests::Endpoint,
};

use crate::support::{World, ask, each, skipped};

const NODE_PORT: u16 = 30_080;

/// Tables of somebody else in nftables, at hooks and priorities that every backend uses too.
const NFTABLES: &str = "
table inet foreign {
    set ports { type inet_service; elements = { 4444, 5555 } }
    chain input { type filter hook input priority 0; tcp dport @ports accept; }
    chain output { type filter hook output priority -100; meta mark and 0x10000 == 0x10000 accept; }
}
table ip foreign_nat {
    chain arriving { type nat hook prerouting priority -100; tcp dport 4444 dnat to 192.0.2.7; }
    chain leaving { type nat hook postrouting priority 100; ip daddr 192.0.2.0/24 masquerade; }
}
table ip6 foreign_nat {
    map ends { type inet_service : ipv6_addr; elements = { 4444 : 2001:db8::7 } }
    chain arriving { type nat hook prerouting priority -100; dnat to tcp dport map @ends; }
}
";

/// Chains of somebody else in iptables; each word of what is added says whose it is.
const IPTABLES: &str = "*filter
:FOREIGN - [0:0]
-A INPUT -m comment --comment foreign -j FOREIGN
-A FORWARD -p tcp --dport 4444 -m comment --comment foreign -j DROP
-A FOREIGN -p tcp --dport 4444 -j ACCEPT
COMMIT
*nat
:FOREIGN-NAT - [0:0]
-A PREROUTING -p tcp --dport 4445 -m comment --comment foreign -j FOREIGN-NAT
-A POSTROUTING -m mark --mark 0x10000/0x10000 -m comment --comment foreign -j MASQUERADE
-A FOREIGN-NAT -p tcp --dport 4445 -j REDIRECT --to-ports 4446
COMMIT
*mangle
-A OUTPUT -p udp --dport 4447 -m comment --comment foreign -j MARK --set-xmark 0x10000/0x10000
COMMIT
";

/// iptables in each of its variants; only one of them is what `iptables` itself means.
const VARIANTS: [&str; 4] =
    ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];

/// What a command says, given an input; `None` where it is not installed.
fn run(host: &Place, program: &str, arguments: &[&str], input: &str) -> Option<String> {
    let mut command = host.command(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if Command::new(program).arg("--version").output().is_err() {
        return None;
    }
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Puts the rules of somebody else into a node.
fn install(host: &Place) {
    run(host, "nft", &["-f", "-"], NFTABLES);
    for variant in VARIANTS {
        run(host, &format!("{variant}-restore"), &["--noflush"], IPTABLES);
    }
}

/// Everything of somebody else that a node has, in order.
fn foreign(host: &Place) -> Vec<String> {
    let mut seen = Vec::new();
    for table in [["inet", "foreign"], ["ip", "foreign_nat"], ["ip6", "foreign_nat"]] {
        // Without counters: packets pass.
        let text = run(host, "nft", &["-s", "list", "table", table[0], table[1]], "");
        seen.extend(text.unwrap_or_default().lines().map(str::to_owned));
    }
    for variant in VARIANTS {
        let text = run(host, &format!("{variant}-save"), &[], "").unwrap_or_default();
        let lines = text.lines().filter(|line| line.to_lowercase().contains("foreign"));
        let stripped = |line: &str| line.split(" [").next().unwrap_or_default().to_owned();
        seen.extend(lines.map(|line| format!("{variant}: {}", stripped(line))));
    }
    seen
}

/// Whatever in a node's tables has our name.
fn ours(host: &Place) -> Vec<String> {
    let mut text = run(host, "nft", &["list", "tables"], "").unwrap_or_default();
    for variant in VARIANTS {
        text += &run(host, &format!("{variant}-save"), &[], "").unwrap_or_default();
    }
    let is_ours = |line: &&str| line.to_lowercase().contains("hashplane");
    text.lines().filter(is_ours).map(str::to_owned).collect()
}

#[test]
fn rules_of_others_outlive_start_change_stop_and_cleanup() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let host = world.host(NodeName::A);
    install(&host);
    let before = foreign(&host);
    assert!(before.len() > 20, "somebody else's rules are not there: {before:#?}");
    // The daemon finds them at its start too.
    world.a.stop().unwrap();
    world.a.start_again().unwrap();
    assert_eq!(foreign(&host), before, "started");
    let [near, far] = world.servers();
    let mut web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);
    let [_, packets] = world.clients();
    each(|family, transport, what| {
        ask(&packets, transport, web.frontend(family, 80), what);
    });
    assert_eq!(foreign(&host), before, "a Service is served");
    web.set_endpoints([Endpoint::at(&far)]);
    world.apply(&web);
    world.apply(&world.lab.service("empty").number(2).port("http", 80, 8080));
    assert_eq!(foreign(&host), before, "changed");
    world.a.stop().unwrap();
    ask(&packets, Transport::Tcp, web.frontend(Family::V4, 80), "stopped, not cleaned up");
    assert_eq!(foreign(&host), before, "stopped");
    for _ in 0..2 {
        world.a.tool(&["cleanup"]).unwrap();
        assert_eq!(ours(&host), Vec::<String>::new());
        assert_eq!(foreign(&host), before, "cleaned up");
    }
}
