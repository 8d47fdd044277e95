//! Ends everything that runs on a node, and takes away what the agent has put there.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::{
    containerd::Places,
    cri::Runtime,
    network::{egress, routes, wiring},
    pod::seen::label,
    volume,
};

/// How long containerd may take to end.
const WITHIN: Duration = Duration::from_secs(10);

/// Ends all pods of the containerd in `data`, and it too; what was done, in words. Objects, images and keys
/// stay.
pub async fn down(data: &Path, run: &Path) -> Vec<String> {
    let mut done = Vec::new();
    let places = Places::new(data, run);
    let runtime = Runtime::new(&places.socket());
    if runtime.version().await.is_ok() {
        for sandbox in runtime.sandboxes(None).await.unwrap_or_default() {
            let uid = sandbox.labels.get(label::UID).cloned().unwrap_or_default();
            let name = sandbox.metadata.unwrap_or_default().name;
            let stopped = runtime.stop_sandbox(&sandbox.id).await;
            match stopped.and(runtime.remove_sandbox(&sandbox.id).await) {
                Ok(()) => done.push(format!("ended pod {name}")),
                Err(status) => done.push(format!("pod {name} is not ended: {}", status.message())),
            }
            if let Err(error) = volume::tear_down(&data.join("pods").join(&uid)) {
                done.push(format!("files of pod {name} stay: {error}"));
            }
        }
    }
    if let Some(pid) = places.pid() {
        done.push(end(pid).await);
    }
    for link in wiring::links() {
        if wiring::disconnect(&link).is_ok() {
            done.push(format!("removed link {link}"));
        }
    }
    if remove_table() {
        done.push(format!("removed table {}", egress::TABLE));
    }
    if let Ok((connection, handle, _)) = rtnetlink::new_connection() {
        tokio::spawn(connection);
        if let Err(error) = routes::apply(&handle, &std::collections::BTreeMap::new()).await {
            done.push(format!("routes to other nodes' pods stay: {error}"));
        }
    }
    // Addresses that nobody has any more.
    let _none = fs::remove_dir_all(data.join("addresses"));
    done
}

async fn end(pid: Pid) -> String {
    if kill(pid, Signal::SIGTERM).is_err() {
        return "containerd had ended".into();
    }
    let begin = Instant::now();
    while kill(pid, None).is_ok() {
        if begin.elapsed() > WITHIN {
            return format!("containerd (process {pid}) does not end");
        }
        sleep(Duration::from_millis(20)).await;
    }
    "ended containerd".into()
}

fn remove_table() -> bool {
    let status = Command::new("nft")
        .args(["delete", "table", "inet", egress::TABLE])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|it| it.success())
}
