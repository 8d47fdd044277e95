//! A small comparison of all modes that this machine has measures everything, and by the right path.
#![expect(clippy::print_stderr, reason = "what is skipped is said aloud")]

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use bench::routing::{
    Observer, Options, Preset,
    results::{Measure, Results, Route},
    run, store,
};

/// Keeps what people would be told.
#[derive(Debug, Default)]
struct Said(Vec<String>);

impl Observer for Said {
    fn begin(&mut self, _steps: usize) {}
    fn step(&mut self, _what: &str) {}
    fn say(&mut self, line: &str) {
        eprintln!("{line}");
        self.0.push(line.to_owned());
    }
}

fn options(name: &str) -> Options {
    let out = std::env::temp_dir().join(format!("hashplane-{name}-{}", std::process::id()));
    Options {
        preset: Preset::Smoke,
        services: None,
        endpoints: None,
        routes: None,
        out,
        patience: Some(Duration::from_secs(30)),
        program: PathBuf::from(env!("CARGO_BIN_EXE_bench-routes")),
        kube_proxy: None,
    }
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: namespaces and rules need root");
    }
    is_root
}

/// Measures of a route at a size.
fn measures(results: &Results, route: Route, services: u32) -> BTreeSet<Measure> {
    let ours = results.series.iter().filter(|one| one.route == route && one.services == services);
    ours.map(|series| series.measure).collect()
}

/// What is measured of a route, if this machine has it.
fn expected(route: Route) -> BTreeSet<Measure> {
    let connections = [
        Measure::ConnectLatency,
        Measure::FirstDatagramLatency,
        Measure::ShortConnections,
        Measure::ConnectionCpu,
        Measure::Requests,
        Measure::Throughput,
        Measure::CpuLeft,
    ];
    let packets = [Measure::Packets, Measure::PacketCost];
    let programming = [Measure::ColdProgramming, Measure::DaemonMemory, Measure::KernelMemory];
    match route {
        Route::Direct | Route::DirectAgain => connections.iter().chain(&packets).copied().collect(),
        Route::EbpfXdp => programming.iter().chain(&packets).copied().collect(),
        Route::EbpfSocket => {
            connections.iter().chain(&programming).copied().chain([Measure::Change]).collect()
        }
        Route::Iptables
        | Route::Ipvs
        | Route::Nftables
        | Route::EbpfTc
        | Route::KubeProxyIptables
        | Route::KubeProxyIpvs
        | Route::KubeProxyNftables
        | Route::Target => connections
            .iter()
            .chain(&packets)
            .chain(&programming)
            .copied()
            .chain([Measure::Change])
            .collect(),
    }
}

fn all_samples_are_evident(results: &Results) {
    for series in &results.series {
        let samples: Vec<f64> = series.rounds.iter().flatten().copied().collect();
        assert!(!samples.is_empty(), "{series:?}");
        let is_evident = !series.evidence.is_empty()
            || matches!(
                series.measure,
                Measure::ColdProgramming | Measure::DaemonMemory | Measure::KernelMemory
            );
        assert!(is_evident, "{series:?}");
        let may_be_nothing = matches!(
            series.measure,
            // A busy machine has no CPU left, and memory of others comes and goes.
            Measure::CpuLeft | Measure::KernelMemory | Measure::Change | Measure::ConnectionCpu
        );
        assert!(may_be_nothing || samples.iter().all(|sample| *sample > 0.0), "{series:?}");
    }
}

#[test]
fn every_mode_of_this_machine_is_measured_in_full_by_its_own_path() {
    if !is_root() {
        return;
    }
    let options = options("routing");
    let results = run(&options, &mut Said::default()).unwrap();
    let gone: BTreeSet<Route> = (results.missing.iter())
        .filter(|missing| missing.measure.is_none())
        .map(|missing| missing.route)
        .collect();
    for route in bench::routing::plan::ROUTES {
        if gone.contains(&route) {
            eprintln!("SKIPPED: {} is not on this machine", route.name());
            continue;
        }
        for services in [1, 10] {
            assert_eq!(
                measures(&results, route, services),
                expected(route),
                "{} with {services} services; missing: {:#?}",
                route.name(),
                results.missing
            );
        }
    }
    all_samples_are_evident(&results);
    assert_eq!(results.finished_sizes, [1, 10]);
    // Nothing is left to do, and nothing is done again.
    let begun = Instant::now();
    let again = run(&options, &mut Said::default()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(again.series.len(), results.series.len());
    fs::remove_dir_all(&options.out).unwrap();
}

#[test]
fn a_run_that_was_interrupted_goes_on_with_the_size_it_had_half_of() {
    if !is_root() {
        return;
    }
    let routes = Some(vec![Route::Direct]);
    let options = Options { routes, services: Some(vec![1]), ..options("resume") };
    let first = run(&options, &mut Said::default()).unwrap();
    let mut half = first.clone();
    half.finished_sizes.clear();
    half.finished.clear();
    store::write(&options.out, &half).unwrap();
    let mut said = Said::default();
    let second = run(&Options { services: Some(vec![1]), ..options.clone() }, &mut said).unwrap();
    assert!(said.0.iter().any(|line| line.starts_with("going on with the run of")), "{said:?}");
    let rounds = |results: &Results| -> Vec<usize> {
        results.series.iter().map(|series| series.rounds.len()).collect()
    };
    assert_eq!(rounds(&second), rounds(&first));
    fs::remove_dir_all(&options.out).unwrap();
}

#[test]
fn a_mode_that_takes_too_long_says_so_at_every_size() {
    if !is_root() {
        return;
    }
    let options = Options {
        routes: Some(vec![Route::Direct, Route::Nftables]),
        patience: Some(Duration::from_millis(1)),
        ..options("late")
    };
    let results = run(&options, &mut Said::default()).unwrap();
    let late: Vec<_> = (results.missing.iter())
        .filter(|missing| missing.route == Route::Nftables && missing.measure.is_none())
        .map(|missing| missing.services)
        .collect();
    assert_eq!(late, [Some(1), Some(10)], "{:#?}", results.missing);
    assert!(measures(&results, Route::Nftables, 10).is_empty());
    fs::remove_dir_all(&options.out).unwrap();
}
