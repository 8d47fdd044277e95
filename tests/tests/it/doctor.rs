//! What `hashplane doctor` tells: what runs and why, what differs, what others have left.

use dataplane_common::{FrontendKey, TCP, names};
use dataplane_user::ebpf::maps::{KernelMaps, MapWriter as _};
use hashplane_tests::{Daemon, lab::NodeName};
use serde_json::Value;

use crate::support::{World, skipped, until};

/// What the doctor says, and whether all is well.
fn examine(daemon: &Daemon) -> (Value, bool) {
    let output = daemon.run(&["doctor", "-o", "json"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_slice(&output.stdout);
    let value = value.unwrap_or_else(|error| panic!("{error}: {said}"));
    (value, output.status.success())
}

#[test]
fn an_entry_that_somebody_deleted_is_named_by_its_service() {
    if skipped() {
        return;
    }
    let world = World::with(&["--mode", "ebpf"]);
    let server = world.server("server", NodeName::A, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    world.apply(&web);
    let (before, good) = examine(&world.a);
    assert!(good, "{before:#}");
    let running = &before["running"];
    assert_eq!((&running["mode"], &running["drift"]["total"]), (&"ebpf".into(), &0.into()));
    assert_eq!(running["why"], "--mode ebpf asks for it");
    assert_eq!(before["choice"]["mode"], "ebpf", "{before:#}");

    let mut maps = KernelMaps::from_pins(&world.a.instance_pins().join("maps")).unwrap();
    let key = FrontendKey::new([10, 96, 0, 1], 80, TCP);
    maps.delete(names::FRONTENDS4, &[key]).unwrap();
    let (after, good) = examine(&world.a);
    assert!(!good);
    let rows = after["running"]["drift"]["rows"].as_array().unwrap();
    let what = "frontend 10.96.0.1 port 80";
    let names = |row: &&Value| row["service"] == "default/web:http-tcp" && row["what"] == what;
    assert!(rows.iter().any(|row| names(&row)), "{after:#}");
    let text = String::from_utf8(world.a.run(&["doctor"]).unwrap().stdout).unwrap();
    assert!(text.contains("entries in the kernel are not what the table says"), "{text}");
}

#[test]
fn without_a_daemon_the_doctor_says_so() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    world.a.stop().unwrap();
    let (said, good) = examine(&world.a);
    assert!(good, "{said:#}");
    assert_eq!(said["running"], Value::Null);
    let text = String::from_utf8(world.a.run(&["doctor"]).unwrap().stdout).unwrap();
    assert!(text.contains("no daemon of instance"), "{text}");
    world.a.start_again().unwrap();
    until("the daemon answers", || {
        (examine(&world.a).0["running"]["mode"].is_string()).then_some(())
    });
}
