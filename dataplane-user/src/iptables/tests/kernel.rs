//! Programs in a kernel, by both variants of iptables: what is written is what is read back.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::table::{port, service};
use crate::{
    backend::{Backend, Desired, Node},
    iptables::{
        Iptables, Variant,
        command::Tools,
        observe::{Seen, read},
        restore::{LIST, lines},
    },
    model::{
        Family, PortKey, PortState,
        tests::generate::{World, step},
    },
    simulate::node,
};

/// Runs in a network namespace of its own, once per variant that is installed.
fn in_namespace(test: &str, of: impl Fn(Variant) + Send + Sync) {
    for (variant, program) in
        [(Variant::Nft, "iptables-nft-save"), (Variant::Legacy, "iptables-legacy-save")]
    {
        if Command::new(program).arg("-V").stdout(Stdio::null()).status().is_err() {
            println!("SKIP {test}: no {program}: install iptables");
            continue;
        }
        thread::scope(|scope| {
            let run = || match unshare(CloneFlags::CLONE_NEWNET) {
                Ok(()) => of(variant),
                Err(error) => println!("SKIP {test}: no network namespace: {error}"),
            };
            scope.spawn(run).join().unwrap();
        });
    }
}

fn seen(backend: &Iptables, family: Family) -> Seen {
    let text = Tools::default().save(family, backend.variant()).unwrap();
    read(&text, &backend.program().fixed.names)
}

/// What the program says of a family, as far as it is used.
fn wanted(backend: &Iptables, family: Family) -> Seen {
    let program = backend.program();
    let chains = program.half(family).chains.iter();
    let hooks = program.fixed.hooks().into_iter();
    Seen {
        chains: chains.map(|(place, rules)| (place.clone(), lines(rules))).collect(),
        hooks: hooks
            .map(|hook| ((hook.table, hook.name.to_owned()), vec![hook.rule.to_string()]))
            .collect(),
        ..Seen::default()
    }
}

fn assert_kernel_holds(backend: &Iptables, when: &str) {
    for family in [Family::V4, Family::V6] {
        let seen = seen(backend, family);
        if !backend.is_used(family) {
            assert_eq!((&seen.chains, &seen.hooks), (&BTreeMap::new(), &BTreeMap::new()));
            continue;
        }
        let wanted = wanted(backend, family);
        assert_eq!(seen.chains, wanted.chains, "{when} {family:?}");
        assert_eq!(seen.hooks, wanted.hooks, "{when} {family:?}");
    }
}

struct Table(BTreeMap<PortKey, PortState>);

impl Desired for Table {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        Box::new(self.0.keys().cloned())
    }

    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.0.get(key).cloned()
    }
}

fn here() -> Node {
    Node {
        addresses: ["192.0.2.10".parse().unwrap()].into(),
        node_port_addresses: ["192.0.2.10".parse().unwrap()].into(),
        loopback: false,
        pod_links: ["veth1".to_owned()].into(),
    }
}

/// A backend with some services in the kernel.
fn served(variant: Variant, tools: Tools) -> Iptables {
    let mut backend = Iptables::with_tools("default", Some(variant), tools);
    backend.observe().unwrap();
    backend.set_node(&here());
    backend.compile(&Table((0..3).map(|of| (port(of), service(of, 2))).collect()));
    backend
}

/// Runs a command that must succeed.
fn run(program: &str, args: &str) {
    let status = Command::new(program).args(args.split(' ')).status().unwrap();
    assert!(status.success(), "{program} {args}");
}

fn iptables(variant: Variant) -> &'static str {
    match variant {
        Variant::Nft => "iptables-nft",
        Variant::Legacy => "iptables-legacy",
        Variant::Default => "iptables",
    }
}

#[test]
fn the_kernel_holds_what_the_program_says_whatever_happened() {
    let test = "the_kernel_holds_what_the_program_says_whatever_happened";
    in_namespace(test, |variant| {
        let mut runner = TestRunner::deterministic();
        for round in 0..6 {
            let steps = vec(step(), 30..40).new_tree(&mut runner).unwrap().current();
            let mut world = World::new();
            let mut backend = Iptables::new("default", Some(variant));
            backend.observe().unwrap();
            backend.set_node(&node(world.table.node(), &["veth1", "veth2"]));
            backend.compile(&world.table);
            for (at, step) in steps.iter().enumerate() {
                world.tell(step);
                backend.set_node(&node(world.table.node(), &["veth1", "veth2"]));
                for key in world.table.take_changed() {
                    backend.change(&key, world.table.port(&key).as_ref());
                }
                if at % 5 == 4 {
                    backend.apply(0).unwrap();
                    assert_kernel_holds(&backend, &format!("{variant:?} {round} {at}"));
                    assert_eq!(backend.pending(), 0);
                    assert_eq!(backend.upkeep().unwrap().drifted, 0);
                }
            }
            backend.apply(0).unwrap();
            // A new process finds everything as it should be.
            let mut next = Iptables::new("default", None);
            next.observe().unwrap();
            assert_eq!(next.variant(), variant);
            next.set_node(&node(world.table.node(), &["veth1", "veth2"]));
            next.compile(&world.table);
            let applied = next.apply(0).unwrap();
            assert_eq!((applied.written, applied.deleted), (0, 0));
            next.remove().unwrap();
            next.remove().unwrap();
            for family in [Family::V4, Family::V6] {
                let seen = seen(&next, family);
                assert_eq!((seen.chains, seen.hooks), (BTreeMap::new(), BTreeMap::new()));
            }
        }
    });
}

#[test]
fn only_chains_that_differ_are_written() {
    in_namespace("only_chains_that_differ_are_written", |variant| {
        let mut backend = served(variant, Tools::default());
        backend.apply(0).unwrap();
        backend.change(&port(1), Some(&service(1, 3)));
        let applied = backend.apply(0).unwrap();
        // The view's chain with its masquerading rule and three draws, and the new endpoint's two.
        assert_eq!((applied.written, applied.deleted), (6, 0));
        backend.change(&port(1), Some(&service(1, 2)));
        let applied = backend.apply(0).unwrap();
        assert_eq!((applied.written, applied.deleted), (3, 1));
        assert_kernel_holds(&backend, "after both");
    });
}

#[test]
fn what_others_changed_is_counted_and_repaired() {
    in_namespace("what_others_changed_is_counted_and_repaired", |variant| {
        let mut backend = served(variant, Tools::default());
        backend.apply(0).unwrap();
        assert_eq!(backend.upkeep().unwrap().drifted, 0);
        let iptables = iptables(variant);
        let breaks: [(&[&str], usize); 5] = [
            (&["-t nat -F PREROUTING"], 1),
            (&["-t nat -F HASHPLANE-MARK-MASQ"], 1),
            (&["-t nat -A HASHPLANE-POSTROUTING -j RETURN"], 1),
            (&["-N HASHPLANE-NOBODYS"], 1),
            (&["-t filter -F INPUT", "-F FORWARD", "-t nat -A OUTPUT -j HASHPLANE-OUTPUT"], 3),
        ];
        for (commands, drifted) in breaks {
            for command in commands {
                run(iptables, command);
            }
            backend.look_soon();
            assert_eq!(backend.upkeep().unwrap().drifted, drifted, "{commands:?}");
            assert!(backend.pending() > 0);
            backend.apply(0).unwrap();
            assert_kernel_holds(&backend, &format!("{commands:?}"));
        }
    });
}

#[test]
fn rules_of_others_stay() {
    in_namespace("rules_of_others_stay", |variant| {
        let iptables = iptables(variant);
        run(iptables, "-t nat -N HASHPLANEX");
        run(iptables, "-t nat -A PREROUTING -p tcp --dport 99 -j HASHPLANEX");
        run(iptables, "-t nat -A HASHPLANEX -j RETURN");
        let before = Tools::default().save(Family::V4, variant).unwrap();
        let foreign = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.contains("HASHPLANEX"));
            lines.map(ToOwned::to_owned).collect()
        };
        let mut backend = served(variant, Tools::default());
        backend.apply(0).unwrap();
        let during = Tools::default().save(Family::V4, variant).unwrap();
        backend.remove().unwrap();
        let after = Tools::default().save(Family::V4, variant).unwrap();
        assert_eq!(foreign(&before).len(), 3);
        assert_eq!((foreign(&before), foreign(&before)), (foreign(&during), foreign(&after)));
        assert!(!after.contains("HASHPLANE-"));
    });
}

#[test]
fn another_variant_that_was_asked_for_takes_over_and_the_first_leaves_nothing() {
    let test = "another_variant_that_was_asked_for_takes_over_and_the_first_leaves_nothing";
    in_namespace(test, |variant| {
        let mut first = served(variant, Tools::default());
        first.apply(0).unwrap();
        let other = if variant == Variant::Nft { Variant::Legacy } else { Variant::Nft };
        let mut next = served(other, Tools::default());
        assert!(next.pending() > 0);
        next.apply(0).unwrap();
        assert_kernel_holds(&next, "the next one");
        let seen = seen(&first, Family::V4);
        assert_eq!((seen.chains, seen.hooks), (BTreeMap::new(), BTreeMap::new()));
    });
}

#[test]
fn a_hint_of_the_kubelet_decides_before_the_number_of_rules() {
    in_namespace("a_hint_of_the_kubelet_decides_before_the_number_of_rules", |variant| {
        let other = if variant == Variant::Nft { Variant::Legacy } else { Variant::Nft };
        run(iptables(other), "-A INPUT -j ACCEPT");
        let mut backend = Iptables::new("default", None);
        backend.observe().unwrap();
        assert_eq!(backend.variant(), other);
        run(iptables(variant), "-t mangle -N KUBE-IPTABLES-HINT");
        backend.observe().unwrap();
        assert_eq!(backend.variant(), variant);
    });
}

/// The messages of an error, from the outside to the cause.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Commands in front of the real ones.
fn tools(scripts: &[(&str, &str)]) -> (tempfile::TempDir, Tools) {
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    (dir, Tools { path: Some(path.into()) })
}

#[test]
fn a_missing_command_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let tools = Tools { path: Some(dir.path().into()) };
    let mut backend = Iptables::with_tools("default", None, tools);
    let error = backend.observe().unwrap_err();
    assert_eq!(
        said(&*error),
        "cannot read the rules of IPv4: cannot find iptables-save in PATH: install iptables or choose \
         another mode"
    );
}

#[test]
fn a_broken_command_is_quoted_and_everything_stays_pending() {
    in_namespace("a_broken_command_is_quoted_and_everything_stays_pending", |variant| {
        let name = format!("{}-restore", iptables(variant));
        let (_dir, tools) = tools(&[(&name, "echo cannot load a library >&2; exit 127")]);
        let mut backend = served(variant, tools);
        let pending = backend.pending();
        let error = backend.apply(0).unwrap_err();
        assert_eq!(
            said(&*error),
            format!(
                "cannot write the rules of IPv4: {name} failed (exit status: 127): cannot load a \
                 library"
            )
        );
        assert_eq!(backend.pending(), pending);
    });
}

#[test]
fn a_held_lock_is_waited_for_and_then_named() {
    in_namespace("a_held_lock_is_waited_for_and_then_named", |variant| {
        if variant == Variant::Nft {
            return; // It has no lock.
        }
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("xtables.lock");
        let file = fs::File::create(&lock).unwrap();
        file.lock().unwrap();
        // Not the machine's own lock, which others may want.
        let program = "iptables-legacy-restore";
        let real = format!("/usr/sbin/{program}");
        let script = format!("XTABLES_LOCKFILE={} exec {real} \"$@\"", lock.display());
        let (_dir, tools) = tools(&[(program, &script)]);
        let mut backend = served(variant, tools);
        let error = backend.apply(0).unwrap_err();
        assert_eq!(
            said(&*error),
            format!(
                "cannot write the rules of IPv4: {program} waited 5 s for the lock of iptables, \
                 which another program holds"
            )
        );
        file.unlock().unwrap();
        backend.apply(0).unwrap();
        assert_kernel_holds(&backend, "once the lock is free");
    });
}

#[test]
fn a_service_that_is_refused_is_named_and_all_others_are_served() {
    in_namespace("a_service_that_is_refused_is_named_and_all_others_are_served", |variant| {
        // Rules of one service are made such that the real command refuses them.
        let name = format!("{}-restore", iptables(variant));
        let real = format!("/usr/sbin/{name}");
        let script =
            format!("sed -e 's/--to-destination 10.1.1/--to-nobody 10.1.1/' | exec {real} \"$@\"");
        let (_dir, tools) = tools(&[(&name, &script)]);
        let mut backend = served(variant, tools);
        let error = said(&*backend.apply(0).unwrap_err());
        assert!(
            error.starts_with("cannot serve port 'p' of n/s1, all others are served: "),
            "{error}"
        );
        assert!(error.contains(&format!("{name} refuses line ")), "{error}");
        assert_eq!(backend.pending(), 0);
        assert_kernel_holds(&backend, "without one service");
        assert_eq!(backend.services().len(), 2);
        assert!(backend.limits().unwrap().contains_key(&port(1)));
    });
}

#[test]
fn a_restore_that_fails_halfway_is_finished_by_the_next() {
    in_namespace("a_restore_that_fails_halfway_is_finished_by_the_next", |variant| {
        // The nat table is committed, the filter table is not.
        let name = format!("{}-restore", iptables(variant));
        let real = format!("/usr/sbin/{name}");
        let (dir, tools) = tools(&[(
            &name,
            &format!("sed -e '/^\\*filter/,$d' | {real} \"$@\"; echo gone >&2; exit 1"),
        )]);
        let mut backend = served(variant, tools);
        assert!(said(&*backend.apply(0).unwrap_err()).ends_with("gone"));
        fs::remove_file(dir.path().join(&name)).unwrap();
        backend.apply(0).unwrap();
        assert_kernel_holds(&backend, "after the second apply");
    });
}

#[test]
fn many_chains_are_written_at_once() {
    in_namespace("many_chains_are_written_at_once", |variant| {
        let mut backend = Iptables::new("default", Some(variant));
        backend.observe().unwrap();
        backend.set_node(&here());
        backend.compile(&Table((0..20).map(|of| (port(of), service(of, 80))).collect()));
        let text = backend.render();
        assert!(text.lines().any(|line| line == LIST), "the table is not listed first");
        backend.apply(0).unwrap();
        assert_kernel_holds(&backend, "after a restore that lists");
    });
}
