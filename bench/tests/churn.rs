//! The measurement of changes runs through and gives the rows it names.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use bench::churn::{Options, run};
use dataplane_user::backend::Mode;

fn options() -> Options {
    Options {
        services: vec![100, 1000],
        endpoints: 3,
        modes: Vec::new(),
        heap: None,
        case: Some(PathBuf::from(env!("CARGO_BIN_EXE_bench-case"))),
        patience: Duration::from_mins(2),
    }
}

#[test]
fn a_small_cluster_gives_every_row() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: kernel maps need root");
        return;
    }
    if let Err(error) = dataplane_user::ebpf::object::object() {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let heap = Some(PathBuf::from(env!("CARGO_BIN_EXE_bench-heap")));
    let options = Options { modes: vec![Mode::Ebpf], heap, ..options() };
    let measured = run(&options).unwrap();
    let rows: Vec<_> = measured.raw.iter().map(bench::report::Raw::row).collect();
    let seen: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.unit)).collect();
    assert_eq!(
        seen,
        [
            ("cold_100", "ms"),
            ("cold_1k", "ms"),
            ("change_100", "us"),
            ("change_1k", "us"),
            ("heap_per_service_1k", "B"),
        ]
    );
    assert!(rows.iter().all(|row| row.median > 0.0 && row.p99 >= row.median));
    assert!(rows[..2].iter().all(|row| row.n >= 5));
    assert!(rows[2..4].iter().all(|row| row.n >= 1000));
}

#[test]
fn netfilter_modes_give_every_row_or_say_why_not() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a network namespace of our own needs root");
        return;
    }
    let heap = Some(PathBuf::from(env!("CARGO_BIN_EXE_bench-heap")));
    let modes = vec![Mode::Nftables, Mode::Ipvs, Mode::Iptables];
    let options = Options { services: vec![20, 100], modes: modes.clone(), heap, ..options() };
    let measured = run(&options).unwrap();
    let seen: BTreeSet<_> = measured.raw.iter().map(|raw| (raw.name.as_str(), raw.unit)).collect();
    let mut expected = Vec::new();
    for mode in modes {
        if let Some(why) =
            measured.limits.iter().find(|line| line.starts_with(&format!("SKIP {mode}")))
        {
            eprintln!("SKIPPED: {why}");
            continue;
        }
        for (what, unit) in [("cold", "ms"), ("change", "us"), ("kernel", "MiB")] {
            expected.extend([20, 100].map(|size| (format!("{what}_{size}_{mode}"), unit)));
        }
        expected.push((format!("heap_per_service_100_{mode}"), "B"));
    }
    let expected: BTreeSet<_> =
        expected.iter().map(|(name, unit)| (name.as_str(), *unit)).collect();
    assert_eq!(seen, expected, "{:?}", measured.limits);
    let timed = measured.raw.iter().filter(|raw| raw.unit != "MiB").map(bench::report::Raw::row);
    assert!(timed.into_iter().all(|row| row.median > 0.0 && row.p99 >= row.median));
}

#[test]
fn a_mode_that_takes_too_long_says_so() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a network namespace of our own needs root");
        return;
    }
    let patience = Duration::from_millis(1);
    let options = Options { modes: vec![Mode::Nftables], patience, ..options() };
    let measured = run(&options).unwrap();
    assert!(measured.raw.is_empty());
    let said = "nftables with 100, 1000 services takes more than 0 s";
    assert!(
        measured.limits.iter().any(|line| line == said || line.starts_with("SKIP")),
        "{:?}",
        measured.limits
    );
}
