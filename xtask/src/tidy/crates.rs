//! Floors of the crates, and where unsafe code may live.

use super::{File, Finding, line_of};

/// Our crates and their floors. A crate imports only from floors below its own.
const FLOORS: [(&str, u8); 11] = [
    ("dataplane-common", 0),
    ("dataplane-ebpf", 1),
    ("dataplane-user", 2),
    ("dataplane-ebpf-fuzz", 2),
    ("control-plane", 2),
    ("node-agent", 2),
    ("hashplane-test-pod", 0),
    ("bench", 3),
    ("hashplane", 4),
    ("hashplane-tests", 4),
    // Beside the floors: it must build where nothing of ours does.
    ("xtask", 0),
];

/// Roots of the crates that talk to the kernel; all others forbid unsafe code.
const TALK_TO_THE_KERNEL: [&str; 2] = ["dataplane-user/src/lib.rs", "dataplane-ebpf/src/main.rs"];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.path.ends_with("Cargo.toml") {
        findings.extend(floors(file));
    }
    if file.is_rust() {
        findings.extend(forbids_unsafe(file));
        findings.extend(unsafe_has_its_room(file));
    }
    findings
}

fn floors(file: &File) -> Vec<Finding> {
    let Some(name) = package(&file.text) else { return Vec::new() };
    let Some(own) = floor(name) else {
        let rule = format!("crate `{name}` has no floor: give it one in xtask/src/tidy/crates.rs");
        return vec![Finding::new(file, 1, rule)];
    };
    let mut findings = Vec::new();
    for (line, dependency) in dependencies(&file.text) {
        let Some(below) = floor(dependency) else { continue };
        if below >= own {
            findings.push(Finding::new(
                file,
                line,
                format!(
                    "`{name}` (floor {own}) imports `{dependency}` (floor {below}): floors only \
                     import downwards, so that a crate can be read without those above it"
                ),
            ));
        }
    }
    findings
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor)
}

/// The name in `[package]`; a workspace has none.
fn package(toml: &str) -> Option<&str> {
    let (_, section) = toml.split_once("[package]")?;
    let line = section.lines().find_map(|line| line.strip_prefix("name = \""))?;
    line.split('"').next()
}

/// Line and name of every dependency, in all tables of dependencies.
fn dependencies(toml: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (at, line) in toml.lines().enumerate() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies") && !section.starts_with("workspace");
            if let Some((_, name)) = section.split_once("dependencies.") {
                found.push((at + 1, name));
            }
        } else if inside && let Some((name, _)) = line.split_once(['.', ' ', '=']) {
            found.push((at + 1, name));
        }
    }
    found
}

fn forbids_unsafe(file: &File) -> Option<Finding> {
    let is_root = file.path.ends_with("src/lib.rs")
        || file.path.ends_with("src/main.rs")
        || file.path.contains("/src/bin/")
        || file.path.contains("/fuzz_targets/");
    let forbids = file.code.contains("#![forbid(unsafe_code)]");
    let rule = "a crate root must say `#![forbid(unsafe_code)]`: unsafe lives in the two crates \
                that talk to the kernel";
    let talks = TALK_TO_THE_KERNEL.contains(&file.path.as_str());
    (is_root && !forbids && !talks).then(|| Finding::new(file, 1, rule))
}

fn unsafe_has_its_room(file: &File) -> Vec<Finding> {
    let is_room = file.path.split('/').any(|part| part == "kernel" || part == "kernel.rs");
    if is_room {
        return Vec::new();
    }
    let rule = "`unsafe` outside a module named `kernel`: it is a room with a sign, so that a \
                review knows where to look";
    super::words::occurrences(&file.code, "unsafe")
        .map(|at| Finding::new(file, line_of(&file.code, at), rule))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&File::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_crate_must_not_import_from_its_own_floor_or_above() {
        let toml = "[package]\nname = \"dataplane-user\"\n\n[dependencies]\naya.workspace = true\n\
                    dataplane-common.workspace = true\nbench = { path = \"../bench\" }\n";
        assert_eq!(lines("dataplane-user/Cargo.toml", toml), [7]);
        let table =
            "[package]\nname = \"bench\"\n[dev-dependencies.hashplane]\npath = \"../cli\"\n";
        assert_eq!(lines("bench/Cargo.toml", table), [3]);
    }

    #[test]
    fn xtask_must_import_nothing_of_ours() {
        let toml = "[package]\nname = \"xtask\"\n[dependencies]\ndataplane-common = \"1\"\n";
        assert_eq!(lines("xtask/Cargo.toml", toml), [4]);
    }

    #[test]
    fn a_crate_without_a_floor_is_named() {
        assert_eq!(lines("new/Cargo.toml", "[package]\nname = \"new\"\n"), [1]);
    }

    #[test]
    fn a_crate_root_must_forbid_unsafe_code() {
        let text = "//! A crate.\n// #![forbid(unsafe_code)]\n";
        assert_eq!(lines("bench/src/lib.rs", text), [1]);
        assert_eq!(lines("dataplane-user/src/lib.rs", text), [0; 0]);
    }

    #[test]
    fn unsafe_outside_its_room_is_found() {
        let text = "//! A file that says unsafe.\nfn f() { unsafe { g() } }\n";
        assert_eq!(lines("dataplane-user/src/ebpf/maps.rs", text), [2]);
        assert_eq!(lines("dataplane-user/src/ebpf/kernel.rs", text), [0; 0]);
        assert_eq!(lines("dataplane-ebpf/src/kernel/maps.rs", text), [0; 0]);
    }
}
