//! What goes on when agents end, and what people do with pods that run.

use std::io::{BufRead as _, BufReader};

use crate::{cluster::Cluster, is_skipped};

#[test]
fn an_agent_that_is_killed_stops_nothing_and_finds_its_pods_again() {
    if is_skipped() {
        return;
    }
    let mut cluster = Cluster::start(1);
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: lasting}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: IMAGE, command: [sh, -c, "while true; do echo tick; sleep 0.1; done"]}]
"#,
    );
    cluster.until("the pod runs", || cluster.pod("lasting", ".status.phase") == "Running");
    let id = cluster.pod("lasting", ".status.containerStatuses[0].containerID");
    cluster.kill(0);
    std::thread::sleep(std::time::Duration::from_secs(1));
    cluster.run(0);
    cluster.until("the API answers", || cluster.try_kubectl(&["get", "nodes"]).status.success());
    cluster.until("the log is read again", || {
        cluster.try_kubectl(&["logs", "lasting", "--tail=1"]).status.success()
    });
    assert_eq!(cluster.pod("lasting", ".status.containerStatuses[0].containerID"), id);
    assert_eq!(cluster.pod("lasting", ".status.containerStatuses[0].restartCount"), "0");
    // It wrote all the time: one line each tenth of a second, for more than the second without an agent.
    let lines = cluster.kubectl(&["logs", "lasting"]).lines().count();
    assert!(lines >= 10, "{lines} lines");
    cluster.kubectl(&["delete", "pod", "lasting", "--timeout=60s"]);
}

#[test]
fn commands_logs_and_ports_of_pods_are_reached_by_kubectl() {
    if is_skipped() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "mkdir /tmp/w; echo served > /tmp/w/index.html; echo first; echo second; if test -e /once/x; then exec httpd -f -p 8080 -h /tmp/w; fi; touch /once/x; exit 1"]
    volumeMounts: [{name: once, mountPath: /once}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
  volumes: [{name: once, emptyDir: {}}]
"#,
    );
    cluster.until("the pod is ready", || {
        cluster.pod("web", ".status.containerStatuses[0].ready") == "true"
    });
    let output =
        cluster.try_kubectl(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("err\n"));
    assert_eq!(cluster.kubectl(&["logs", "web", "--tail=1"]), "second\n");
    assert_eq!(cluster.kubectl(&["logs", "web", "--previous"]), "first\nsecond\n");
    let mut forward = cluster.start_kubectl(&["port-forward", "pod/web", "18080:8080"]);
    let mut line = String::new();
    BufReader::new(forward.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("18080"), "{line}");
    let answer = cluster.kubectl(&[
        "get",
        "--raw",
        "/api/v1/namespaces/default/pods/web:8080/proxy/index.html",
    ]);
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert_eq!(answer, "served\n");
    let top = cluster.kubectl(&["top", "pod", "web"]);
    assert!(top.contains("web"), "{top}");
}

#[test]
fn a_node_that_is_short_of_memory_says_so_and_sends_pods_away() {
    if is_skipped() {
        return;
    }
    let arguments = ["--eviction-hard", "memory.available<100Ti"];
    let cluster = Cluster::start_with(1, &arguments);
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - {name: c, image: IMAGE, command: [sleep, "1000"], resources: {requests: {memory: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - {name: c, image: IMAGE, command: [sleep, "1000"], resources: {requests: {memory: 1Ki}}}
"#,
    );
    cluster.until("the greedy pod is sent away", || {
        cluster.pod("greedy", ".status.reason") == "Evicted"
    });
    assert_eq!(cluster.pod("greedy", ".status.phase"), "Failed");
    let message = cluster.pod("greedy", ".status.message");
    assert!(message.contains("The node was low on resource: memory."), "{message}");
    assert!(message.contains("request is 1Ki, has larger consumption of memory."), "{message}");
    let path = "jsonpath={.status.conditions[?(@.type==\"MemoryPressure\")].status}";
    cluster.until("the node says so", || {
        cluster.kubectl(&["get", "node", "n1", "-o", path]) == "True"
    });
    cluster.until("new pods keep off", || {
        let taints =
            cluster.kubectl(&["get", "node", "n1", "-o", "jsonpath={.spec.taints[*].key}"]);
        taints.contains("node.kubernetes.io/memory-pressure")
    });
}
