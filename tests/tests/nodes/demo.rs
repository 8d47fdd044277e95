//! The demo of a cluster, run as `cargo xtask demo` runs it.

use std::process::{Command, Stdio};

use crate::is_skipped;

#[test]
fn the_story_shows_no_error_and_leaves_nothing() {
    if is_skipped() {
        return;
    }
    let child = Command::new(env!("CARGO_BIN_EXE_demo"))
        .arg("--hashplane")
        .arg(std::env::var_os("HASHPLANE_BIN").unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let own = format!("hp{:x}n", child.id());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("\nerrors: 0\n"), "{text}");
    assert!(text.contains(" v2 bonjour"), "{text}");
    assert!(text.lines().count() < 40, "a newcomer reads one screen:\n{text}");
    let netns = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8_lossy(&netns.stdout).into_owned();
    assert!(!left.contains(&own), "{left}");
}
