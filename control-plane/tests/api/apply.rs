//! What kubectl asks the OpenAPI documents for: explain, apply, diff, validation.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};

use super::{Cluster, skipped};

/// Every kubectl that is installed: the one on the path, and those of other versions beside it.
pub(crate) fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    let first =
        std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|it| it.exists());
    let folder = first.and_then(|it| Some(it.canonicalize().ok()?.parent()?.to_owned()));
    let others = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    let mut all: Vec<PathBuf> = others
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|it| {
            it.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl.1."))
        })
        .collect();
    all.push(PathBuf::from("kubectl"));
    all
}

fn write(cluster: &Cluster, object: &Value) -> String {
    let file = cluster.folder.path().join("applied.json");
    std::fs::write(&file, object.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

fn deployment(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "web", "image": image, "ports": [{"containerPort": 80}]},
                    {"name": "log", "image": "log:1"},
                ]},
            },
        },
    })
}

#[test]
fn types_are_explained_field_by_field() {
    if skipped("types_are_explained_field_by_field") {
        return;
    }
    let cluster = Cluster::start();
    let text = cluster.says(&["explain", "pod.spec.containers.image"]);
    assert!(text.contains("Container image name"), "{text}");
    let text = cluster.says(&["explain", "deployments", "--recursive"]);
    assert!(text.contains("maxSurge") && text.contains("VERSION:    v1"), "{text}");
}

#[test]
fn what_is_applied_is_merged_and_what_left_the_file_goes() {
    if skipped("what_is_applied_is_merged_and_what_left_the_file_goes") {
        return;
    }
    for program in kubectls() {
        let cluster = Cluster::start();
        let run = |arguments: &[&str]| {
            let output = Command::new(&program)
                .args(arguments)
                .env("KUBECONFIG", cluster.kubeconfig())
                .env("HOME", cluster.folder.path())
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), String::from_utf8(output.stdout).unwrap(), error)
        };
        let file = write(&cluster, &deployment("web:1"));
        let (code, text, error) = run(&["apply", "-f", &file]);
        assert_eq!(
            (code, text.trim()),
            (Some(0), "deployment.apps/web created"),
            "{program:?}: {error}"
        );
        // Somebody else adds what the file does not speak of.
        cluster.says(&["annotate", "deployment", "web", "note=kept"]);
        let mut changed = deployment("web:2");
        changed["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().pop();
        let file = write(&cluster, &changed);
        let (code, text, error) = run(&["diff", "-f", &file]);
        assert_eq!(code, Some(1), "{program:?}: {error}");
        assert!(text.contains("-        image: web:1") || text.contains("web:2"), "{text}");
        let (code, text, error) = run(&["apply", "-f", &file]);
        assert_eq!(
            (code, text.trim()),
            (Some(0), "deployment.apps/web configured"),
            "{program:?}: {error}"
        );
        let now = cluster.get("deployment/web");
        let containers = now["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1, "{program:?}: {containers:?}");
        assert_eq!(containers[0]["image"], "web:2");
        assert_eq!(now["metadata"]["annotations"]["note"], "kept");
        let (code, text, error) = run(&["apply", "-f", &file]);
        assert_eq!(
            (code, text.trim()),
            (Some(0), "deployment.apps/web unchanged"),
            "{program:?}: {error}"
        );
    }
}

#[test]
fn what_is_wrong_with_an_object_is_said_as_upstream_says_it() {
    if skipped("what_is_wrong_with_an_object_is_said_as_upstream_says_it") {
        return;
    }
    let cluster = Cluster::start();
    let mut object = deployment("web:1");
    object["spec"]["replicaz"] = json!(3);
    let file = write(&cluster, &object);
    let words = cluster.refuses(&["apply", "-f", &file]);
    assert!(words.contains("strict decoding error: unknown field \"spec.replicaz\""), "{words}");
    let output = cluster.run(&["apply", "--validate=warn", "-f", &file]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    assert!(words.contains("Warning: unknown field \"spec.replicaz\""), "{words}");
    assert_eq!(cluster.get("deployment/web")["spec"]["replicaz"], Value::Null);
    let mut object = deployment("web:1");
    object["metadata"]["name"] = json!("other");
    object["spec"]["selector"] = json!({"matchLabels": {"app": "nobody"}});
    object["spec"]["replicas"] = json!(-1);
    let file = write(&cluster, &object);
    let words = cluster.refuses(&["create", "-f", &file]);
    assert!(words.contains("The Deployment \"other\" is invalid:"), "{words}");
    assert!(
        words.contains("* spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        "{words}"
    );
    assert!(words.contains("`selector` does not match template `labels`"), "{words}");
    let mut object = deployment("web:1");
    object["spec"]["replicas"] = json!("three");
    let file = write(&cluster, &object);
    let words = cluster.refuses(&["create", "-f", &file]);
    assert!(words.contains("cannot unmarshal string into Go struct field"), "{words}");
}

#[test]
fn a_range_of_a_namespace_fills_in_what_pods_leave_open_and_bounds_them() {
    if skipped("a_range_of_a_namespace_fills_in_what_pods_leave_open_and_bounds_them") {
        return;
    }
    let cluster = Cluster::start();
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "bounds"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]},
    });
    cluster.says(&["create", "-f", &write(&cluster, &range)]);
    cluster.says(&["run", "plain", "--image=web:1"]);
    let resources = &cluster.get("pod/plain")["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy"},
        "spec": {"containers": [{
            "name": "c", "image": "web:1", "resources": {"limits": {"cpu": "2"}},
        }]},
    });
    let words = cluster.refuses(&["create", "-f", &write(&cluster, &pod)]);
    let expected =
        "pods \"greedy\" is forbidden: maximum cpu usage per Container is 1, but limit is 2";
    assert!(words.contains(expected), "{words}");
}

#[test]
fn server_side_apply_shares_objects_and_says_who_owns_what() {
    if skipped("server_side_apply_shares_objects_and_says_who_owns_what") {
        return;
    }
    let cluster = Cluster::start();
    let file = write(&cluster, &deployment("web:1"));
    let text = cluster.says(&["apply", "--server-side", "-f", &file]);
    assert_eq!(text.trim(), "deployment.apps/web serverside-applied");
    cluster.says(&["set", "image", "deployment/web", "web=web:9"]);
    let words = cluster.refuses(&["apply", "--server-side", "-f", &file]);
    assert!(words.contains("conflict with \"kubectl-set\" using apps/v1"), "{words}");
    assert!(words.contains(".spec.template.spec.containers[name=\"web\"].image"), "{words}");
    cluster.says(&["apply", "--server-side", "--force-conflicts", "-f", &file]);
    let mut less = deployment("web:2");
    less["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().pop();
    let file = write(&cluster, &less);
    cluster.says(&["apply", "--server-side", "-f", &file]);
    let now = cluster.get("deployment/web");
    let containers = now["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert_eq!(containers[0]["image"], "web:2");
    let text = cluster.says(&["get", "deployment", "web", "-o", "yaml", "--show-managed-fields"]);
    assert!(text.contains("manager: kubectl\n") && text.contains("operation: Apply"), "{text}");
    // From client-side to server-side: kubectl rewrites the owners itself.
    let mut other = deployment("web:1");
    other["metadata"]["name"] = json!("other");
    let file = write(&cluster, &other);
    cluster.says(&["apply", "-f", &file]);
    other["spec"].as_object_mut().unwrap().remove("replicas");
    let file = write(&cluster, &other);
    cluster.says(&["apply", "--server-side", "-f", &file]);
    let owners =
        cluster.says(&["get", "deployment", "other", "-o", "yaml", "--show-managed-fields"]);
    assert!(!owners.contains("manager: kubectl-client-side-apply"), "{owners}");
}
