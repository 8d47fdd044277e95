//! Each family by itself: single-stack Services, and endpoints and policies that differ.

use std::sync::Arc;

use hashplane_tests::{
    Place,
    agent::protocol::Transport,
    lab::{Family, NodeName},
    manifests::Endpoint,
};

use crate::support::{SOON, World, ask_all, assert_dropped, assert_refused, each, skipped};

const NODE_PORT: u16 = 30_080;

/// The other one.
fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

#[test]
fn a_service_of_one_family_leaves_the_other_alone() {
    if skipped() {
        return;
    }
    for family in Family::ALL {
        let world = World::new();
        let [near, far] = world.servers();
        let web = world.lab.service("web").families(&[family]);
        let web = web.node_port("http", 80, 8080, NODE_PORT).endpoint(&near).endpoint(&far);
        world.apply(&web);
        let (outside, node) = (world.lab.outside(), world.host(NodeName::A).addresses());
        for transport in Transport::ALL {
            let what = format!("{family:?} {transport:?}");
            for client in world.inside() {
                ask_all(&client, transport, web.frontend(family, 80), &[&near, &far], &what);
                let answer = client.ask_as(transport, web.frontend(other(family), 80), SOON);
                assert!(answer.is_err(), "{what}: {answer:?}");
            }
            ask_all(&outside, transport, node.port(family, NODE_PORT), &[&near, &far], &what);
            let answer = outside.ask_as(transport, node.port(other(family), NODE_PORT), SOON);
            assert!(answer.is_err(), "{what}: {answer:?}");
        }
    }
}

#[test]
fn each_family_has_endpoints_of_its_own() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let mut web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    web.set_endpoints([Endpoint::at(&near).only(Family::V4), Endpoint::at(&far).only(Family::V6)]);
    world.apply(&web);
    let node = world.host(NodeName::A).addresses();
    let server = |family: Family| -> &Arc<Place> {
        match family {
            Family::V4 => &near,
            Family::V6 => &far,
        }
    };
    each(|family, transport, what| {
        for client in world.inside() {
            ask_all(&client, transport, web.frontend(family, 80), &[server(family)], what);
        }
        let to = node.port(family, NODE_PORT);
        ask_all(&world.lab.outside(), transport, to, &[server(family)], what);
    });
    web.set_endpoints([Endpoint::at(&near).only(Family::V4)]);
    world.apply(&web);
    for transport in Transport::ALL {
        for client in world.inside() {
            ask_all(&client, transport, web.frontend(Family::V4, 80), &[&near], "IPv4 stays");
            let answer = client.ask(transport, web.frontend(Family::V6, 80));
            assert_refused(answer, &format!("IPv6 {transport:?} {}", client.name()));
        }
    }
}

#[test]
fn policy_local_looks_at_each_family_by_itself() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let mut web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    web = web.spec("externalTrafficPolicy", "Local").spec("internalTrafficPolicy", "Local");
    for here in Family::ALL {
        web.set_endpoints([Endpoint::at(&near).only(here), Endpoint::at(&far).only(other(here))]);
        world.apply(&web);
        let (outside, node) = (world.lab.outside(), world.host(NodeName::A).addresses());
        let [_, packets] = world.clients();
        for transport in Transport::ALL {
            let what = format!("{transport:?} with an endpoint here in {here:?}");
            for answer in ask_all(&outside, transport, node.port(here, NODE_PORT), &[&near], &what)
            {
                assert_eq!(answer.seen.client.ip(), outside.addresses().of(here), "{what}");
            }
            assert_dropped(&outside, transport, node.port(other(here), NODE_PORT), &what);
            ask_all(&packets, transport, web.frontend(here, 80), &[&near], &what);
            assert_dropped(&packets, transport, web.frontend(other(here), 80), &what);
            // By a node port, clients on the node get every endpoint.
            let to = node.port(other(here), NODE_PORT);
            ask_all(&packets, transport, to, &[&far], &what);
        }
    }
}
