//! Against this kernel, in a network namespace of its own.

use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::{
    Attributes, Error, Socket, attributes, generic,
    netfilter::{self, family, subsystem},
};

const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const TABLE_NAME: u16 = 1;
const CREATE: u16 = 0x400;
const ACK: u16 = 0x4;
/// Multicast group of nftables' changes.
const GROUP_NFTABLES: u32 = 7;

/// Runs in a namespace of its own; not where that takes rights that we do not have.
fn alone(test: fn()) {
    let ran = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            eprintln!("SKIP: no right to make a network namespace");
            return;
        }
        test();
    });
    ran.join().unwrap();
}

fn table(number: u8, name: &str, flags: u16) -> super::Message {
    let mut body = Attributes::new();
    body.text(TABLE_NAME, name);
    netfilter::message(subsystem::NFTABLES, number, family::IPV4, flags, body)
}

fn tables(socket: &mut Socket) -> Vec<String> {
    let all =
        netfilter::message(subsystem::NFTABLES, GET_TABLE, family::IPV4, 0, Attributes::new());
    let list = socket.dump("list tables", &all).unwrap();
    let name = |received| {
        let (_, body) = netfilter::parse(received, subsystem::NFTABLES, NEW_TABLE)?;
        let name = attributes(body).find(|attribute| attribute.kind == TABLE_NAME)?;
        Some(name.text().to_owned())
    };
    list.iter().filter_map(name).collect()
}

#[test]
fn a_batch_is_done_whole_or_not_at_all() {
    alone(|| {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER).unwrap();
        let both = ["one", "two"].map(|name| table(NEW_TABLE, name, CREATE | ACK));
        let batch = netfilter::batch(subsystem::NFTABLES, both.into());
        socket.transact("make two tables", batch, 2).unwrap();
        assert_eq!(tables(&mut socket), ["one", "two"]);
        let half =
            vec![table(NEW_TABLE, "three", CREATE | ACK), table(DELETE_TABLE, "nothing", ACK)];
        let batch = netfilter::batch(subsystem::NFTABLES, half);
        let error = socket.transact("change tables", batch, 2).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT), "{error}");
        assert_eq!(error.to_string(), "the kernel refused to change tables: message 2");
        assert_eq!(tables(&mut socket), ["one", "two"]);
    });
}

#[test]
fn a_socket_sees_only_its_own_namespace_and_events_of_the_groups_it_joined() {
    alone(|| {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER).unwrap();
        assert!(tables(&mut socket).is_empty());
        let mut listener = Socket::open(libc::NETLINK_NETFILTER).unwrap();
        listener.join(GROUP_NFTABLES).unwrap();
        assert_eq!(listener.event(Duration::from_millis(1)).unwrap(), None);
        let one = vec![table(NEW_TABLE, "seen", CREATE | ACK)];
        let batch = netfilter::batch(subsystem::NFTABLES, one);
        socket.transact("make a table", batch, 1).unwrap();
        let event = listener.event(Duration::from_secs(5)).unwrap().unwrap();
        assert!(netfilter::parse(&event, subsystem::NFTABLES, NEW_TABLE).is_some());
    });
}

#[test]
fn generic_families_are_found_by_name() {
    alone(|| {
        let mut socket = Socket::open(libc::NETLINK_GENERIC).unwrap();
        assert_eq!(generic::family(&mut socket, "nlctrl").unwrap(), 16);
        let error = generic::family(&mut socket, "NOSUCHFAMILY").unwrap_err();
        assert!(matches!(error, Error::NoFamily("NOSUCHFAMILY")), "{error}");
    });
}
