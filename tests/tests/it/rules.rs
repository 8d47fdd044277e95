//! Faults of the netfilter modes: rules that somebody changed, programs and modules that are missing.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use hashplane_tests::{
    Daemon, DaemonOptions, Lab, Place,
    agent::protocol::Transport,
    lab::{Asking, Family, NodeName},
};
use serde_json::Value;

use crate::support::{World, ask, hashplane, lab, skipped};

/// Between two looks of a daemon at what others changed, twice, on a slow machine.
const REPAIR_WAIT: Duration = Duration::from_mins(1);

/// As `support::until`, for what takes a look of the daemon's upkeep.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(begun.elapsed() < REPAIR_WAIT, "{what}: not after {REPAIR_WAIT:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// What a command on the node says; it must succeed.
fn run(host: &Place, program: &str, arguments: &[&str]) -> String {
    let output = host.command(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn drifted(daemon: &Daemon) -> u64 {
    daemon.json("status").unwrap()["report"]["drifted"].as_u64().unwrap()
}

/// One service with one server; somebody breaks its rules; the doctor names it, the daemon mends it.
fn is_named_and_repaired(mode: &str, damage: impl Fn(&Place)) {
    let world = World::with(&["--mode", mode]);
    let server = world.server("server", NodeName::A, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    world.apply(&web);
    let client = world.pod("client", NodeName::A);
    ask(&client, Transport::Tcp, web.frontend(Family::V4, 80), "before");
    let examine = || -> Value {
        let output = world.a.run(&["doctor", "-o", "json"]).unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let before = examine();
    assert_eq!(before["running"]["mode"], mode, "{before:#}");
    assert_eq!(before["running"]["drift"]["total"], 0, "{before:#}");
    let host = world.lab.host(NodeName::A);
    // The daemon may mend it before the doctor looks.
    let named = (0..5).any(|_| {
        damage(&host);
        let rows = examine()["running"]["drift"]["rows"].clone();
        let name = |row: &Value| row["service"].as_str().unwrap().starts_with("default/web");
        rows.as_array().unwrap().iter().any(name)
    });
    assert!(named, "the doctor does not name the service");
    eventually("the damage is counted", || (drifted(&world.a) > 0).then_some(()));
    let to = web.frontend(Family::V4, 80);
    let quick = Asking { timeout_ms: 400, ..Asking::default() };
    eventually("the service is back", || client.ask_as(Transport::Tcp, to, quick).ok());
    let drift = || examine()["running"]["drift"]["total"].as_u64();
    eventually("nothing differs any more", || (drift() == Some(0)).then_some(()));
}

#[test]
fn an_element_of_nftables_that_somebody_deleted_is_named_and_repaired() {
    if skipped() {
        return;
    }
    is_named_and_repaired("nftables", |host| {
        run(host, "nft", &["flush", "map", "ip", "hashplane-nodeA", "services"]);
    });
}

#[test]
fn a_table_of_nftables_that_somebody_deleted_is_repaired() {
    if skipped() {
        return;
    }
    let world = World::with(&["--mode", "nftables"]);
    let server = world.server("server", NodeName::A, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    world.apply(&web);
    let client = world.pod("client", NodeName::A);
    let to = web.frontend(Family::V6, 80);
    ask(&client, Transport::Tcp, to, "before");
    let host = world.lab.host(NodeName::A);
    run(&host, "nft", &["delete", "table", "ip6", "hashplane-nodeA"]);
    let quick = Asking { timeout_ms: 400, ..Asking::default() };
    assert!(client.ask_as(Transport::Tcp, to, quick).is_err(), "the table did nothing");
    eventually("the service is back", || client.ask_as(Transport::Tcp, to, quick).ok());
    assert!(drifted(&world.a) > 0);
}

#[test]
fn a_chain_of_iptables_that_somebody_flushed_is_named_and_repaired() {
    if skipped() {
        return;
    }
    is_named_and_repaired("iptables", |host| {
        let saved = run(host, "iptables-save", &["-t", "nat"]);
        let rules = saved.lines().filter(|line| line.contains("DNAT"));
        let mut chains: Vec<&str> = rules.filter_map(|line| line.split(' ').nth(1)).collect();
        chains.dedup();
        assert!(!chains.is_empty(), "{saved}");
        for chain in chains {
            run(host, "iptables", &["-t", "nat", "-F", chain]);
        }
    });
}

/// A program in the place of `hashplane` that sets variables first.
fn wrapped(folder: &Path, variables: &str) -> PathBuf {
    script(folder, "hashplane", &format!("{variables} exec {} \"$@\"", hashplane().display()))
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn with_iptables(binary: PathBuf) -> (Lab, Daemon) {
    with_mode(binary, "iptables")
}

/// A lab with one daemon, and a service on it.
fn with_mode(binary: PathBuf, mode: &str) -> (Lab, Daemon) {
    let lab = lab();
    let options = DaemonOptions::new(binary).with(&["--mode", mode]);
    let daemon = lab.start_daemon(NodeName::A, options).unwrap();
    let server = lab.pod("server", NodeName::A).unwrap();
    lab.service("web").port("http", 80, 8080).endpoint(&server).write().unwrap();
    (lab, daemon)
}

/// Nothing of ours is in any table.
fn assert_untouched(lab: &Lab) {
    let saved = run(&lab.host(NodeName::A), "iptables-save", &[]);
    assert!(!saved.contains("HASHPLANE"), "{saved}");
}

fn logged(daemon: &Daemon, words: &[&str]) {
    let is_it = |line: &str| words.iter().all(|word| line.contains(word));
    eventually("one sentence says what is wrong", || daemon.log().lines().any(is_it).then_some(()));
}

#[test]
fn without_iptables_one_sentence_says_so_and_nothing_is_half_done() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let binary = wrapped(folder.path(), &format!("PATH={}", empty.display()));
    let (lab, daemon) = with_iptables(binary);
    logged(&daemon, &["iptables", "install iptables or choose another mode"]);
    assert_untouched(&lab);
}

#[test]
fn a_broken_restore_changes_nothing_until_it_works_again() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for family in ["iptables", "ip6tables"] {
        for variant in ["", "-nft", "-legacy"] {
            let name = format!("{family}{variant}-restore");
            script(folder.path(), &name, "cat > /dev/null; echo 'out of ideas' >&2; exit 2");
        }
    }
    let binary = wrapped(folder.path(), &format!("PATH={}:$PATH", folder.path().display()));
    let (lab, daemon) = with_iptables(binary);
    logged(&daemon, &["iptables", "restore", "out of ideas"]);
    assert_untouched(&lab);
    for entry in fs::read_dir(folder.path()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with("-restore") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    eventually("the service is programmed", || {
        daemon.programmed().ok()?.contains("default/web").then_some(())
    });
    let saved = run(&lab.host(NodeName::A), "iptables-save", &["-t", "nat"]);
    assert!(saved.contains("HASHPLANE"), "{saved}");
}

#[test]
fn a_held_lock_of_iptables_is_named_and_waited_for() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("xtables.lock");
    fs::write(&lock, "").unwrap();
    // Only the legacy variant takes the lock; the nf_tables one has the kernel's transactions.
    for family in ["iptables", "ip6tables"] {
        for what in ["save", "restore"] {
            let text = format!("exec {family}-legacy-{what} \"$@\"");
            script(folder.path(), &format!("{family}-nft-{what}"), &text);
            script(folder.path(), &format!("{family}-{what}"), &text);
        }
    }
    let variables = format!(
        "export XTABLES_LOCKFILE={}; PATH={}:$PATH",
        lock.display(),
        folder.path().display(),
    );
    let holder = lab();
    let mut held = holder.host(NodeName::A).command("flock");
    held.arg(&lock).args(["sleep", "600"]).stdin(Stdio::null());
    let mut held = held.spawn().unwrap();
    let (lab, daemon) = with_iptables(wrapped(folder.path(), &variables));
    logged(&daemon, &["waited 5 s for the lock of iptables", "another program holds"]);
    assert_untouched(&lab);
    held.kill().unwrap();
    held.wait().unwrap();
    drop(holder);
    eventually("the service is programmed", || {
        daemon.programmed().ok()?.contains("default/web").then_some(())
    });
}

#[test]
fn a_kernel_without_ip_vs_is_told_in_one_sentence() {
    if skipped() {
        return;
    }
    let lab = lab();
    if lab.host(NodeName::A).command("modprobe").args(["-q", "ip_vs"]).status().unwrap().success() {
        let reason = "this kernel has ip_vs";
        let name = "rules::a_kernel_without_ip_vs_is_told_in_one_sentence";
        return hashplane_tests::skip::say_skipped(name, reason);
    }
    let options = DaemonOptions::new(hashplane()).with(&["--mode", "ipvs"]);
    match lab.start_daemon(NodeName::A, options) {
        Ok(daemon) => logged(&daemon, &["ip_vs"]),
        Err(error) => assert!(format!("{error:?}").contains("ip_vs"), "{error:?}"),
    }
    let tables = run(&lab.host(NodeName::A), "nft", &["list", "tables"]);
    assert!(!tables.contains("hashplane"), "{tables}");
}

#[test]
fn what_kube_proxy_has_left_goes_once_the_daemon_serves_if_that_is_asked_for() {
    if skipped() {
        return;
    }
    let lab = lab();
    let host = lab.host(NodeName::A);
    for chain in ["KUBE-SERVICES", "KUBE-SVC-AAAAAAAAAAAAAAAA", "OTHERS"] {
        run(&host, "iptables", &["-t", "nat", "-N", chain]);
    }
    for chain in ["KUBE-SERVICES", "OTHERS"] {
        run(&host, "iptables", &["-t", "nat", "-A", "OUTPUT", "-j", chain]);
    }
    let options = DaemonOptions::new(hashplane()).with(&["--mode", "nftables"]);
    let mut daemon = lab.start_daemon(NodeName::A, options).unwrap();
    let saved = || run(&host, "iptables-save", &["-t", "nat"]);
    assert!(saved().contains("KUBE-SERVICES"), "nobody asked for that");
    daemon.stop().unwrap();
    drop(daemon);
    let arguments = ["--mode", "nftables", "--cleanup-kube-proxy"];
    let options = DaemonOptions::new(hashplane()).with(&arguments);
    let _daemon = lab.start_daemon(NodeName::A, options).unwrap();
    eventually("kube-proxy's chains are gone", || (!saved().contains("KUBE-")).then_some(()));
    assert!(saved().contains("-A OUTPUT -j OTHERS"), "{}", saved());
}

#[test]
fn a_mode_is_found_and_removed_even_if_the_state_directory_is_lost() {
    if skipped() {
        return;
    }
    for (from, to) in [("nftables", "iptables"), ("iptables", "nftables")] {
        let (lab, mut daemon) = with_mode(hashplane(), from);
        eventually("the service is programmed", || {
            daemon.programmed().ok()?.contains("default/web").then_some(())
        });
        daemon.kill().unwrap();
        fs::remove_dir_all(daemon.state_dir()).unwrap();
        drop(daemon);
        let host = lab.host(NodeName::A);
        let has = |mode: &str| match mode {
            "nftables" => run(&host, "nft", &["list", "tables"]).contains("hashplane-nodeA"),
            _ => run(&host, "iptables-save", &[]).contains("HASHPLANE"),
        };
        assert!(has(from) && !has(to), "{from} to {to}: that is no start");
        let options = DaemonOptions::new(hashplane()).with(&["--mode", to]);
        let _daemon = lab.start_daemon(NodeName::A, options).unwrap();
        eventually("only the new mode is there", || (has(to) && !has(from)).then_some(()));
    }
}

#[test]
fn the_implementation_of_iptables_that_is_asked_for_has_the_rules() {
    if skipped() {
        return;
    }
    for (asked, other) in [("legacy", "nft"), ("nft", "legacy")] {
        let lab = lab();
        let arguments = ["--mode", "iptables", "--iptables", asked, "--masquerade-bit", "20"];
        let options = DaemonOptions::new(hashplane()).with(&arguments);
        let daemon = lab.start_daemon(NodeName::A, options).unwrap();
        let server = lab.pod("server", NodeName::A).unwrap();
        lab.service("web").port("http", 80, 8080).endpoint(&server).write().unwrap();
        eventually("the service is programmed", || {
            daemon.programmed().ok()?.contains("default/web").then_some(())
        });
        let host = lab.host(NodeName::A);
        let saved = |variant: &str| run(&host, &format!("iptables-{variant}-save"), &["-t", "nat"]);
        assert!(saved(asked).contains("0x100000/0x100000"), "{}", saved(asked));
        assert!(!saved(other).contains("HASHPLANE"), "{}", saved(other));
    }
}

#[test]
fn what_netfilter_does_is_what_ebpf_would_do() {
    if skipped() {
        return;
    }
    for mode in ["nftables", "iptables"] {
        let world = World::with(&["--mode", mode, "--shadow", "on"]);
        let near = world.server("near", NodeName::A, 8080);
        let far = world.server("far", NodeName::B, 8080);
        let web = world.lab.service("web").port("http", 80, 8080).endpoint(&near).endpoint(&far);
        world.apply(&web);
        let client = world.pod("client", NodeName::A);
        let count = |result: &str| {
            let label = format!("result=\"{result}\"");
            world.a.metric("hashplane_shadow_total", &[&label]).unwrap()
        };
        // What is asked within a second of a change is not counted as the same, nor as different.
        eventually("connections are compared", || {
            for family in Family::ALL {
                ask(&client, Transport::Tcp, web.frontend(family, 80), mode);
                ask(&client, Transport::Udp, web.frontend(family, 80), mode);
            }
            (count("agrees") >= 20.0).then_some(())
        });
        for result in ["endpoint", "masquerade", "only_netfilter", "only_ebpf", "refused"] {
            assert!(count(result) == 0.0, "{mode} {result}: {}", world.a.log());
        }
    }
}
