//! What the runtime is told to make for a pod.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};
use ring::digest::{SHA256, digest};

use super::seen::label;
use crate::cri::wire::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, SecurityProfile,
};

/// What containers do not see of the kernel, unless they ask for it.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What they only read.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The host name of a pod.
pub(crate) fn hostname(pod: &Pod, node: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|it| it.host_network == Some(true)) {
        return node.to_owned();
    }
    let own = spec.and_then(|it| it.hostname.clone()).or_else(|| pod.metadata.name.clone());
    let mut name = own.unwrap_or_default();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

fn labels(pod: &Pod) -> BTreeMap<String, String> {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    BTreeMap::from([
        (label::POD.to_owned(), text(&pod.metadata.name)),
        (label::NAMESPACE.to_owned(), text(&pod.metadata.namespace)),
        (label::UID.to_owned(), text(&pod.metadata.uid)),
    ])
}

/// A pod's sandbox.
pub(crate) fn sandbox(
    pod: &Pod,
    attempt: u32,
    node: &str,
    logs: &Path,
    dns: DnsConfig,
    cgroup: String,
) -> PodSandboxConfig {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let security = spec.security_context.clone().unwrap_or_default();
    let sysctls = security.sysctls.iter().flatten();
    let mut all = pod.metadata.labels.clone().unwrap_or_default();
    all.extend(labels(pod));
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            attempt,
        }),
        hostname: hostname(pod, node),
        log_directory: logs.display().to_string(),
        dns_config: Some(dns),
        labels: all,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup,
            sysctls: sysctls.map(|it| (it.name.clone(), it.value.clone())).collect(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(&spec, "")),
                run_as_user: security.run_as_user.map(|value| Int64Value { value }),
                run_as_group: security.run_as_group.map(|value| Int64Value { value }),
                supplemental_groups: groups(&security),
                privileged: spec.containers.iter().any(is_privileged),
                seccomp: Some(seccomp(security.seccomp_profile.as_ref())),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

fn groups(security: &PodSecurityContext) -> Vec<i64> {
    let own = security.supplemental_groups.iter().flatten().copied();
    security.fs_group.into_iter().chain(own).collect()
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().is_some_and(|it| it.privileged == Some(true))
}

/// Which namespaces are shared with the node, the pod, or the container of this id.
fn namespaces(spec: &PodSpec, target: &str) -> NamespaceOption {
    let host = |it: Option<bool>| {
        let mode = if it == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
        mode as i32
    };
    let pid = if spec.host_pid == Some(true) {
        NamespaceMode::Node
    } else if !target.is_empty() {
        NamespaceMode::Target
    } else if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: host(spec.host_network),
        ipc: host(spec.host_ipc),
        pid: pid as i32,
        target_id: target.into(),
    }
}

fn seccomp(profile: Option<&SeccompProfile>) -> SecurityProfile {
    let file = profile.and_then(|it| it.localhost_profile.clone()).unwrap_or_default();
    let kind = match profile.map(|it| it.type_.as_str()) {
        Some("RuntimeDefault") => 0,
        Some("Localhost") => 2,
        _ => 1,
    };
    SecurityProfile { profile_type: kind, localhost_ref: file }
}

/// What a container is made of, beside its specification.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The image, as the runtime names it.
    pub(crate) image: String,
    /// Variables.
    pub(crate) environment: Vec<(String, String)>,
    /// Files.
    pub(crate) mounts: Vec<Mount>,
    /// What it may have.
    pub(crate) limits: LinuxContainerResources,
    /// How often it has been started before.
    pub(crate) restarts: u32,
    /// The user of the image, if it is a number.
    pub(crate) image_user: Option<i64>,
    /// The container whose processes it sees.
    pub(crate) target: String,
}

/// A container; otherwise why there cannot be one.
pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    parts: Parts,
) -> Result<ContainerConfig, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let known: BTreeMap<String, String> = parts.environment.iter().cloned().collect();
    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|it| super::env::expand(it, &known)).collect()
    };
    let mut all = labels(pod);
    all.insert(label::CONTAINER.into(), container.name.clone());
    let annotations = BTreeMap::from([
        (label::HASH.to_owned(), hash(container)),
        (label::RESTARTS.to_owned(), parts.restarts.to_string()),
    ]);
    let variable = |(key, value): (String, String)| KeyValue { key, value };
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: parts.restarts }),
        image: Some(ImageSpec { image: parts.image, ..ImageSpec::default() }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: parts.environment.into_iter().map(variable).collect(),
        mounts: parts.mounts,
        labels: all,
        annotations,
        log_path: format!("{}/{}.log", container.name, parts.restarts),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(parts.limits),
            security_context: Some(security(&spec, container, parts.image_user, &parts.target)?),
        }),
    })
}

fn security(
    spec: &PodSpec,
    container: &Container,
    image_user: Option<i64>,
    target: &str,
) -> Result<LinuxContainerSecurityContext, String> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own: SecurityContext = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(pod.run_as_user);
    let group = own.run_as_group.or(pod.run_as_group);
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        match user.or(image_user) {
            Some(0) => {
                return Err("container's runAsUser breaks non-root policy".into());
            }
            None => {
                return Err("container has runAsNonRoot and image will run as root".into());
            }
            Some(_) => {}
        }
    }
    let is_privileged = own.privileged == Some(true);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || is_privileged;
    let paths = |all: &[&str]| -> Vec<String> {
        if unmasked { Vec::new() } else { all.iter().map(|it| (*it).to_owned()).collect() }
    };
    let capabilities = own.capabilities.map(|it| Capability {
        add_capabilities: it.add.unwrap_or_default(),
        drop_capabilities: it.drop.unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    let has_user = user.is_some();
    Ok(LinuxContainerSecurityContext {
        capabilities,
        privileged: is_privileged,
        namespace_options: Some(namespaces(spec, target)),
        run_as_user: user.map(|value| Int64Value { value }),
        // The runtime takes a group only beside a user.
        run_as_group: group.filter(|_| has_user).map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()))),
        ..LinuxContainerSecurityContext::default()
    })
}

/// What of a container's specification makes another container of it: all but what can change in place.
pub(crate) fn hash(container: &Container) -> String {
    let mut fixed = container.clone();
    fixed.resources = None;
    let text = serde_json::to_string(&fixed).unwrap_or_default();
    crate::image::hex(digest(&SHA256, text.as_bytes()).as_ref(), 8)
}
