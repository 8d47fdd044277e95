//! Metrics as Prometheus reads them (text format 0.0.4).

use std::fmt::Write as _;

use super::Context;
use crate::{
    backend::Mode,
    daemon::report::Report,
    ebpf::maps::KernelMaps,
    sync::{histogram::Histogram, no_local::NoLocal},
    view::status::{self, CounterRow, MapRow},
};

/// All metrics, read now.
pub fn render(context: &Context) -> String {
    let mut text = String::new();
    let report = context.shared.report();
    let (sync, programming) = context.shared.histograms();
    if context.pins.exist() {
        of_maps(&mut text, context);
    }
    histogram(&mut text, "hashplane_sync_duration_seconds", "Time of one sync.", &sync);
    histogram(
        &mut text,
        "hashplane_network_programming_duration_seconds",
        "Time from the change of an object to the kernel.",
        &programming,
    );
    of_report(&mut text, &report);
    text
}

fn of_maps(text: &mut String, context: &Context) {
    match status::live_counters(&context.pins) {
        Ok(rows) => counters(text, &rows),
        Err(error) => tracing::warn!(%error, "no counters for /metrics"),
    }
    let maps = KernelMaps::from_pins(&context.pins.maps());
    match maps.and_then(|mut maps| status::maps(&mut maps)) {
        Ok(rows) => map_fill(text, &rows),
        Err(error) => tracing::warn!(%error, "no map fill for /metrics"),
    }
}

fn counters(text: &mut String, rows: &[CounterRow]) {
    head(text, "hashplane_outcomes_total", "counter", "Packets and socket calls by outcome.");
    for row in rows {
        let labels = [("hook", row.hook), ("reason", row.reason)];
        sample(text, "hashplane_outcomes_total", &labels, row.count);
    }
}

fn map_fill(text: &mut String, rows: &[MapRow]) {
    head(text, "hashplane_map_entries", "gauge", "Entries in use.");
    for row in rows {
        sample(text, "hashplane_map_entries", &[("map", &row.map)], row.used);
    }
    head(text, "hashplane_map_capacity", "gauge", "Entries that the map can hold.");
    for row in rows {
        sample(text, "hashplane_map_capacity", &[("map", &row.map)], row.capacity.into());
    }
}

fn no_local_endpoints(text: &mut String, without: NoLocal) {
    let name = "hashplane_no_local_endpoints";
    let help =
        "Service ports with the policy Local that drop packets: only other nodes have endpoints.";
    head(text, name, "gauge", help);
    for (policy, count) in [("internal", without.internal), ("external", without.external)] {
        sample(text, name, &[("traffic_policy", policy)], count as u64);
    }
}

fn of_report(text: &mut String, report: &Report) {
    let gauges = [
        (
            "hashplane_source_connected",
            "Whether the source answers.",
            report.source_connected.into(),
        ),
        ("hashplane_source_in_sync", "Whether the source told everything.", report.in_sync.into()),
        ("hashplane_pending_changes", "Changes not in the kernel yet.", report.pending),
        (
            "hashplane_health_check_listeners",
            "Listeners that answer health checks of Services.",
            report.health_check_listeners,
        ),
        ("hashplane_left_out", "Service ports that found no room.", report.left_out),
        (
            "hashplane_limited",
            "Service ports served with less than their Service asks for.",
            report.limited,
        ),
    ];
    for (name, help, value) in gauges {
        head(text, name, "gauge", help);
        sample(text, name, &[], value);
    }
    no_local_endpoints(text, report.no_local);
    head(text, "hashplane_mode", "gauge", "Whether this backend serves.");
    for mode in Mode::ALL {
        let serves = u64::from(report.mode == Some(mode));
        sample(text, "hashplane_mode", &[("mode", mode.name())], serves);
    }
    let help = "Entries of ours that somebody else had changed, repaired.";
    head(text, "hashplane_drifted_total", "counter", help);
    sample(text, "hashplane_drifted_total", &[], report.drifted);
    head(text, "hashplane_sync_failures_total", "counter", "Syncs that were tried again.");
    sample(text, "hashplane_sync_failures_total", &[], report.sync_failures);
    head(text, "hashplane_problems", "gauge", "Problems by kind.");
    for (kind, count) in report.problems_by_kind() {
        sample(text, "hashplane_problems", &[("kind", &kind)], count);
    }
    if let Some(counts) = &report.shadow {
        let name = "hashplane_shadow_total";
        head(text, name, "counter", "New connections by what eBPF would have done with them.");
        for (finding, count) in counts.rows() {
            sample(text, name, &[("result", finding.name())], count);
        }
    }
    head(text, "hashplane_attached", "gauge", "Whether a program is attached.");
    for attachment in &report.attachments {
        let labels = [
            ("program", attachment.program),
            ("target", attachment.target.as_str()),
            ("mode", attachment.mode.map_or("none", super::super::ebpf::attach::Mode::name)),
        ];
        sample(text, "hashplane_attached", &labels, attachment.error.is_none().into());
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    text.push_str(name);
    if !labels.is_empty() {
        let pairs: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let _infallible = write!(text, "{{{}}}", pairs.join(","));
    }
    let _infallible = writeln!(text, " {value}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn histogram(text: &mut String, name: &str, help: &str, values: &Histogram) {
    head(text, name, "histogram", help);
    let bucket = format!("{name}_bucket");
    let seconds = |us| std::time::Duration::from_micros(us).as_secs_f64();
    for (bound_us, count) in values.cumulative() {
        sample(text, &bucket, &[("le", &seconds(bound_us).to_string())], count);
    }
    sample(text, &bucket, &[("le", "+Inf")], values.count());
    let _infallible = writeln!(text, "{name}_sum {}", seconds(values.sum_us()));
    sample(text, &format!("{name}_count"), &[], values.count());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_escapes_its_labels() {
        let mut text = String::new();
        sample(&mut text, "x", &[("a", "b\"c\\d")], 3);
        assert_eq!(text, "x{a=\"b\\\"c\\\\d\"} 3\n");
    }

    #[test]
    fn a_histogram_ends_with_all_sum_and_count() {
        let mut text = String::new();
        histogram(&mut text, "h", "Help.", &Histogram::default());
        assert!(
            text.starts_with("# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"0.0001\"} 0\n")
        );
        assert!(text.ends_with("h_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n"));
    }
}
