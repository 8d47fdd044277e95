//! Tests against the built binary: on this machine in each mode, then in the virtual machine.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;

use super::{Report, cargo, check, skip};
use crate::{
    launch, run, say,
    tally::{self, Tally},
    vm::{self, Machine},
};

/// The backends beside eBPF that this machine's kernel is expected to have; IPVS has a kernel of its
/// own, in the virtual machine.
const MODES: [&str; 2] = ["nftables", "iptables"];
/// The tests of real traffic, which every mode has to pass.
const TRAFFIC: &str = "traffic::";
/// Longer than any stage in the virtual machine takes on a slow computer.
const STAGE_MAX: Duration = Duration::from_mins(12);

/// One boot of the virtual machine.
struct Stage {
    mode: &'static str,
    /// Parts of the names of its tests.
    filters: &'static [&'static str],
}

/// What the kernel of this machine may not have: IPVS, SCTP, and being old.
///
/// An emulated processor is some 25 times slower, so this is a choice: with IPVS one of each kind of
/// frontend and client, with the others what shows that they work there too. `cargo xtask vm` runs
/// whatever else is asked for.
const STAGES: [Stage; 4] = [
    Stage { mode: "ebpf", filters: &["verifier::", SCTP, CLUSTER_IP, NODE_PORT] },
    Stage {
        mode: "ipvs",
        filters: &[
            SCTP,
            "traffic::cluster_ip::",
            "traffic::refusal::",
            NODE_PORT,
            LOCAL,
            AFFINITY,
            "connections_drain_and_datagrams_leave_at_once",
            "source_ranges_keep_other_clients",
            "udp_is_selected_again",
        ],
    },
    Stage { mode: "nftables", filters: &[SCTP, CLUSTER_IP] },
    Stage { mode: "iptables", filters: &[SCTP, CLUSTER_IP] },
];
const SCTP: &str = "traffic::sctp::";
const CLUSTER_IP: &str = "a_cluster_ip_leads_to_endpoints_on_both_nodes";
const NODE_PORT: &str = "a_node_port_leads_from_outside_to_endpoints_on_both_nodes";
const LOCAL: &str = "external_local_keeps_the_clients_address_and_stays_on_the_node";
const AFFINITY: &str = "a_client_stays_with_its_endpoint_and_ports_choose_for_themselves";

pub(super) fn run(report: &mut Report) {
    let built = check("the binary under test", report, || {
        run::loud(cargo(&["build", "--workspace", "--bins"]))
    });
    let pod = check("what pods of the demo run", report, || launch::build_test_pod().map(drop));
    if !built || !pod {
        return;
    }
    let binary = run::target_dir().join("debug/hashplane");
    let first = |only: &[String]| tally::run(tests(&binary, None, only));
    suite("integration tests", report, first);
    for mode in MODES {
        let traffic = |only: &[String]| tally::run(tests(&binary, Some(mode), only));
        suite(&format!("traffic in mode {mode}"), report, traffic);
    }
    in_the_machine(report);
}

fn in_the_machine(report: &mut Report) {
    let machine = match Machine::prepare() {
        Ok(machine) => machine,
        Err(error) => {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            return skip(report, "tests in the virtual machine", &reason);
        }
    };
    say::line(&format!("the virtual machine runs {}", machine.version()));
    for stage in STAGES {
        let name = format!("virtual machine, mode {}", stage.mode);
        let filters: Vec<String> =
            stage.filters.iter().map(|filter| (*filter).to_owned()).collect();
        suite(&name, report, |only| {
            let (which, exact) = if only.is_empty() { (&*filters, false) } else { (only, true) };
            let job = vm::integration_tests(which, exact, Some(stage.mode))?;
            let (good, tally) = machine.run(&job, STAGE_MAX)?;
            Ok((good, tally.skipped_in("virtual machine")))
        });
    }
}

/// Runs tests, and those that failed a second time, alone on the machine: real traffic shares two
/// cores with whatever else runs. What passes then is reported as flaky, never as if nothing had been.
///
/// `run` gets the names of the tests to run; none of them means all.
fn suite(what: &str, report: &mut Report, run: impl Fn(&[String]) -> Result<(bool, Tally)>) {
    say::step(what);
    match run(&[]) {
        Ok((true, tally)) => report.tally.add(tally),
        Ok((false, tally)) => {
            let again = once_more(what, &tally, run);
            report.settle(tally, again, what);
        }
        Err(error) => report.failed(what, &error),
    }
}

fn once_more(what: &str, first: &Tally, run: impl Fn(&[String]) -> Result<(bool, Tally)>) -> Tally {
    let unknown = || Tally { failed: first.failed, ..Tally::default() };
    if first.failing.is_empty() {
        return unknown();
    }
    say::step(&format!("{what}: what failed, once more"));
    let names: Vec<String> = first.failing.iter().cloned().collect();
    run(&names).map_or_else(|_| unknown(), |(_, tally)| tally)
}

/// The command for all tests, or those of traffic for `mode`, or exactly those named.
fn tests(binary: &Path, mode: Option<&str>, only: &[String]) -> Command {
    let mut command = cargo(&["test", "--package", "hashplane-tests", "--no-fail-fast"]);
    // Half of what these tests do is waiting.
    let threads = 2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    command.env("HASHPLANE_BIN", binary).env("RUST_TEST_THREADS", threads.to_string());
    command.env("HASHPLANE_TEST_POD", launch::test_pod());
    if let Some(mode) = mode {
        command.env("HASHPLANE_MODE", mode);
    }
    if !only.is_empty() {
        command
            .args(["--test", "it", "--test", "nodes", "--", "--test-threads=1", "--exact"])
            .args(only);
    } else if mode.is_some() {
        command.args(["--test", "it", "--", TRAFFIC]);
    }
    command
}
