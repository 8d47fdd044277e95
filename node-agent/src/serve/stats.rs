//! What pods use of the machine: CPU and memory of each container.

use std::{collections::BTreeMap, time::Duration};

use http::{Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::sleep};

use super::{Body, Server, full, text};
use crate::pod::seen::label;

/// Two looks this far apart are enough to tell how fast CPU time grows.
const APART: Duration = Duration::from_secs(1);
/// A look that is older than this tells nothing of now.
const OLD_NS: i64 = 60_000_000_000;

/// CPU time of a container at a moment, both in nanoseconds.
type Sample = (i64, u64);

/// The last look.
#[derive(Default)]
pub(super) struct Stats(Mutex<BTreeMap<String, Sample>>);

struct Use {
    id: String,
    owner: [String; 3],
    uid: String,
    at: i64,
    cpu: u64,
    memory: u64,
}

impl Stats {
    async fn look(server: &Server) -> Result<Vec<Use>, tonic::Status> {
        let all = server.shared.runtime.stats().await?;
        Ok(all
            .into_iter()
            // What has ended uses nothing.
            .filter(|it| it.memory.is_some() && it.cpu.as_ref().is_some_and(|it| it.timestamp > 0))
            .map(|it| {
                let attributes = it.attributes.unwrap_or_default();
                let text = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
                let cpu = it.cpu.unwrap_or_default();
                let memory = it.memory.unwrap_or_default().working_set_bytes;
                Use {
                    owner: [label::NAMESPACE, label::POD, label::CONTAINER].map(text),
                    uid: text(label::UID),
                    id: attributes.id,
                    at: cpu.timestamp,
                    cpu: cpu.usage_core_nano_seconds.unwrap_or_default().value,
                    memory: memory.unwrap_or_default().value,
                }
            })
            .collect())
    }

    /// A summary in the form of kubelets.
    pub(super) async fn serve(&self, server: &Server) -> Response<Body> {
        let mut last = self.0.lock().await;
        let mut now = match Self::look(server).await {
            Ok(now) => now,
            Err(status) => return text(StatusCode::INTERNAL_SERVER_ERROR, status.message()),
        };
        let is_usable =
            |it: &Use| last.get(&it.id).is_some_and(|(at, _)| it.at > *at && it.at - at < OLD_NS);
        if !now.iter().all(is_usable) {
            last.extend(now.iter().map(|it| (it.id.clone(), (it.at, it.cpu))));
            sleep(APART).await;
            now = match Self::look(server).await {
                Ok(now) => now,
                Err(status) => return text(StatusCode::INTERNAL_SERVER_ERROR, status.message()),
            };
        }
        let mut pods: BTreeMap<String, Value> = BTreeMap::new();
        for it in &now {
            let [namespace, name, container] = &it.owner;
            let rate = last.get(&it.id).map_or(0, |(at, cpu)| {
                let elapsed = u64::try_from(it.at - at).unwrap_or(0).max(1);
                let used = it.cpu.saturating_sub(*cpu);
                u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(elapsed)).unwrap_or(0)
            });
            let pod = pods.entry(it.uid.clone()).or_insert_with(|| {
                json!({
                    "podRef": {"name": name, "namespace": namespace, "uid": it.uid}, "containers": [],
                })
            });
            let time =
                Timestamp::from_nanosecond(i128::from(it.at)).unwrap_or(Timestamp::UNIX_EPOCH);
            let container = json!({
                "name": container,
                "cpu": {
                    "time": time.to_string(), "usageNanoCores": rate, "usageCoreNanoSeconds": it.cpu,
                },
                "memory": {"time": time.to_string(), "workingSetBytes": it.memory},
            });
            if let Some(all) = pod["containers"].as_array_mut() {
                all.push(container);
            }
        }
        *last = now.iter().map(|it| (it.id.clone(), (it.at, it.cpu))).collect();
        drop(last);
        let (cpu, memory) = machine().await;
        let node = json!({
            "nodeName": server.shared.settings.node,
            "cpu": {"time": Timestamp::now().to_string(), "usageNanoCores": cpu},
            "memory": {"time": Timestamp::now().to_string(), "workingSetBytes": memory},
        });
        let pods: Vec<Value> = pods.into_values().collect();
        let body = json!({"node": node, "pods": pods}).to_string();
        let mut response = Response::new(full(body));
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

/// Billionths of CPUs that the machine uses, over a moment, and bytes of memory.
async fn machine() -> (u64, u64) {
    let busy = || {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default().to_owned();
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
        // Of user, nice, system, idle, iowait, irq, softirq and steal, all but idle and iowait.
        let idle = ticks.get(3).unwrap_or(&0) + ticks.get(4).unwrap_or(&0);
        ticks.iter().take(8).sum::<u64>().saturating_sub(idle)
    };
    let before = busy();
    sleep(APART / 4).await;
    // A tick is a hundredth of a second on every Linux that we know.
    let cpu = busy().saturating_sub(before) * 10_000_000 * 4;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |name: &str| -> u64 {
        let line = text.lines().find_map(|it| it.strip_prefix(name));
        let number =
            line.map(|it| it.trim_matches([':', ' ']).trim_end_matches("kB").trim().to_owned());
        number.and_then(|it| it.parse().ok()).unwrap_or(0)
    };
    (cpu, kilobytes("MemTotal").saturating_sub(kilobytes("MemAvailable")) * 1024)
}
