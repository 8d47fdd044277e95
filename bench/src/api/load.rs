//! What clients do to the server, and how long it takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::AsyncBufReadExt as _;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep_until};

use super::{
    Options,
    server::{Child, request},
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"key": "value ".repeat(20)},
    })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Clients that create objects one after the other; objects a second, and each one's time in ms.
pub(super) async fn creates(
    child: &Child,
    clients: usize,
    time: Duration,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for number in 0..clients {
        let client = child.client().await?;
        tasks.spawn(async move {
            let mut samples = Vec::new();
            while begin.elapsed() < time {
                let name = format!("a-{number}-{}", samples.len());
                let request = request("POST", CONFIG_MAPS, Some(&config_map(&name)))?;
                let at = Instant::now();
                client.request::<Value>(request).await?;
                samples.push(ms(at.elapsed()));
            }
            anyhow::Ok(samples)
        });
    }
    let mut all = Vec::new();
    while let Some(samples) = tasks.join_next().await {
        all.extend(samples??);
    }
    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 creations")]
    let rate = all.len() as f64 / begin.elapsed().as_secs_f64();
    Ok((rate, all))
}

/// One object again and again, in ms.
pub(super) async fn gets(child: &Child, times: usize) -> anyhow::Result<Vec<f64>> {
    let client = child.client().await?;
    let mut samples = Vec::new();
    for _ in 0..times {
        let at = Instant::now();
        client.request::<Value>(request("GET", &format!("{CONFIG_MAPS}/a-0-0"), None)?).await?;
        samples.push(ms(at.elapsed()));
    }
    Ok(samples)
}

/// Creates pods that no node takes.
pub(super) async fn pods(child: &Child, clients: usize, pods: usize) -> anyhow::Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (client, next) = (child.client().await?, next.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pods {
                    return anyhow::Ok(());
                }
                let pod = json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": format!("pod-{number}"), "labels": {"app": "web"}},
                    "spec": {
                        "nodeSelector": {"no": "where"},
                        "containers": [{"name": "web", "image": "web:1"}],
                    },
                });
                client.request::<Value>(request("POST", PODS, Some(&pod))?).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// All pods in one answer, which is read to its end and not parsed, in ms.
pub(super) async fn lists(child: &Child, times: usize) -> anyhow::Result<Vec<f64>> {
    let client = child.client().await?;
    let mut samples = Vec::new();
    for _ in 0..times {
        let at = Instant::now();
        client.request_text(request("GET", PODS, None)?).await?;
        samples.push(ms(at.elapsed()));
    }
    Ok(samples)
}

/// Creates a deployment and waits until all its pods are available.
pub(super) async fn deploy(child: &Child, replicas: usize) -> anyhow::Result<Duration> {
    let client = child.client().await?;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    });
    let begin = Instant::now();
    client.request::<Value>(request("POST", path, Some(&deployment))?).await?;
    loop {
        let status: Value = client.request(request("GET", &format!("{path}/web"), None)?).await?;
        let available = status["status"]["availableReplicas"].as_u64().unwrap_or(0);
        if available >= u64::try_from(replicas)? {
            return Ok(begin.elapsed());
        }
        anyhow::ensure!(
            begin.elapsed() < Duration::from_mins(5),
            "{available} of {replicas} pods are available after 5 minutes"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What watches saw.
pub(super) struct Seen {
    /// From the moment before the write to the watcher's reading of it.
    pub(super) latency_ms: Vec<f64>,
    /// Events that should have come and did not.
    pub(super) lost: f64,
}

/// Connections that share the watches.
const CONNECTIONS: usize = 50;
/// Watches whose every event is a sample; the others only count.
const SAMPLED: usize = 50;

/// Changes one object at a steady rate before the eyes of many.
pub(super) async fn watches(child: &Child, options: &Options) -> anyhow::Result<Seen> {
    let begin = Instant::now();
    let count = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(child.client().await?);
    }
    let path = format!("{CONFIG_MAPS}?watch=true&labelSelector=bench%3Dwatch");
    let mut tasks = JoinSet::new();
    for number in 0..options.watchers {
        let client = clients.get(number % CONNECTIONS).cloned().context("no client")?;
        let stream = client.request_stream(request("GET", &path, None)?).await?;
        let count = count.clone();
        tasks.spawn(async move {
            let stream = std::pin::pin!(stream);
            let mut lines = stream.lines();
            let mut samples = Vec::new();
            while let Some(Ok(line)) = futures::StreamExt::next(&mut lines).await {
                let Some(sent) = sent(&line) else { continue };
                if sent == u64::MAX {
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
                if number < SAMPLED {
                    samples.push(ms(begin.elapsed().saturating_sub(Duration::from_nanos(sent))));
                }
            }
            samples
        });
    }
    let writer = child.client().await?;
    let pause = Duration::from_secs(1) / options.changes_per_s.max(1);
    let until = Instant::now() + options.watch_for;
    let (mut written, mut due) = (0_u64, tokio::time::Instant::now());
    while Instant::now() < until {
        due += pause;
        sleep_until(due).await;
        let at = u64::try_from(begin.elapsed().as_nanos())?;
        write(&writer, at, written == 0).await?;
        written += 1;
    }
    write(&writer, u64::MAX, false).await?;
    let mut latency_ms = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while let Ok(Some(samples)) = tokio::time::timeout_at(deadline, tasks.join_next()).await {
        latency_ms.extend(samples?);
    }
    let wanted = written * u64::try_from(options.watchers)?;
    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 events")]
    let lost = wanted.saturating_sub(count.load(Ordering::Relaxed)) as f64;
    Ok(Seen { latency_ms, lost })
}

async fn write(client: &kube::Client, at: u64, is_first: bool) -> anyhow::Result<()> {
    let mut object = config_map("watched");
    object["metadata"]["labels"] = json!({"bench": "watch"});
    object["data"] = json!({"sent": format!("{at:020}")});
    let request = if is_first {
        request("POST", CONFIG_MAPS, Some(&object))?
    } else {
        request("PUT", &format!("{CONFIG_MAPS}/watched"), Some(&object))?
    };
    client.request::<Value>(request).await?;
    Ok(())
}

/// The time that an event carries.
fn sent(line: &str) -> Option<u64> {
    let at = line.find("\"sent\":\"")? + "\"sent\":\"".len();
    line.get(at..at + 20)?.parse().ok()
}
