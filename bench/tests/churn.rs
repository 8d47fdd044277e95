//! The measurement of changes runs through and gives the rows it names.

use std::{path::PathBuf, time::Duration};

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
