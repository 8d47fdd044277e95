//! What `hashplane services`, `endpoints`, `flows`, `status` and `cleanup` tell and do.

use std::process::Command;

use aya::programs::{SchedClassifier, TcAttachType};
use hashplane_tests::{
    agent::protocol::Transport,
    lab::{Asking, Family, NodeName, within},
};
use serde_json::Value;

use crate::support::{World, ask, skipped};

const NODE_PORT: u16 = 30_080;

fn rows(value: Value) -> Vec<Value> {
    let Value::Array(rows) = value else { panic!("not a list of rows: {value}") };
    rows
}

#[test]
fn the_tools_tell_what_the_maps_say() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    let web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);

    let services = rows(world.a.json("services").unwrap());
    // Two families, two protocols, ClusterIP and NodePort.
    assert_eq!(services.len(), 8, "{services:#?}");
    assert!(services.iter().all(|row| row["endpoints"] == 2), "{services:#?}");
    let endpoints = rows(world.a.json("endpoints").unwrap());
    let placement = |address: &str| {
        let row = endpoints.iter().find(|row| row["address"] == address);
        row.map(|row| row["placement"].clone()).unwrap()
    };
    assert_eq!(placement("10.244.1.1"), "local");
    assert_eq!(placement("fd44:2::1"), "remote");

    let [_, packets] = world.clients();
    let to = web.frontend(Family::V4, 80);
    let from = packets.addresses().port(Family::V4, 20_083);
    let asking = Asking { from: Some(from), ..Asking::default() };
    let connection = packets.connect(to, asking).unwrap();
    let answer = connection.ask().unwrap();
    let flows = rows(world.a.json("flows").unwrap());
    let flow = flows.iter().find(|row| row["client_port"] == 20_083).unwrap();
    assert_eq!(flow["client"], from.ip().to_string());
    assert_eq!(flow["frontend"], to.ip().to_string());
    assert_eq!(flow["endpoint"], answer.seen.local.ip().to_string());
    assert_eq!(flow["service"], "default/web:http-tcp");

    world.a.json("status").unwrap();
    for tool in ["services", "endpoints", "flows", "status"] {
        let text = world.a.tool(&[tool]).unwrap();
        assert!(text.lines().count() > 1, "{tool} says nothing to people: {text}");
    }
}

#[test]
fn cleanup_leaves_nothing_and_can_be_repeated() {
    if skipped() {
        return;
    }
    let mut world = World::with(&["--xdp", "driver"]);
    let server = world.server("server", NodeName::B, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT).endpoint(&server);
    world.apply(&web);
    let [hooks, packets] = world.clients();
    for client in [&hooks, &packets] {
        ask(client, Transport::Tcp, web.frontend(Family::V4, 80), "before");
    }
    let netns = world.host(NodeName::A).netns().to_owned();
    let before = attached(&netns);
    for expected in ["eth0 nic_ingress", "eth0 xdp", "hppackets pod_ingress", "hphooks pod_egress"]
    {
        assert!(before.iter().any(|found| found == expected), "{expected} is not in {before:?}");
    }

    world.a.stop().unwrap();
    ask(&packets, Transport::Tcp, web.frontend(Family::V4, 80), "stopped, not cleaned up");
    for _ in 0..2 {
        world.a.tool(&["cleanup"]).unwrap();
        let pins = world.a.instance_pins();
        assert!(!pins.exists(), "{} is left", pins.display());
        assert_eq!(attached(&netns), Vec::<String>::new());
        let quick = Asking { timeout_ms: 300, ..Asking::default() };
        for client in [&hooks, &packets] {
            let answer = client.ask_as(Transport::Tcp, web.frontend(Family::V4, 80), quick);
            assert!(answer.is_err(), "{}: {answer:?}", client.name());
        }
    }
    // The other node's instance is none of its business.
    world.b.health().unwrap();
    ask(&world.lab.outside(), Transport::Tcp, node_b(&world), "node B");
}

fn node_b(world: &World) -> std::net::SocketAddr {
    world.host(NodeName::B).addresses().port(Family::V4, NODE_PORT)
}

/// What is attached to a node's NIC and to the links of its pods.
fn attached(netns: &str) -> Vec<String> {
    let links = ["eth0", "hphooks", "hppackets"];
    within(netns, || {
        let mut found = Vec::new();
        for (link, side) in links
            .iter()
            .flat_map(|link| [(link, TcAttachType::Ingress), (link, TcAttachType::Egress)])
        {
            let (_revision, programs) = SchedClassifier::query_tcx(link, side)?;
            let names = programs.iter().filter_map(|program| program.name_as_str());
            found.extend(names.map(|name| format!("{link} {name}")));
        }
        let shown = Command::new("ip").args(["link", "show", "dev", "eth0"]).output()?;
        if String::from_utf8_lossy(&shown.stdout).contains("prog/xdp") {
            found.push("eth0 xdp".to_owned());
        }
        Ok(found)
    })
    .unwrap()
}
