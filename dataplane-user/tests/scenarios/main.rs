//! Scenario files: Kubernetes objects in; table, maps, and where packets go, out.
//!
//! `NAME.yaml` begins with a document `scenario`: a title, the node, and packets; then come plain
//! objects. A document `step` begins a change: the objects after it are new or replace others, and
//! those under `delete` are gone. `NAME.txt` says what has to come out; `UPDATE_SCENARIOS=1` writes it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "every line of this crate is a test")]

mod input;
mod maps;
mod packets;
mod table;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use dataplane_user::{
    model::{ObjectEvent, ServiceTable},
    simulate::every_backend,
};

use self::{
    input::{Scenario, Step},
    maps::Maps,
};

/// As many as the features that they are about, at least.
const SCENARIOS_MIN: usize = 40;
/// Between two steps: longer than what left has to rest before its place is used again.
const STEP_MS: u64 = 10_000;

#[test]
fn every_scenario_comes_out_as_its_text_says() {
    let update = env::var_os("UPDATE_SCENARIOS").is_some();
    let files = files();
    assert!(files.len() >= SCENARIOS_MIN, "scenarios are missing: {files:?}");
    let mut wrong = Vec::new();
    for file in files {
        let scenario = input::read(&fs::read_to_string(&file).unwrap());
        let text = tell(&scenario);
        let expected = file.with_extension("txt");
        if update {
            fs::write(&expected, &text).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != text {
            let name = file.file_name().unwrap().to_string_lossy();
            wrong.push(format!("{name} gives\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_text_belongs_to_a_scenario() {
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "txt") {
            assert!(path.with_extension("yaml").is_file(), "{} has no scenario", path.display());
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

fn tell(scenario: &Scenario) -> String {
    let mut text = format!("{}\n", scenario.title);
    let mut table = ServiceTable::new(scenario.node.clone());
    let mut maps = Maps::default();
    let mut program = maps::program(&maps);
    let mut backends = every_backend();
    for (number, Step { title, events }) in scenario.steps.iter().enumerate() {
        for event in events {
            table.apply(event.clone());
        }
        if number == 0 {
            table.apply(ObjectEvent::Synced);
        } else {
            writeln!(text, "\n=== {title}").unwrap();
        }
        text.push_str("\nTABLE\n");
        text.push_str(&table::tell(&table));
        let changed = table.take_changed();
        maps::apply(&table, &changed, &mut program, &mut maps, STEP_MS * number as u64);
        packets::tell_backends(&table, &changed, &mut backends);
        text.push_str("\nMAPS\n");
        text.push_str(&maps::tell(&program, &mut maps));
        text.push_str("\nPACKETS\n");
        for packet in &scenario.packets {
            packets::check_backends(&table, &backends, packet);
            writeln!(text, "{}", packets::tell(&table, &mut maps, packet)).unwrap();
        }
    }
    text
}
