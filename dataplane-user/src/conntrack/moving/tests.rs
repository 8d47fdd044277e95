//! Against this kernel's connection tracking, in a network namespace of its own; maps in memory.

use std::net::UdpSocket;

use dataplane_common::{Frontend, FrontendKey, Live, Slots, UDP};

use super::*;
use crate::{
    conntrack::{Tuple, table::tests::alone},
    ebpf::{Limits, fake::FakeMaps},
};

const INSTANCE: &str = "moving-test";

fn maps() -> FakeMaps {
    FakeMaps { fail_one_in: 0, ..FakeMaps::new(Limits::default()) }
}

fn tables() -> String {
    let list = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
    String::from_utf8(list.stdout).unwrap()
}

/// What a client says, and from where it is heard; answered, and whom the client hears.
fn exchange(
    client: &UdpSocket,
    to: std::net::SocketAddr,
    endpoint: &UdpSocket,
) -> [std::net::SocketAddr; 2] {
    let mut buffer = [0; 16];
    client.send_to(b"question", to).unwrap();
    let (_, seen) = endpoint.recv_from(&mut buffer).unwrap();
    endpoint.send_to(b"answer", seen).unwrap();
    let (_, heard) = client.recv_from(&mut buffer).unwrap();
    [seen, heard]
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    socket
}

/// An entry from `client` by `frontend` to `endpoint`, which sees `seen`.
fn entry(client: &UdpSocket, frontend: &str, endpoint: &UdpSocket, seen: &str) -> Entry {
    let source = client.local_addr().unwrap();
    let seen = if seen.is_empty() { source } else { seen.parse().unwrap() };
    Entry {
        protocol: UDP,
        original: Tuple { source, destination: frontend.parse().unwrap() },
        reply: Tuple { source: endpoint.local_addr().unwrap(), destination: seen },
        status: status::SEEN_REPLY | status::ASSURED,
        timeout_s: 100,
        tcp_state: None,
        mark: 0,
    }
}

#[test]
fn flows_go_on_as_tracked_connections() {
    alone(|| {
        for (address, frontend, seen) in [
            ("127.0.0.1", "127.0.0.99:80", ""),
            ("127.0.0.1", "127.0.0.99:81", "127.0.0.5:2000"),
            ("::1", "[::1]:80", ""),
        ] {
            let (client, endpoint) = (socket(address), socket(address));
            // What the programs translate, connection tracking knows by its endpoint.
            let translated = endpoint.local_addr().unwrap();
            exchange(&client, translated, &endpoint);
            let entry = entry(&client, frontend, &endpoint, seen);
            let known = convert::Known { service: 1, endpoint: 77, views: Live::CLUSTER };
            let mut maps = maps();
            if let Some(pair) = convert::flow::<V4>(&entry, known, 1) {
                write(&mut maps, names::FLOWS4, &pair).unwrap();
            }
            if let Some(pair) = convert::flow::<V6>(&entry, known, 1) {
                write(&mut maps, names::FLOWS6, &pair).unwrap();
            }
            let to = (Mode::Ebpf, Mode::Nftables);
            let moving = Moving::begin(to, Some(&mut maps), &Node::default(), INSTANCE).unwrap();
            let direct = seen.is_empty();
            assert_eq!(tables().contains("hashplane-moving-test-moving"), direct);
            assert_eq!(moving.finish().unwrap(), Moved { moved: 1, kept: 0 });
            assert!(!tables().contains("hashplane"), "{}", tables());
            let heard = exchange(&client, entry.original.destination, &endpoint);
            assert_eq!(heard, [entry.reply.destination, entry.original.destination]);
        }
    });
}

/// A frontend with one endpoint, in slot 3.
fn served(maps: &mut FakeMaps, frontend: &str, endpoint: &UdpSocket) {
    let (to, at): (std::net::SocketAddr, _) =
        (frontend.parse().unwrap(), endpoint.local_addr().unwrap());
    let addr = crate::ebpf::octets::<4>(to.ip()).unwrap();
    let slots = Slots { base: 3, count: 1 };
    let value = Frontend { inside: slots, outside: slots, service: 9, ..Frontend::default() };
    maps.update(names::FRONTENDS4, &[FrontendKey::new(addr, to.port(), UDP)], &[value]).unwrap();
    let addr = crate::ebpf::octets::<4>(at.ip()).unwrap();
    let id = dataplane_common::EndpointId::new(5, 1);
    let value = dataplane_common::Endpoint::new(addr, at.port(), 0, id);
    maps.update(names::ENDPOINTS4, &[3u32], &[value]).unwrap();
}

fn flows(maps: &mut FakeMaps) -> Vec<(FlowKey<4>, Flow<4>)> {
    maps.entries(names::FLOWS4).unwrap()
}

#[test]
fn tracked_connections_become_flows_and_the_rest_is_kept() {
    alone(|| {
        let mut maps = maps();
        let config = Config {
            masquerade4: [127, 0, 0, 5],
            source_port_min: 1024,
            source_port_count: 1000,
            ..Config::default()
        };
        maps.update(names::CONFIG, &[0u32], &[config]).unwrap();
        let mut table = Table::open().unwrap();
        // These are no loopback addresses as far as the kernel asks, so that clients are not the host's.
        let client = |at: u8| {
            let address = format!("10.77.0.{at}");
            let arguments = ["addr", "add", &format!("{address}/32"), "dev", "lo"];
            assert!(std::process::Command::new("ip").args(arguments).status().unwrap().success());
            socket(&address)
        };
        let clients = [1, 2, 3, 4].map(client);
        let endpoint = client(9);
        let route = ["route", "add", "10.96.0.0/16", "dev", "lo"];
        assert!(std::process::Command::new("ip").args(route).status().unwrap().success());
        let (frontend, gone) = ("10.96.0.1:80", "10.96.0.2:80");
        served(&mut maps, frontend, &endpoint);
        let moves = entry(&clients[0], frontend, &endpoint, "");
        let in_reach = entry(&clients[1], frontend, &endpoint, "127.0.0.5:2000");
        let out_of_reach = entry(&clients[2], frontend, &endpoint, "127.0.0.5:3000");
        let nobodys = entry(&clients[3], gone, &endpoint, "");
        let all = [moves, in_reach, out_of_reach, nobodys];
        for entry in &all {
            assert!(table.create(entry).unwrap());
        }
        let begin = (Mode::Nftables, Mode::Ebpf);
        let moving = Moving::begin(begin, Some(&mut maps), &Node::default(), INSTANCE).unwrap();
        assert_eq!(flows(&mut maps).len(), 6, "three of two directions");
        for (key, flow) in flows(&mut maps) {
            assert_eq!((flow.service, flow.endpoint), (9, (1 << 20) | 5));
            assert_eq!(Flow::<4>::views(flow.flags), Live::CLUSTER);
            let forward = if key.is_reply() { flow.to.reversed() } else { key.tuple() };
            let masqueraded = forward.src != [10, 77, 0, 1];
            assert_eq!(flow.flags & Flow::<4>::FORWARD != 0, masqueraded);
        }
        let names = ["hashplane-moving-test-moving", "hashplane-moving-test-nat"];
        assert!(names.iter().all(|name| tables().contains(name)), "{}", tables());
        // With the guard the endpoint hears packets that the programs have translated, and tracking
        // neither drops them nor gives them another port.
        assert_eq!(moving.finish().unwrap(), Moved { moved: 3, kept: 1 });
        assert!(!tables().contains(names[0]) && tables().contains(names[1]), "{}", tables());
        let seen = table.entries(Family::V4).unwrap();
        let left = |entry: &Entry| seen.iter().any(|it| it.original == entry.original);
        assert_eq!(all.each_ref().map(left), [false, false, true, true]);
        assert!(!release(INSTANCE).unwrap(), "some are translated still");
        // The kernel goes on with what stays, though no rules are left.
        let rules =
            std::process::Command::new("nft").args(["delete", "table", "inet", "t"]).status();
        assert!(rules.unwrap().success());
        let heard = exchange(&clients[3], nobodys.original.destination, &endpoint);
        assert_eq!(heard, [nobodys.reply.destination, nobodys.original.destination]);
        for entry in [out_of_reach, nobodys] {
            assert!(table.delete(&entry).unwrap());
        }
        assert!(release(INSTANCE).unwrap());
        assert!(!tables().contains("hashplane"), "{}", tables());
    });
}

#[test]
fn connections_of_the_hosts_own_sockets_are_kept() {
    alone(|| {
        let mut maps = maps();
        let (client, endpoint) = (socket("127.0.0.1"), socket("127.0.0.1"));
        let frontend = "10.96.0.1:80";
        served(&mut maps, frontend, &endpoint);
        let entry = entry(&client, frontend, &endpoint, "");
        assert!(Table::open().unwrap().create(&entry).unwrap());
        let begin = (Mode::Iptables, Mode::Ebpf);
        let moving = Moving::begin(begin, Some(&mut maps), &Node::default(), INSTANCE).unwrap();
        assert_eq!(moving.finish().unwrap(), Moved { moved: 0, kept: 1 });
        assert!(flows(&mut maps).is_empty());
        clear(INSTANCE).unwrap();
        clear(INSTANCE).unwrap();
        assert!(!tables().contains("hashplane"), "{}", tables());
    });
}
