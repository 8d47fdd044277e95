//! What the API has to do, as Prometheus reads it (text format 0.0.4), by the names that upstream uses.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use jiff::Timestamp;

use super::audit::Request;
use crate::resource;

/// Upper bounds of the buckets of durations, in seconds.
const BOUNDS_S: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Ticks of the kernel in a second, as `/proc` counts (`USER_HZ`).
const TICKS: f64 = 100.0;
/// Bytes of a page of memory.
const PAGE: u64 = 4_096;

/// What a request was about. Only resources that are known have names here: their number is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct About {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

impl About {
    fn of(seen: &Request) -> Self {
        let verb = seen.verb.to_ascii_uppercase();
        let known = seen.target.as_ref().filter(|target| {
            resource::by_path(&target.group, &target.version, &target.resource).is_some()
        });
        let Some(target) = known else { return Self { verb, ..Self::default() } };
        // What follows a subresource is a path of whoever is connected to.
        let subresource = target.subresource.split('/').next().unwrap_or_default().to_owned();
        Self {
            verb,
            group: target.group.clone(),
            version: target.version.clone(),
            resource: target.resource.clone(),
            subresource,
        }
    }

    fn labels(&self) -> String {
        let Self { verb, group, version, resource, subresource } = self;
        format!(
            "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",\
             subresource=\"{subresource}\""
        )
    }
}

#[derive(Clone, Debug, Default)]
struct Durations {
    buckets: [u64; BOUNDS_S.len()],
    count: u64,
    sum_s: f64,
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(About, u16), u64>,
    durations: BTreeMap<About, Durations>,
}

/// What has been counted since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
    inflight: AtomicU64,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Running<'m>(&'m Metrics);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request for as long as it is being answered.
    pub(super) fn begin(&self) -> Running<'_> {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// Counts an answer. That of a watch is its beginning.
    pub(super) fn note(&self, seen: &Request, status: StatusCode, took: Duration) {
        let about = About::of(seen);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.requests.entry((about.clone(), status.as_u16())).or_default() += 1;
        let durations = counts.durations.entry(about).or_default();
        let seconds = took.as_secs_f64();
        for (bucket, bound) in durations.buckets.iter_mut().zip(BOUNDS_S) {
            *bucket += u64::from(seconds <= bound);
        }
        durations.count += 1;
        durations.sum_s += seconds;
    }

    /// All of it, read now; `revision` is the store's.
    pub(super) fn render(&self, revision: u64) -> String {
        let mut text = String::new();
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "apiserver_request_total";
        head(&mut text, name, "counter", "Requests that were answered, by what they were about.");
        for ((about, code), count) in &counts.requests {
            line(&mut text, name, &format!("{},code=\"{code}\"", about.labels()), count);
        }
        let name = "apiserver_request_duration_seconds";
        head(&mut text, name, "histogram", "Time until the answer began.");
        for (about, durations) in &counts.durations {
            let labels = about.labels();
            for (bound, count) in BOUNDS_S.iter().zip(durations.buckets) {
                let labels = format!("{labels},le=\"{bound}\"");
                line(&mut text, &format!("{name}_bucket"), &labels, &count);
            }
            let all = format!("{labels},le=\"+Inf\"");
            line(&mut text, &format!("{name}_bucket"), &all, &durations.count);
            line(&mut text, &format!("{name}_sum"), &labels, &durations.sum_s);
            line(&mut text, &format!("{name}_count"), &labels, &durations.count);
        }
        drop(counts);
        let name = "apiserver_current_inflight_requests";
        head(
            &mut text,
            name,
            "gauge",
            "Requests that are being answered; watches that have begun are not.",
        );
        line(&mut text, name, "", &self.inflight.load(Ordering::Relaxed));
        let name = "hashplane_store_revision";
        head(&mut text, name, "gauge", "The newest revision of the store.");
        line(&mut text, name, "", &revision);
        process(&mut text);
        text
    }
}

/// What the kernel says of this process, by the names that Prometheus' own clients use.
fn process(text: &mut String) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok());
    if let Some(pages) = pages {
        let name = "process_resident_memory_bytes";
        head(text, name, "gauge", "Resident memory.");
        line(text, name, "", &(pages * PAGE));
    }
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok());
    if let Some((user, system)) = ticks(11).zip(ticks(12)) {
        let name = "process_cpu_seconds_total";
        head(text, name, "counter", "Processor time of user and kernel.");
        line(text, name, "", &((user + system) / TICKS));
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let name = "process_open_fds";
        head(text, name, "gauge", "Open file descriptors.");
        line(text, name, "", &open.count());
    }
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(' ').next().and_then(|it| it.parse::<f64>().ok());
    if let Some((started, uptime)) = ticks(19).zip(uptime) {
        let now = Timestamp::now().as_duration().as_secs_f64();
        let name = "process_start_time_seconds";
        head(text, name, "gauge", "When the process started, in seconds since 1970.");
        line(text, name, "", &(now - uptime + started / TICKS));
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: &impl std::fmt::Display) {
    let _infallible = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::path::Target;

    fn request(path: &str) -> Request {
        Request { verb: "get".into(), target: Target::parse(path), ..Request::default() }
    }

    #[test]
    fn requests_are_counted_by_what_they_are_about() {
        let metrics = Metrics::default();
        let pod = request("/api/v1/namespaces/shop/pods/web");
        metrics.note(&pod, StatusCode::OK, Duration::from_millis(2));
        metrics.note(&pod, StatusCode::OK, Duration::from_millis(30));
        metrics.note(&pod, StatusCode::NOT_FOUND, Duration::from_millis(1));
        let running = metrics.begin();
        let text = metrics.render(7);
        let labels = "verb=\"GET\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\"";
        for expected in [
            format!("apiserver_request_total{{{labels},code=\"200\"}} 2\n"),
            format!("apiserver_request_total{{{labels},code=\"404\"}} 1\n"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.0025\"}} 2\n"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3\n"),
            format!("apiserver_request_duration_seconds_sum{{{labels}}} 0.033\n"),
            "apiserver_current_inflight_requests 1\n".to_owned(),
            "hashplane_store_revision 7\n".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected}\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        drop(running);
        assert!(metrics.render(7).contains("apiserver_current_inflight_requests 0\n"));
    }

    #[test]
    fn paths_that_nobody_knows_make_no_new_labels() {
        let metrics = Metrics::default();
        for number in 0..100 {
            let unknown = request(&format!("/apis/x{number}/v1/namespaces/a/y{number}/z"));
            metrics.note(&unknown, StatusCode::NOT_FOUND, Duration::ZERO);
        }
        let text = metrics.render(1);
        let rows = text.lines().filter(|it| it.starts_with("apiserver_request_total{")).count();
        assert_eq!(rows, 1, "{text}");
    }
}
