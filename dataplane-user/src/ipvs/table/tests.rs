//! Against this kernel's `nf_tables`, in a network namespace of its own.

use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::ipvs::treatment::{MASQUERADE, mark};

/// Runs in a namespace of its own; not where that takes rights that we do not have.
fn alone(test: fn(Netfilter)) {
    let ran = thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            eprintln!("SKIP ipvs::table: no right to make a network namespace");
            return;
        }
        match Netfilter::open() {
            Ok(netfilter) => test(netfilter),
            Err(error) => eprintln!("SKIP ipvs::table: {error}"),
        }
    });
    ran.join().unwrap();
}

fn table(family: Family) -> FamilyTable {
    FamilyTable::new(Rules { family, masquerade_bit: MASQUERADE }, "hashplane-ipvs".into())
}

/// One of each kind, and all treatments.
fn all(family: Family) -> Elements {
    let (vip, range, host): (_, _, IpAddr) = match family {
        Family::V4 => ("10.96.0.1", "10.0.0.0/8", "192.0.2.10".parse().unwrap()),
        Family::V6 => ("fd00::1", "fd01::/64", "2001:db8::10".parse().unwrap()),
    };
    let wanted = |port| Virtual { address: vip.parse().unwrap(), protocol: Protocol::Tcp, port };
    let mut all = Elements::from([
        (Element::Mark(wanted(80)), Held::Mark(mark(7))),
        (Element::Range(wanted(80), Cidr::parse(range).unwrap()), Held::Nothing),
        (Element::Range(wanted(80), Cidr::of(host)), Held::Nothing),
        (Element::Closed(wanted(80).address), Held::Nothing),
        (Element::Node(host), Held::Nothing),
        (Element::Hairpin(host), Held::Nothing),
        (Element::PodLink(family, "hp-a-long-link1".into()), Held::Nothing),
        (Element::PodLink(family, "hp1".into()), Held::Nothing),
    ]);
    for (port, treatment) in (80..).zip(Treatment::all()) {
        all.insert(Element::Service(wanted(port)), Held::Treatment(treatment));
    }
    all
}

#[test]
fn ipvs_table_is_read_back_as_it_was_written() {
    alone(|mut netfilter| {
        for family in [Family::V4, Family::V6] {
            let table = table(family);
            assert!(!table.is_sound(&mut netfilter).unwrap());
            let add: Vec<(Element, Held)> = all(family).into_iter().collect();
            let change = Transaction { rebuild: true, add, ..Transaction::default() };
            // The second time there is a table in the way.
            for _ in 0..2 {
                table.change(&mut netfilter, &change).unwrap();
                assert!(table.is_sound(&mut netfilter).unwrap(), "{family:?}");
                assert_eq!(table.elements(&mut netfilter).unwrap().unwrap(), all(family));
            }
            table.remove(&mut netfilter).unwrap();
            table.remove(&mut netfilter).unwrap();
            assert!(!table.is_there(&mut netfilter).unwrap());
        }
    });
}

#[test]
fn ipvs_elements_change_in_one_transaction() {
    alone(|mut netfilter| {
        let table = table(Family::V4);
        let add: Vec<(Element, Held)> = all(Family::V4).into_iter().collect();
        let change = Transaction { rebuild: true, add, ..Transaction::default() };
        table.change(&mut netfilter, &change).unwrap();
        let first =
            all(Family::V4).into_iter().find(|(_, held)| matches!(held, Held::Treatment(_)));
        let (service, _) = first.unwrap();
        let last = Held::Treatment(Treatment::all().last().unwrap());
        let gone = Element::Node("192.0.2.10".parse().unwrap());
        let change = Transaction {
            rebuild: false,
            remove: vec![service.clone(), gone.clone()],
            add: vec![(service.clone(), last)],
        };
        table.change(&mut netfilter, &change).unwrap();
        let mut wanted = all(Family::V4);
        wanted.insert(service, last);
        wanted.remove(&gone);
        assert_eq!(table.elements(&mut netfilter).unwrap().unwrap(), wanted);
        // What is not there cannot go: nothing of the change happens.
        let change = Transaction {
            rebuild: false,
            remove: vec![gone],
            add: vec![(Element::Hairpin("10.1.0.1".parse().unwrap()), Held::Nothing)],
        };
        assert!(table.change(&mut netfilter, &change).is_err());
        assert_eq!(table.elements(&mut netfilter).unwrap().unwrap(), wanted);
    });
}

#[test]
fn an_ipvs_table_that_somebody_edits_is_unsound() {
    alone(|mut netfilter| {
        let table = table(Family::V6);
        let change = Transaction { rebuild: true, ..Transaction::default() };
        table.change(&mut netfilter, &change).unwrap();
        assert!(table.is_sound(&mut netfilter).unwrap());
        let mut batch = Batch::new();
        batch.flush_chain(&table.table, &Name::from("postrouting"));
        netfilter.commit(&batch).unwrap();
        assert!(!table.is_sound(&mut netfilter).unwrap());
    });
}
