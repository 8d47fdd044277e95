//! Bad input and faults: what is wrong is named, and everything else goes on.

use std::{
    fs::Permissions,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
    time::Duration,
};

use hashplane_tests::{
    DaemonOptions,
    agent::protocol::Transport,
    lab::{Asking, Family, NodeName},
};

use crate::support::{World, ask, each, hashplane, lab, skipped, until, until_within};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// A Service of one port, given the text of its `spec`.
fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
    )
}

#[test]
fn a_manifest_that_does_not_parse_leaves_the_last_good_state() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::B, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    world.apply(&web);
    let before = world.a.metric("hashplane_problems", &[]).unwrap();
    world.lab.manifests().write("web.yaml", "kind: Service\n  spec: [\n").unwrap();
    until("the problem is counted", || {
        (world.a.metric("hashplane_problems", &[]).ok()? > before).then_some(())
    });
    assert!(world.a.log().contains("web.yaml"), "{}", world.a.log());
    for client in world.clients() {
        each(|family, transport, what| {
            ask(&client, transport, web.frontend(family, 80), what);
        });
    }
    world.apply(&web);
    until("the problem is over", || {
        let problems = world.a.metric("hashplane_problems", &[]).ok()?;
        (problems <= before).then_some(())
    });
}

#[test]
fn bad_objects_are_named_and_the_rest_keeps_working() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::A, 8080);
    let bad = [
        ("no-ports", "{clusterIP: 10.96.0.101}"),
        ("no-address", "{clusterIP: 10.96.0.777, ports: [{port: 80}]}"),
        ("twice", "{clusterIP: 10.96.0.103, ports: [{name: a, port: 80}, {name: b, port: 80}]}"),
        ("carrier-pigeon", "{clusterIP: 10.96.0.104, ports: [{port: 80, protocol: PIGEON}]}"),
    ];
    for (name, spec) in bad {
        world.lab.manifests().write(&format!("{name}.yaml"), &service(name, spec)).unwrap();
    }
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    world.apply(&web);
    for (name, _) in bad {
        until(&format!("{name} is named"), || world.a.log().contains(name).then_some(()));
    }
    let problems = world.a.metric("hashplane_problems", &[]).unwrap();
    assert!(problems >= 4.0, "{problems}:\n{}", world.a.log());
    for client in world.clients() {
        each(|family, transport, what| {
            ask(&client, transport, web.frontend(family, 80), what);
        });
    }
}

#[test]
fn a_slice_of_an_unknown_service_waits_for_it() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::A, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    let yaml = web.to_yaml().unwrap();
    let (service, slices) = yaml.split_once("---\n").unwrap();
    world.lab.manifests().write("slices.yaml", slices).unwrap();
    let other = world.lab.service("other").number(2).port("http", 80, 8080).endpoint(&server);
    world.apply(&other);
    world.lab.manifests().write("service.yaml", service).unwrap();
    let [_, packets] = world.clients();
    let to = web.frontend(Family::V6, 80);
    let quick = Asking { timeout_ms: 300, ..Asking::default() };
    until("the Service serves", || packets.ask_as(Transport::Tcp, to, quick).ok());
}

#[test]
fn a_second_daemon_on_one_node_is_refused_with_a_reason() {
    if skipped() {
        return;
    }
    let world = World::new();
    let said = world.a.run_second_daemon().unwrap();
    assert!(!said.status.success());
    let stderr = String::from_utf8_lossy(&said.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains("already") || last.contains("another"), "{stderr}");
    world.a.health().unwrap();
}

#[test]
fn a_cgroup_that_does_not_exist_is_named() {
    if skipped() {
        return;
    }
    let lab = lab();
    let options = DaemonOptions::new(hashplane())
        .with(&["--cgroup", "/sys/fs/cgroup/hashplane-no-such-group"]);
    let error = lab.start_daemon(NodeName::A, options).unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("hashplane-no-such-group"), "{text}");
}

/// How long 20,000 services may take while other tests run.
const MANY_WAIT: Duration = Duration::from_mins(1);

#[test]
fn more_services_than_fit_leave_the_first_ones_working() {
    if skipped() {
        return;
    }
    let world = World::with(&["--frontends-max", "10000"]);
    let server = world.server("server", NodeName::B, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    world.apply(&web);
    let many = (0..20_000_u32).map(|number| {
        let address = std::net::Ipv4Addr::from(0x0a60_8000 + number);
        service(
            &format!("many-{number}"),
            &format!("{{clusterIP: {address}, ports: [{{port: 80}}]}}"),
        )
    });
    let many: Vec<String> = many.collect();
    world.lab.manifests().write("zz-many.yaml", &many.join("---\n")).unwrap();
    until_within(MANY_WAIT, "what does not fit is counted", || {
        (world.a.metric("hashplane_left_out", &[]).ok()? >= 10_000.0).then_some(())
    });
    for client in world.clients() {
        each(|family, transport, what| {
            ask(&client, transport, web.frontend(family, 80), what);
        });
    }
    assert!(world.a.log().lines().count() < 1000, "the log repeats itself");
    world.lab.manifests().remove("zz-many.yaml").unwrap();
    until_within(MANY_WAIT, "everything fits again", || {
        (world.a.metric("hashplane_left_out", &[]).ok()? == 0.0).then_some(())
    });
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    if skipped() {
        return;
    }
    let lab = lab();
    let options = DaemonOptions::new(hashplane()).with(&["--nics", "eth0,nosuch0"]);
    match lab.start_daemon(NodeName::A, options) {
        Ok(daemon) => until("it is named", || daemon.log().contains("nosuch0").then_some(())),
        Err(error) => assert!(format!("{error:?}").contains("nosuch0"), "{error:?}"),
    }
}

#[test]
fn who_is_not_root_is_told_in_one_sentence() {
    if skipped() {
        return;
    }
    // The build folder may be closed to others.
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir();
    let folder = folder.unwrap();
    let binary = folder.path().join("hashplane");
    std::fs::copy(hashplane(), &binary).unwrap();
    let output = Command::new(&binary)
        .args(["proxy", "--node-name", "node", "--manifests"])
        .arg(folder.path())
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .current_dir("/")
        .gid(NOBODY)
        .uid(NOBODY)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let sentences: Vec<&str> =
        said.lines().filter(|line| line.starts_with("hashplane: ")).collect();
    assert_eq!(sentences.len(), 1, "{said}");
    assert!(sentences[0].contains("root"), "{said}");
}
