//! What the runtime has of a pod.

use std::{cmp::Reverse, net::IpAddr};

use jiff::Timestamp;
use tonic::Status;

use crate::cri::{
    Runtime,
    wire::{ContainerState, ContainerStatus, PodSandboxState},
};

/// Labels by which sandboxes and containers are found again.
pub(crate) mod label {
    /// The pod's UID.
    pub(crate) const UID: &str = "io.kubernetes.pod.uid";
    /// The pod's name.
    pub(crate) const POD: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub(crate) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The container's name.
    pub(crate) const CONTAINER: &str = "io.kubernetes.container.name";
    /// What of the container's specification makes another container of it.
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    /// How often the container has been started before.
    pub(crate) const RESTARTS: &str = "io.kubernetes.container.restartCount";
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) is_ready: bool,
    pub(crate) attempt: u32,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is there, and has not run.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) name: String,
    pub(crate) stage: Stage,
    pub(crate) restarts: u32,
    pub(crate) hash: String,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) log_path: String,
}

/// Everything, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Seen>,
}

impl World {
    /// Asks the runtime. What has ended before and is known is not asked for again.
    pub(crate) async fn look(runtime: &Runtime, uid: &str, before: &Self) -> Result<Self, Status> {
        let mut world = Self::default();
        for sandbox in runtime.sandboxes(Some((label::UID, uid))).await? {
            let is_ready = sandbox.state == PodSandboxState::Ready as i32;
            let known = before.sandboxes.iter().find(|it| it.id == sandbox.id);
            let addresses = match known {
                Some(known) if !known.addresses.is_empty() || !is_ready => known.addresses.clone(),
                _ => addresses(runtime, &sandbox.id).await?,
            };
            let attempt = sandbox.metadata.unwrap_or_default().attempt;
            world.sandboxes.push(Sandbox { id: sandbox.id, is_ready, attempt, addresses });
        }
        world.sandboxes.sort_by_key(|it| Reverse(it.attempt));
        for container in runtime.containers(Some((label::UID, uid))).await? {
            let known = before.containers.iter().find(|it| it.id == container.id);
            let is_over = container.state == ContainerState::Exited as i32;
            if let Some(known) = known.filter(|it| is_over && it.stage == Stage::Exited) {
                world.containers.push(known.clone());
                continue;
            }
            match runtime.container(&container.id).await {
                Ok(status) => world.containers.push(seen(status, container.pod_sandbox_id)),
                // It went while we looked.
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        world.containers.sort_by_key(|it| Reverse((it.restarts, it.created)));
        Ok(world)
    }

    /// The sandbox that containers run in.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|it| it.is_ready)
    }

    /// All containers of a name, newest first.
    pub(crate) fn named<'w>(&'w self, name: &str) -> impl Iterator<Item = &'w Seen> {
        self.containers.iter().filter(move |it| it.name == name)
    }

    /// The newest container of a name.
    pub(crate) fn latest(&self, name: &str) -> Option<&Seen> {
        self.named(name).next()
    }

    /// The newest container of a name, if it is in the sandbox that is.
    pub(crate) fn current(&self, name: &str) -> Option<&Seen> {
        let sandbox = self.sandbox()?;
        self.latest(name).filter(|it| it.sandbox == sandbox.id)
    }
}

async fn addresses(runtime: &Runtime, id: &str) -> Result<Vec<IpAddr>, Status> {
    let network = match runtime.sandbox(id).await {
        Ok(status) => status.network.unwrap_or_default(),
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(Vec::new()),
        Err(status) => return Err(status),
    };
    let others = network.additional_ips.into_iter().map(|it| it.ip);
    Ok(std::iter::once(network.ip).chain(others).filter_map(|it| it.parse().ok()).collect())
}

/// Nanoseconds since 1970; 0 is never.
fn moment(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}

fn seen(status: ContainerStatus, sandbox: String) -> Seen {
    let text = |name: &str| {
        status
            .labels
            .get(name)
            .or_else(|| status.annotations.get(name))
            .cloned()
            .unwrap_or_default()
    };
    Seen {
        name: text(label::CONTAINER),
        restarts: text(label::RESTARTS).parse().unwrap_or(0),
        hash: text(label::HASH),
        sandbox,
        stage: match ContainerState::try_from(status.state) {
            Ok(ContainerState::Created) => Stage::Created,
            Ok(ContainerState::Running) => Stage::Running,
            Ok(ContainerState::Exited) => Stage::Exited,
            Ok(ContainerState::Unknown) | Err(_) => Stage::Unknown,
        },
        created: moment(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started: moment(status.started_at),
        finished: moment(status.finished_at),
        code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: status.image.unwrap_or_default().image,
        image_id: status.image_ref,
        log_path: status.log_path,
        id: status.id,
    }
}
