//! What `hashplane services`, `endpoints`, `flows`, `status` and `cleanup` tell and do.

use std::{net::SocketAddr, process::Command, sync::Arc};

use aya::programs::{SchedClassifier, TcAttachType};
use hashplane_tests::{
    Place,
    agent::protocol::Transport,
    lab::{Asking, Family, NodeName, within},
};
use serde_json::{Value, json};

use crate::support::{World, ask, skipped};

const NODE_PORT: u16 = 30_080;

fn rows(value: Value) -> Vec<Value> {
    let Value::Array(rows) = value else { panic!("not a list of rows: {value}") };
    rows
}

/// Rows of what the test wrote, without the marks beside it.
fn of_default(value: Value) -> Vec<Value> {
    let mut rows = rows(value);
    rows.retain(|row| row["service"].as_str().unwrap().starts_with("default/"));
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

    let services = of_default(world.a.json("services").unwrap());
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
fn services_tell_policies_affinity_ranges_and_what_becomes_of_clients() {
    if skipped() {
        return;
    }
    let world = World::new();
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT).endpoint(&far);
    let balancer = ["198.51.100.10".parse().unwrap(), "2001:db8:2::10".parse().unwrap()];
    let web = web.spec("externalTrafficPolicy", "Local").load_balancer(balancer).affinity(600);
    world.apply(&web.spec("loadBalancerSourceRanges", vec!["192.168.88.0/24", "fd88::/64"]));
    let empty = world.lab.service("empty").number(2).port("http", 80, 8080);
    world.apply(&empty);

    let services = of_default(world.a.json("services").unwrap());
    let row = |address: &str| {
        let found = services.iter().find(|row| row["address"] == address);
        found.cloned().unwrap_or_else(|| panic!("{address} is not in {services:#?}"))
    };
    let balancer = row("198.51.100.10");
    assert_eq!(balancer["kind"], "LoadBalancer");
    assert_eq!((&balancer["endpoints"], &balancer["local"]), (&json!(1), &json!(0)));
    let clients = json!({
        "policy": "Cluster", "endpoints": 1, "outcome": "served", "masquerade": false,
    });
    assert_eq!(balancer["inside"], clients);
    let clients = json!({
        "policy": "Local", "endpoints": 0, "outcome": "dropped", "masquerade": false,
    });
    assert_eq!(balancer["outside"], clients);
    assert_eq!(balancer["affinity_s"], 600);
    assert_eq!(balancer["source_ranges"], json!(["192.168.88.0/24"]));
    assert_eq!(row("2001:db8:2::10")["source_ranges"], json!(["fd88::/64"]));
    let cluster_ip = row("10.96.0.1");
    assert_eq!(
        (&cluster_ip["kind"], &cluster_ip["source_ranges"]),
        (&json!("ClusterIP"), &Value::Null)
    );
    assert_eq!(row("10.96.0.2")["inside"]["outcome"], "refused");

    let narrow = world.a.tool(&["services"]).unwrap();
    assert!(narrow.contains("1, from outside none: drops"), "{narrow}");
    assert!(narrow.contains("none: refuses"), "{narrow}");
    let wide = world.a.tool(&["services", "-o", "wide"]).unwrap();
    let line = wide.lines().find(|line| line.contains("198.51.100.10:80")).unwrap();
    for word in ["LoadBalancer", "Cluster 1", "Local none: drops", "600s", "192.168.88.0/24"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
}

#[test]
fn flows_tell_why_they_go_where_they_go() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let [_, packets] = world.clients();
    packets.serve(8080).unwrap();
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT).endpoint(&near);
    let local = world.lab.service("local").number(2).affinity(600);
    let local = local.node_port("http", 80, 8080, NODE_PORT + 1).endpoint(&near);
    let own = world.lab.service("own").number(3).port("http", 80, 8080).endpoint(&packets);
    world.apply(&web);
    world.apply(&local.spec("externalTrafficPolicy", "Local"));
    world.apply(&own);
    let node = world.host(NodeName::A).addresses();
    let outside = world.lab.outside();
    let ask = |client: &Arc<Place>, to: SocketAddr| {
        ask(client, Transport::Tcp, to, "a flow").local.port()
    };
    let ports = [
        ask(&packets, web.frontend(Family::V4, 80)),
        ask(&outside, node.port(Family::V6, NODE_PORT)),
        ask(&outside, node.port(Family::V4, NODE_PORT + 1)),
        ask(&outside, node.port(Family::V4, NODE_PORT + 1)),
        ask(&packets, own.frontend(Family::V6, 80)),
    ];
    let flows = rows(world.a.json("flows").unwrap());
    let why = ports.map(|port| {
        let flow = flows.iter().find(|row| row["client_port"] == port);
        let flow = flow.unwrap_or_else(|| panic!("{port} is not in {flows:#?}"));
        let fields = ["views", "affinity", "masquerade", "forwarded"];
        Value::from(fields.map(|field| flow[field].clone()).to_vec())
    });
    // Nobody asks for the view where all endpoints are in both.
    let views: Vec<_> = why.iter().map(|flow| flow[0].to_string()).collect();
    assert!(views[0].contains("Cluster") && views[2].contains("Local"), "{views:?}");
    let rest = why.map(|flow| json!([flow[1], flow[2], flow[3]]));
    let expected = [
        json!([false, "no", false]),
        json!([false, "yes", true]),
        json!([false, "no", false]),
        json!([true, "no", false]),
        json!([false, "hairpin", true]),
    ];
    assert_eq!(rest, expected);
    let wide = world.a.tool(&["flows", "-o", "wide"]).unwrap();
    for word in ["WHY", "affinity", "masqueraded, forwarded", "hairpin"] {
        assert!(wide.contains(word), "{word} is not in {wide}");
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

fn node_b(world: &World) -> SocketAddr {
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
