//! The lab itself, before any daemon runs in it.

use std::{process::Command, sync::Arc, time::Duration};

use hashplane_tests::{
    Place,
    agent::protocol::{Size, Transport},
    lab::{Addresses, Asking, Family, NodeName, eventually},
    skip,
};

use crate::support::{assert_refused, lab, longest_datagram, traces};

#[test]
fn the_lab_itself_routes() {
    if skip::is_skipped(skip::why_no_lab()) {
        return;
    }
    let lab = lab();
    let near = lab.pod("near", NodeName::A).unwrap();
    let peer = lab.pod_without_hooks("peer", NodeName::A).unwrap();
    let far = lab.pod("far", NodeName::B).unwrap();
    let (host, outside) = (lab.host(NodeName::A), lab.outside());
    for place in [&near, &peer, &far, &host] {
        place.serve(8080).unwrap();
    }
    let pairs: [(&Arc<Place>, &Arc<Place>); 9] = [
        (&near, &near),
        (&near, &peer),
        (&peer, &far),
        (&far, &near),
        (&near, &host),
        (&far, &host),
        (&host, &near),
        (&host, &far),
        (&outside, &host),
    ];
    for (from, to) in pairs {
        for family in Family::ALL {
            for transport in Transport::ALL {
                let what =
                    format!("{} to {} over {family:?} {transport:?}", from.name(), to.name());
                let at = to.addresses().port(family, 8080);
                let answer =
                    from.ask(transport, at).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(answer.seen.pod, to.name(), "{what}");
                assert_eq!(answer.seen.client.ip(), from.addresses().of(family), "{what}");
                assert_eq!((answer.seen.local, answer.peer), (at, at), "{what}");
                let closed = to.addresses().port(family, 8081);
                assert_refused(from.ask(transport, closed), &what);
            }
        }
    }
}

#[test]
fn large_bodies_cross_the_lab_whole() {
    if skip::is_skipped(skip::why_no_lab()) {
        return;
    }
    let lab = lab();
    let near = lab.pod("near", NodeName::A).unwrap();
    let far = lab.pod("far", NodeName::B).unwrap();
    far.serve(8080).unwrap();
    let size = Size { up: 1 << 20, down: 1 << 20 };
    for family in Family::ALL {
        let at = far.addresses().port(family, 8080);
        let answer = near.ask_as(Transport::Tcp, at, Asking { size, ..Asking::default() }).unwrap();
        assert_eq!((answer.seen.received, answer.received), (1 << 20, 1 << 20));
    }
}

#[test]
fn a_datagram_may_be_as_long_as_a_packet_both_ways() {
    if skip::is_skipped(skip::why_no_lab()) {
        return;
    }
    let lab = lab();
    let near = lab.pod("near", NodeName::A).unwrap();
    let far = lab.pod("far", NodeName::B).unwrap();
    far.serve(8080).unwrap();
    for pod in [&near, &far] {
        lab.whole_checksums(pod).unwrap();
    }
    for family in Family::ALL {
        let at = far.addresses().port(family, 8080);
        let size = longest_datagram(family);
        let answer = near.ask_as(Transport::Udp, at, Asking { size, ..Asking::default() }).unwrap();
        assert_eq!((answer.seen.received, answer.received), (size.up, size.down));
    }
    assert_eq!((near.corrupted().unwrap(), far.corrupted().unwrap()), (0, 0));
}

#[test]
fn an_address_that_is_nobodys_leads_to_the_node_that_it_is_routed_to() {
    if skip::is_skipped(skip::why_no_lab()) {
        return;
    }
    let lab = lab();
    for (node, last) in [(NodeName::A, 1), (NodeName::B, 2)] {
        let address = Addresses {
            v4: [198, 51, 100, last].into(),
            v6: [0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()].into(),
        };
        // The node answers as soon as the address is its own.
        lab.add_node_address(node, address).unwrap();
        lab.host(node).serve_at(Transport::Tcp, address.port(Family::V4, 8080)).unwrap();
        lab.host(node).serve_at(Transport::Tcp, address.port(Family::V6, 8080)).unwrap();
        for family in Family::ALL {
            lab.route_from_outside(address.of(family), node).unwrap();
            let to = address.port(family, 8080);
            assert_eq!(lab.outside().ask(Transport::Tcp, to).unwrap().seen.pod, node.as_str());
        }
    }
}

#[test]
fn the_outside_client_knows_no_way_to_pods() {
    if skip::is_skipped(skip::why_no_lab()) {
        return;
    }
    let lab = lab();
    let pod = lab.pod("pod", NodeName::A).unwrap();
    pod.serve(8080).unwrap();
    for family in Family::ALL {
        let at = pod.addresses().port(family, 8080);
        let failure = lab.outside().ask(Transport::Tcp, at).unwrap_err();
        assert_eq!(failure.why, hashplane_tests::agent::protocol::Why::Unreachable, "{failure}");
    }
}

#[test]
fn nothing_of_a_lab_is_left_when_its_owner_is_killed() {
    if skip::is_skipped(skip::why_no_lab()) {
        return;
    }
    let dropped = {
        let lab = lab();
        lab.pod("pod", NodeName::A).unwrap();
        assert!(!traces(lab.name()).is_empty());
        lab.name().to_owned()
    };
    assert_eq!(traces(&dropped), Vec::<String>::new());

    let mut owner = Command::new(crate::support::TOOL)
        .arg("lab-hold")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut name = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(owner.stdout.as_mut().unwrap()),
        &mut name,
    )
    .unwrap();
    let name = name.trim();
    assert!(!traces(name).is_empty(), "{name}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually(Duration::from_secs(5), || {
        let left = traces(name);
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .unwrap();
}
