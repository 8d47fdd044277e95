//! The demo, run as `cargo xtask demo` runs it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{TOOL, hashplane, skipped, traces};

#[test]
fn the_demo_shows_no_error_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let output =
        Command::new(TOOL).arg("--dataplane").arg("--hashplane").arg(hashplane()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("\nerrors: 0\n"), "{text}");
    assert!(text.lines().count() < 40, "a newcomer reads one screen:\n{text}");
    assert_eq!(traces(lab_in(&text)), Vec::<String>::new());
}

#[test]
fn the_demo_leaves_nothing_after_an_interrupt() {
    if skipped() {
        return;
    }
    let mut demo = Command::new(TOOL)
        .arg("--dataplane")
        .arg("--hashplane")
        .arg(hashplane())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("hp-")).unwrap();
    let lab = lab_in(&line).to_owned();
    assert!(!traces(&lab).is_empty());
    let begun = Instant::now();
    kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), Signal::SIGINT).unwrap();
    let rest: Vec<String> = lines.collect();
    let status = demo.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{rest:?}");
    assert!(begun.elapsed().as_secs() < 5, "{rest:?}");
    assert_eq!(traces(&lab), Vec::<String>::new());
}

#[test]
fn a_demo_that_is_kept_can_be_removed() {
    if skipped() {
        return;
    }
    let demo = |arguments: &[&str]| {
        // Into a file: what is kept holds on to its output, and a pipe would never end.
        let said = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(TOOL);
        command.env("HASHPLANE_BIN", hashplane()).arg("--dataplane").args(arguments);
        command.stdout(said.reopen().unwrap()).stderr(said.reopen().unwrap());
        let status = command.status().unwrap();
        let text = std::fs::read_to_string(said.path()).unwrap();
        assert!(status.success(), "{text}");
        text
    };
    let text = demo(&["--keep"]);
    let lab = lab_in(&text);
    assert!(!traces(lab).is_empty(), "{text}");
    let netns = format!("{lab}-outside");
    let url = "http://192.168.77.11:30080";
    let curl = Command::new("ip").args(["netns", "exec", &netns, "curl", "-s", url]).output();
    assert!(String::from_utf8_lossy(&curl.unwrap().stdout).contains("\"pod\":\"web-"), "{text}");
    demo(&["--remove", lab]);
    assert_eq!(traces(lab), Vec::<String>::new());
}

/// The name of the lab in what the demo says.
fn lab_in(text: &str) -> &str {
    let at = text.find("hp-").unwrap_or_else(|| panic!("no lab in {text}"));
    text[at..].split_whitespace().next().unwrap_or_default()
}

#[test]
fn the_examples_are_kubernetes_objects() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let mut objects = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            let what = path.display();
            if document.contains("kind: EndpointSlice") {
                let slice: EndpointSlice = serde_saphyr::from_str(document).unwrap();
                assert!(slice.endpoints.is_some_and(|list| !list.is_empty()), "{what}");
            } else {
                let service: Service = serde_saphyr::from_str(document).unwrap();
                assert!(service.spec.unwrap().cluster_ips.is_some(), "{what}");
            }
            objects += 1;
        }
    }
    assert_eq!(objects, 11);
}
