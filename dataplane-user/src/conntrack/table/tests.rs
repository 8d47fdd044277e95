//! Against this kernel, in a network namespace of its own.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::conntrack::entry::{Tuple, status, tcp};

/// Runs in a namespace with a loopback device and chains of type nat, so that connections are tracked
/// and translated; not where that takes rights or tools that are not there.
pub(crate) fn alone(test: fn()) {
    let ran = std::thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            eprintln!("SKIP: no right to make a network namespace");
            return;
        }
        let rules = "table inet t { chain o { type nat hook output priority 0; }; \
                     chain i { type nat hook input priority 0; }; \
                     chain p { type nat hook postrouting priority 0; }; \
                     chain q { type nat hook prerouting priority 0; }; \
                     chain c { type filter hook output priority 1; ct state new accept; }; }";
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
        };
        if !run("ip", &["link", "set", "lo", "up"]) || !run("nft", &[rules]) {
            eprintln!("SKIP: ip or nft is missing, or this kernel has no NAT");
            return;
        }
        test();
    });
    ran.join().unwrap();
}

fn find(table: &mut Table, of: Family, protocol: u8, port: u16) -> Option<Entry> {
    let mut entries = table.entries(of).unwrap();
    entries.retain(|it| it.protocol == protocol && it.original.destination.port() == port);
    entries.pop()
}

#[test]
fn connections_are_listed_and_forgotten() {
    alone(|| {
        let mut table = Table::open().unwrap();
        for (of, address) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let at = listener.local_addr().unwrap();
            let client = TcpStream::connect(at).unwrap();
            let entry = find(&mut table, of, 6, at.port()).unwrap();
            let original = Tuple { source: client.local_addr().unwrap(), destination: at };
            assert_eq!((entry.original, entry.reply), (original, original.reversed()));
            assert_eq!((entry.endpoint(), entry.masquerade()), (None, None));
            assert_eq!(entry.tcp_state, Some(tcp::ESTABLISHED));
            assert!(entry.status & status::SEEN_REPLY != 0 && entry.timeout_s > 0);
            assert!(table.delete(&entry).unwrap());
            assert!(!table.delete(&entry).unwrap(), "it is gone");
            assert_eq!(find(&mut table, of, 6, at.port()), None);
        }
    });
}

#[test]
fn a_connection_that_is_made_here_is_translated_as_it_says() {
    alone(|| {
        let mut table = Table::open().unwrap();
        for (of, address, service) in
            [(Family::V4, "127.0.0.1", "127.0.0.99:80"), (Family::V6, "::1", "[::1]:80")]
        {
            let endpoint = UdpSocket::bind((address, 0)).unwrap();
            let client = UdpSocket::bind((address, 0)).unwrap();
            let original = Tuple {
                source: client.local_addr().unwrap(),
                destination: service.parse().unwrap(),
            };
            let mut masquerade = original.source;
            masquerade.set_port(20_001);
            let reply = Tuple { source: endpoint.local_addr().unwrap(), destination: masquerade };
            let entry = Entry {
                protocol: 17,
                original,
                reply,
                status: status::SEEN_REPLY | status::ASSURED,
                timeout_s: 100,
                tcp_state: None,
                mark: 7,
            };
            assert!(table.create(&entry).unwrap());
            assert!(!table.create(&entry).unwrap(), "it is there already");
            let seen = find(&mut table, of, 17, 80).unwrap();
            assert_eq!((seen.original, seen.reply, seen.mark), (original, reply, 7));
            client.send_to(b"question", original.destination).unwrap();
            let mut buffer = [0; 16];
            let (len, from) = endpoint.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"question"[..], masquerade));
            endpoint.send_to(b"answer", from).unwrap();
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], original.destination));
        }
    });
}

#[test]
fn a_tcp_connection_goes_on_once_it_is_tracked_again() {
    alone(|| {
        let mut table = Table::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(at).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"one").unwrap();
        let entry = find(&mut table, Family::V4, 6, at.port()).unwrap();
        assert!(table.delete(&entry).unwrap());
        assert!(table.create(&Entry { timeout_s: 1_000, ..entry }).unwrap());
        client.write_all(b"two").unwrap();
        let mut text = [0; 6];
        server.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"onetwo");
        let seen = find(&mut table, Family::V4, 6, at.port()).unwrap();
        assert_eq!(seen.tcp_state, Some(tcp::ESTABLISHED));
    });
}
