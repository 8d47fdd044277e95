//! What `deploy/` tells a cluster and systemd is what they and the daemon understand.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use hashplane_tests::skip::say_skipped;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Namespace, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn deploy(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")).join(name)
}

fn manifests() -> Vec<Value> {
    let text = fs::read_to_string(deploy("daemonset.yaml")).unwrap();
    text.split("\n---\n").skip(1).map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

/// Parses and gives back; a field that the type does not know is lost on the way.
fn through<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    serde_json::to_value(typed).unwrap()
}

fn find(kind: &str) -> Value {
    manifests().into_iter().find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn every_object_of_the_manifest_is_one_that_kubernetes_knows_field_by_field() {
    for object in manifests() {
        let known = match object["kind"].as_str().unwrap() {
            "Namespace" => through::<Namespace>(&object),
            "ServiceAccount" => through::<ServiceAccount>(&object),
            "ConfigMap" => through::<ConfigMap>(&object),
            "ClusterRole" => through::<ClusterRole>(&object),
            "ClusterRoleBinding" => through::<ClusterRoleBinding>(&object),
            "DaemonSet" => through::<DaemonSet>(&object),
            other => panic!("unexpected kind {other}"),
        };
        assert_eq!(known, object);
    }
    assert_eq!(manifests().len(), 6);
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_lost_on_the_way() {
    let mut object = find("DaemonSet");
    object["spec"]["template"]["spec"]["hostNetwrk"] = Value::Bool(true);
    assert_ne!(through::<DaemonSet>(&object), object);
}

/// Everything that the role allows, as `verb group/resource`.
fn allowed() -> BTreeSet<String> {
    let role: ClusterRole = serde_json::from_value(find("ClusterRole")).unwrap();
    let mut allowed = BTreeSet::new();
    for rule in role.rules.unwrap() {
        assert_eq!((&rule.non_resource_urls, &rule.resource_names), (&None, &None));
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.iter().flatten() {
                allowed.extend(rule.verbs.iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    allowed
}

#[test]
fn the_proxy_may_read_what_it_watches_report_on_services_and_nothing_else() {
    let watched = ["/services", "/pods", "/nodes", "discovery.k8s.io/endpointslices"];
    let verbs = ["get", "list", "watch"];
    let reads = watched.iter().flat_map(|what| verbs.map(|verb| format!("{verb} {what}")));
    let writes =
        ["patch /services/status", "create events.k8s.io/events", "patch events.k8s.io/events"];
    let expected: BTreeSet<String> = reads.chain(writes.map(str::to_owned)).collect();
    assert_eq!(allowed(), expected);
}

#[test]
fn the_role_is_bound_to_the_account_that_the_proxy_runs_as() {
    let binding: ClusterRoleBinding = serde_json::from_value(find("ClusterRoleBinding")).unwrap();
    let role: ClusterRole = serde_json::from_value(find("ClusterRole")).unwrap();
    let account: ServiceAccount = serde_json::from_value(find("ServiceAccount")).unwrap();
    let set: DaemonSet = serde_json::from_value(find("DaemonSet")).unwrap();
    assert_eq!(Some(binding.role_ref.name), role.metadata.name);
    let [subject] = &binding.subjects.unwrap()[..] else { panic!("one subject") };
    assert_eq!(Some(&subject.name), account.metadata.name.as_ref());
    assert_eq!(subject.namespace, account.metadata.namespace);
    let pod = set.spec.template.spec.unwrap();
    assert_eq!(pod.service_account_name, account.metadata.name);
    assert_eq!(set.metadata.namespace, account.metadata.namespace);
}

#[test]
fn what_the_daemon_set_mounts_is_a_volume_and_what_it_probes_is_a_port() {
    let set = find("DaemonSet");
    let spec = &set["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        let mut names: Vec<_> = list.map(|item| item["name"].as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&container["volumeMounts"]), names(&spec["volumes"]));
    let ports = names(&container["ports"]);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let port = container[probe]["httpGet"]["port"].as_str().unwrap().to_owned();
        assert!(ports.contains(&port), "{probe}");
    }
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
}

/// Rules of iptables are written under a lock that the kubelet takes too, and with programs and modules
/// that have to be in the image or on the node.
#[test]
fn the_daemon_set_has_what_every_mode_needs_of_the_node() {
    let set = find("DaemonSet");
    let spec = &set["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let mount = |path: &str| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path);
        mount.cloned().unwrap_or_else(|| panic!("nothing is mounted at {path}"))
    };
    let volume = |mount: &Value| {
        let volumes = spec["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        volume["hostPath"].clone()
    };
    let lock = volume(&mount("/run/xtables.lock"));
    assert_eq!(
        (&lock["path"], &lock["type"]),
        (&"/run/xtables.lock".into(), &"FileOrCreate".into())
    );
    let modules = mount("/lib/modules");
    assert_eq!(
        (&modules["readOnly"], &volume(&modules)["path"]),
        (&true.into(), &"/lib/modules".into())
    );
    let environment = container["env"].as_array().unwrap();
    let mode = environment.iter().find(|variable| variable["name"] == "HASHPLANE_MODE");
    assert_eq!(mode.unwrap()["value"], "auto");
    // The last stage is what a build makes that names none.
    let image = fs::read_to_string(deploy("Containerfile")).unwrap();
    let (_, last) = image.rsplit_once("\nFROM ").unwrap();
    for package in [" iptables", " kmod"] {
        assert!(last.contains(package), "{package} is not in the image");
    }
    let unit = fs::read_to_string(deploy("hashplane-proxy.service")).unwrap();
    let line = unit.lines().find(|line| line.starts_with("CapabilityBoundingSet=")).unwrap();
    for capability in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_MODULE", "CAP_BPF"] {
        assert!(line.contains(capability), "{line}");
    }
}

/// What `hashplane proxy --help` says, or `None`, aloud, without a binary.
fn proxy_help(test: &str) -> Option<String> {
    let Some(binary) = std::env::var_os("HASHPLANE_BIN") else {
        say_skipped(test, "HASHPLANE_BIN names no binary (`cargo xtask test` sets it)");
        return None;
    };
    let output = Command::new(binary).args(["proxy", "--help"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_daemon_knows_every_variable_and_key_that_deploy_sets() {
    let Some(help) = proxy_help("deploy::the_daemon_knows_every_variable_and_key_that_deploy_sets")
    else {
        return;
    };
    let set = find("DaemonSet");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(help.contains(&format!("[env: {name}=")), "{name} is no setting of the daemon");
    }
    // Comments that show a key count as well.
    let config = fs::read_to_string(deploy("proxy.yaml")).unwrap();
    let shown = config.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
    let keys = shown.filter_map(|line| line.split_once(": ")).map(|(key, _)| key);
    let keys: Vec<&str> = keys.filter(|key| !key.contains(' ')).collect();
    assert!(keys.len() > 10, "{keys:?}");
    for key in keys {
        assert!(help.contains(&format!("--{key} ")), "{key} is no setting of the daemon");
    }
}

#[test]
fn systemd_understands_the_unit() {
    let unit = fs::read_to_string(deploy("hashplane-proxy.service")).unwrap();
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        let reason = "systemd-analyze is missing (package systemd)";
        return say_skipped("deploy::systemd_understands_the_unit", reason);
    }
    // It also looks for the program, which is not installed here.
    let folder = tempfile::tempdir().unwrap();
    let installed = unit.replace("/usr/local/bin/hashplane", "/bin/true");
    assert_ne!(installed, unit);
    let verify = |text: &str| {
        let path = folder.path().join("hashplane-proxy.service");
        fs::write(&path, text).unwrap();
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no"]).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let about_us: Vec<String> =
            said.lines().filter(|line| line.contains("hashplane-proxy")).map(Into::into).collect();
        (output.status.success(), about_us)
    };
    let (good, said) = verify(&installed);
    assert!(good && said.is_empty(), "{said:?}");
    // It only warns about what it does not know, so a warning must count.
    let (_, said) = verify(&installed.replace("RestartSec=", "RestartSecs="));
    assert!(!said.is_empty());
}
