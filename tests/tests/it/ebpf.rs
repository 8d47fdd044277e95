//! Ways to a packet that only eBPF has: XDP in the driver and in the network stack, TC by clsact, and
//! packets of pods whose sockets have no hooks.

use hashplane_tests::{
    agent::protocol::Size,
    lab::{Family, NodeName},
};

use crate::{
    support::{World, ask_all, each, skipped, until},
    traffic::{
        icmp::{NARROW_MTU, TRANSFER, check_transfers, learned_mtu},
        masquerade::{self, Policy},
        node_port::{NODE_PORT, check_from_outside, service},
        policy::{check_node_port, external_local},
        refusal::check_refused,
    },
};

#[test]
fn a_node_port_works_with_xdp_in_the_driver() {
    if skipped() {
        return;
    }
    let world = World::with(&["--xdp", "driver"]);
    let (_web, [near, far]) = service(&world);
    check_from_outside(&world, &[&near, &far]);
    let translated = world.a.metric("hashplane_outcomes_total", &["nic_xdp", "\"new\""]);
    assert!(translated.unwrap() > 0.0, "no packet was translated by XDP:\n{}", world.a.log());
}

#[test]
fn a_node_port_works_with_xdp_in_the_network_stack() {
    if skipped() {
        return;
    }
    let world = World::with(&["--xdp", "generic"]);
    until("the status says how XDP runs", || {
        world.a.tool(&["status"]).unwrap().contains("generic").then_some(())
    });
    let (web, [near, far]) = service(&world);
    check_from_outside(&world, &[&near, &far]);
    let count = |reason| world.a.metric("hashplane_outcomes_total", &["nic_xdp", reason]).unwrap();
    assert!(count("\"new\"") > 0.0, "no packet was translated by XDP:\n{}", world.a.log());
    // TC behind it still sees whole frames.
    for client in world.clients() {
        each(|family, transport, what| {
            ask_all(&client, transport, web.frontend(family, 80), &[&near, &far], what);
        });
    }
    // XDP cannot tell which packets these are, and would break their checksums. The links behind
    // finish what is left, so that the other ends see it.
    let outside = world.lab.outside();
    world.lab.offload(&outside, "eth0", "tx", true).unwrap();
    world.lab.unfinished_checksums_towards(NodeName::A).unwrap();
    let node = world.host(NodeName::A).addresses();
    each(|family, transport, what| {
        let to = node.port(family, NODE_PORT);
        ask_all(&outside, transport, to, &[&near, &far], &format!("{what} unfinished"));
    });
}

#[test]
fn a_node_port_works_without_xdp() {
    if skipped() {
        return;
    }
    let world = World::with(&["--xdp", "off"]);
    let (_web, [near, far]) = service(&world);
    check_from_outside(&world, &[&near, &far]);
}

#[test]
fn without_socket_hooks_packets_are_translated() {
    if skipped() {
        return;
    }
    let world = World::with(&["--sockets", "off"]);
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&near).endpoint(&far);
    world.apply(&web);
    for client in world.clients() {
        each(|family, transport, what| {
            ask_all(&client, transport, web.frontend(family, 80), &[&near, &far], what);
        });
    }
}

#[test]
fn a_kernel_without_tcx_is_served_by_clsact() {
    if skipped() {
        return;
    }
    let world = World::with(&["--tc", "clsact", "--xdp", "off"]);
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, 30_080);
    let web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);
    let (outside, node) = (world.lab.outside(), world.host(NodeName::A).addresses());
    for client in world.clients() {
        each(|family, transport, what| {
            ask_all(&client, transport, web.frontend(family, 80), &[&near, &far], what);
            ask_all(&outside, transport, node.port(family, 30_080), &[&near, &far], what);
        });
    }
}

#[test]
fn external_local_works_with_xdp_in_the_driver_and_without() {
    if skipped() {
        return;
    }
    for mode in ["driver", "off"] {
        let world = World::with(&["--xdp", mode]);
        let [near, far] = world.servers();
        world.apply(&external_local(&world).endpoint(&near).endpoint(&far));
        let outside = world.lab.outside();
        let own = |family| outside.addresses().of(family);
        check_node_port(&outside, &world.host(NodeName::A), &[&near], own);
        check_node_port(&outside, &world.host(NodeName::B), &[&far], own);
    }
}

#[test]
fn every_policy_with_xdp_in_the_driver() {
    if !skipped() {
        for policy in [Policy::Cluster, Policy::ExternalLocal, Policy::InternalLocal] {
            masquerade::check(policy, &["--xdp", "driver"]);
        }
    }
}

#[test]
fn refusals_come_without_socket_hooks_and_without_xdp_too() {
    if skipped() {
        return;
    }
    let world = World::with(&["--sockets", "off", "--xdp", "off"]);
    let empty = world.lab.service("empty").node_port("http", 80, 8080, NODE_PORT);
    world.apply(&empty);
    let outside = world.lab.outside();
    let node = world.host(NodeName::A).addresses();
    for family in Family::ALL {
        for client in world.clients() {
            check_refused(&client, empty.frontend(family, 80), "packets");
        }
        check_refused(&outside, node.port(family, NODE_PORT), "outside");
    }
}

#[test]
fn refusals_come_from_xdp_too() {
    if skipped() {
        return;
    }
    let world = World::with(&["--xdp", "driver"]);
    let empty = world.lab.service("empty").node_port("http", 80, 8080, NODE_PORT);
    world.apply(&empty);
    let node = world.host(NodeName::A).addresses();
    for family in Family::ALL {
        check_refused(&world.lab.outside(), node.port(family, NODE_PORT), "outside");
    }
}

#[test]
fn a_long_way_up_through_a_node_port_begins_with_segments_that_do_not_fit() {
    if skipped() {
        return;
    }
    let world = World::with(&["--xdp", "driver"]);
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    world.apply(&web.endpoint(&far));
    let outside = world.lab.outside();
    world.lab.narrow_between_nodes(NARROW_MTU).unwrap();
    let node = world.host(NodeName::A).addresses();
    for family in Family::ALL {
        let to = node.port(family, NODE_PORT);
        check_transfers(&outside, to, Size { up: TRANSFER, down: TRANSFER });
        assert_eq!(learned_mtu(&outside, to), Some(NARROW_MTU));
    }
}
