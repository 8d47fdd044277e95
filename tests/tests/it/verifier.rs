//! Every program passes the verifier, and the work it takes there is held against a snapshot.

use std::{collections::BTreeMap, fmt::Write as _};

use dataplane_user::backend::Mode;
use hashplane_tests::skip;

/// The snapshots: with what the releases of their kernels begin, name, text. One line per program has
/// its name and the instructions walked. Written by `UPDATE_SNAPSHOTS=1`.
const SNAPSHOTS: [(&str, &str, &str); 2] = [
    (
        "6.1.",
        "verified-instructions-6.1",
        include_str!("../snapshots/verified-instructions-6.1.txt"),
    ),
    ("", "verified-instructions", include_str!("../snapshots/verified-instructions.txt")),
];
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots");
/// Kernels walk the same program in slightly different ways; more than this is a change of ours.
const TOLERANCE_PERCENT: u32 = 10;

#[test]
fn every_program_passes_the_verifier_within_its_snapshot() {
    if let Some(reason) = skip::why_no_datapath(Mode::Ebpf) {
        return skip::say_skipped("every_program_passes_the_verifier_within_its_snapshot", &reason);
    }
    let counts = bench::rig::verified_instructions(0).unwrap();
    // With log records the programs are longer; they have to pass too.
    bench::rig::verified_instructions(u8::MAX).unwrap();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let (_, name, snapshot) =
        SNAPSHOTS.iter().find(|(begin, ..)| release.starts_with(begin)).unwrap();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        let mut text = String::new();
        for (name, count) in &counts {
            writeln!(text, "{name} {count}").unwrap();
        }
        std::fs::write(format!("{FOLDER}/{name}.txt"), text).unwrap();
        return;
    }
    let snapshot: BTreeMap<String, u32> = snapshot
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, count)| (name.to_owned(), count.parse().unwrap()))
        .collect();
    let names = |counts: &BTreeMap<String, u32>| counts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&counts), names(&snapshot), "run with UPDATE_SNAPSHOTS=1 if this is meant");
    for (name, count) in counts {
        let limit = snapshot[&name] + snapshot[&name] * TOLERANCE_PERCENT / 100;
        assert!(
            count <= limit,
            "{name} takes {count} verified instructions, its snapshot is {}; \
             run with UPDATE_SNAPSHOTS=1 if this is meant",
            snapshot[&name]
        );
    }
}
