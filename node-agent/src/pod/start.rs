//! Sandboxes and containers are made and started.

use std::{fs, net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    env, hook, make,
    plan::Why,
    seen::Seen,
    status::Waiting,
    worker::{Told, Worker},
};
use crate::{
    cgroup,
    cri::{report::Image, wire::DnsConfig},
    volume::{self, content::Sources, mounts},
};

/// How long a hook after the start may take.
const HOOK_MAX: Duration = Duration::from_hours(1);

impl Worker {
    /// Makes directories, control group and volumes.
    pub(super) async fn prepare(&mut self) -> Result<(), String> {
        let failed =
            |what: &str, error: &dyn std::fmt::Display| format!("cannot make {what}: {error}");
        fs::create_dir_all(&self.directory)
            .map_err(|error| failed("the pod's directory", &error))?;
        fs::create_dir_all(&self.logs).map_err(|error| failed("the directory of logs", &error))?;
        self.shared.groups.make(&self.pod).map_err(|error| failed("the control group", &error))?;
        let place = self.shared.place();
        let addresses = self.addresses();
        let sources = Sources {
            pod: &self.pod,
            configs: &self.shared.configs,
            client: &self.shared.client,
            tokens: &self.tokens,
            place: &place,
            addresses: &addresses,
        };
        volume::set_up(&self.pod, &self.directory, &sources)
            .await
            .map_err(|error| error.to_string())
    }

    /// Addresses of the pod.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let spec = self.pod.spec.as_ref();
        if spec.is_some_and(|it| it.host_network == Some(true)) {
            return self.shared.place().host;
        }
        let newest = self.world.sandboxes.iter().find(|it| !it.addresses.is_empty());
        newest.map(|it| it.addresses.clone()).unwrap_or_default()
    }

    pub(super) fn sandbox_config(&self, attempt: u32) -> crate::cri::wire::PodSandboxConfig {
        let shared = &self.shared;
        let dns: DnsConfig = shared.dns(&self.pod);
        let group = shared.groups.of(&self.pod);
        make::sandbox(&self.pod, attempt, &shared.settings.node, &self.logs, dns, group)
    }

    pub(super) async fn make_sandbox(&mut self, attempt: u32) -> Result<(), String> {
        let config = self.sandbox_config(attempt);
        let id = self.shared.runtime.run_sandbox(config).await;
        let id = id.map_err(|status| status.message().to_owned())?;
        self.shared.knows(&id, &self.uid);
        Ok(())
    }

    /// Starts a container, or says why it waits.
    pub(super) async fn start(&mut self, name: &str, restarts: u32) -> Result<(), Option<Waiting>> {
        let Some(container) = find(&self.pod, name) else { return Ok(()) };
        let waits =
            |reason: &str, message: String| Some(Waiting { reason: reason.into(), message });
        let image = self.image(&container).await?;
        let Some(sandbox) = self.world.sandbox().cloned() else { return Err(None) };
        let addresses = self.addresses();
        let place = self.shared.place();
        let hosts = mounts::write_hosts(
            &self.pod,
            &self.directory,
            &addresses,
            &self.shared.settings.domain,
            &self.shared.settings.node,
        );
        hosts.map_err(|error| {
            waits("CreateContainerConfigError", format!("cannot write hosts: {error}"))
        })?;
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let services = self.shared.services(namespace);
        let environment = env::environment(
            &self.pod,
            &container,
            &self.shared.configs,
            &services,
            &place,
            &addresses,
        );
        let environment = environment.await;
        let config_error = |words: String| waits("CreateContainerConfigError", words);
        let environment = environment.map_err(config_error)?;
        let mounts = mounts::of(&self.pod, &container, &self.directory, &environment, restarts);
        let mounts = mounts.map_err(config_error)?;
        let target = self.target_of(name);
        let parts = make::Parts {
            image: image.id.clone(),
            environment,
            mounts,
            limits: cgroup::limits(&self.pod, &container, self.shared.capacity_memory()),
            restarts,
            image_user: image_user(&image),
            target,
        };
        let mut config = make::container(&self.pod, &container, parts).map_err(config_error)?;
        if let Some(spec) = &mut config.image {
            spec.user_specified_image = container.image.clone().unwrap_or_default();
        }
        let sandbox_config = self.sandbox_config(sandbox.attempt);
        let runtime = self.shared.runtime.clone();
        let id = match runtime.create(&sandbox.id, config, sandbox_config).await {
            Ok(id) => id,
            Err(status) => {
                let words = status.message().to_owned();
                self.report(Some(name), true, "Failed", format!("Error: {words}"));
                return Err(waits("CreateContainerError", words));
            }
        };
        self.shared.knows(&id, &self.uid);
        self.report(Some(name), false, "Created", format!("Created container: {name}"));
        if let Err(status) = runtime.start(&id).await {
            let words = status.message().to_owned();
            self.report(Some(name), true, "Failed", format!("Error: {words}"));
            return Err(waits("RunContainerError", words));
        }
        self.report(Some(name), false, "Started", format!("Started container {name}"));
        self.after_start(container, id);
        Ok(())
    }

    /// The container whose processes an ephemeral one sees.
    fn target_of(&self, name: &str) -> String {
        let ephemeral =
            self.pod.spec.iter().flat_map(|it| it.ephemeral_containers.iter().flatten());
        let mut ephemeral = ephemeral.filter(|it| it.name == name);
        let target = ephemeral.next().and_then(|it| it.target_container_name.clone());
        let current = target.and_then(|target| self.world.current(&target).map(|it| it.id.clone()));
        current.unwrap_or_default()
    }

    fn after_start(&self, container: Container, id: String) {
        let hook = container.lifecycle.as_ref().and_then(|it| it.post_start.clone());
        let Some(hook) = hook else { return };
        let (runtime, told, address) =
            (self.shared.runtime.clone(), self.tell.clone(), self.addresses().first().copied());
        tokio::spawn(async move {
            let done = hook::run(&hook, &container, &id, address, &runtime, HOOK_MAX).await;
            if let Err(words) = done {
                let _gone = told.send(Told::HookFailed(id, container.name, words)).await;
            }
        });
    }

    /// Ends one container of a pod that goes on, in the background.
    pub(super) fn stop_one(&mut self, seen: &Seen, why: &Why) {
        if !self.stopping.insert(seen.id.clone()) {
            return;
        }
        let Some(container) = find(&self.pod, &seen.name) else { return };
        let name = &seen.name;
        let message = match why {
            Why::Liveness => format!("Container {name} failed liveness probe, will be restarted"),
            Why::Startup => format!("Container {name} failed startup probe, will be restarted"),
            Why::Changed => format!("Container {name} definition changed, will be restarted"),
            Why::Hook => format!("FailedPostStartHook: container {name} will be restarted"),
            Why::Over => format!("Stopping container {name}"),
        };
        self.report(Some(name), false, "Killing", message);
        let own = match why {
            Why::Liveness => container.liveness_probe.as_ref(),
            Why::Startup => container.startup_probe.as_ref(),
            Why::Changed | Why::Hook | Why::Over => None,
        };
        let seconds = own.and_then(|it| it.termination_grace_period_seconds);
        let seconds = seconds
            .or_else(|| self.pod.spec.as_ref()?.termination_grace_period_seconds)
            .unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let (runtime, told, id) = (self.shared.runtime.clone(), self.tell.clone(), seen.id.clone());
        let address = self.addresses().first().copied();
        tokio::spawn(async move {
            if let Err(words) = end(&runtime, &container, &id, address, grace).await {
                tracing::warn!(container = container.name, words, "a container is not stopped");
            }
            let _gone = told.send(Told::Stopped(id)).await;
        });
    }
}

/// The user that an image names, by number. One that it names otherwise is not known to be root or not.
fn image_user(image: &Image) -> Option<i64> {
    let by_number = image.uid.as_ref().map(|it| it.value);
    by_number.or_else(|| image.username.is_empty().then_some(0))
}

/// Tells a container that its end is near, then ends it, all in its grace period. Fails with why not.
pub(super) async fn end(
    runtime: &crate::cri::Runtime,
    container: &Container,
    id: &str,
    address: Option<IpAddr>,
    grace: Duration,
) -> Result<(), String> {
    let begin = tokio::time::Instant::now();
    let hook = container.lifecycle.as_ref().and_then(|it| it.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
        let ran =
            tokio::time::timeout(grace, hook::run(hook, container, id, address, runtime, grace));
        if let Ok(Err(words)) = ran.await {
            tracing::debug!(container = container.name, words, "a hook before the end failed");
        }
    }
    // As upstream: after a hook there are at least two seconds to end in.
    let least = if hook.is_some() { Duration::from_secs(2) } else { Duration::ZERO };
    let rest = grace.saturating_sub(begin.elapsed()).max(least.min(grace));
    runtime.stop(id, rest).await.map_err(|status| status.message().to_owned())
}

/// A container of a pod, of any kind.
pub(super) fn find(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    if let Some(container) = crate::configs::containers(pod).find(|it| it.name == name) {
        return Some(container.clone());
    }
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|it| it.name == name)?;
    let mut value = serde_json::to_value(ephemeral).ok()?;
    value.as_object_mut()?.remove("targetContainerName");
    serde_json::from_value(value).ok()
}
