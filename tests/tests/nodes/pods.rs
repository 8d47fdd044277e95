//! What pods are made of: containers in order, volumes, probes, and reasons when something is wrong.

use crate::{cluster::Cluster, is_skipped};

#[test]
fn containers_start_in_order_and_volumes_follow_their_sources() {
    if is_skipped() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.apply(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: one, b: two}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {key: "42"}
---
apiVersion: v1
kind: Pod
metadata: {name: all, labels: {app: all}}
spec:
  terminationGracePeriodSeconds: 5
  initContainers:
  - {name: first, image: IMAGE, command: [sh, -c, "echo first >> /steps/order"], volumeMounts: [{name: work, mountPath: /steps}]}
  - name: side
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, "echo side >> /steps/order; trap 'echo side ends; exit 0' TERM; while true; do sleep 0.1; done"]
    startupProbe: {exec: {command: [grep, side, /steps/order]}, periodSeconds: 1}
    volumeMounts: [{name: work, mountPath: /steps}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "echo main >> /steps/order; cat /steps/order; exec sleep 1000"]
    envFrom: [{secretRef: {name: hidden, optional: false}, prefix: S_}]
    env:
    - {name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: GREETING, value: "hello $(WHO)"}
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
    volumeMounts:
    - {name: work, mountPath: /steps}
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /fixed, subPath: a}
    - {name: about, mountPath: /about}
  volumes:
  - {name: work, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - name: about
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory}}
"#,
    );
    cluster.until("the pod is ready", || {
        cluster.pod("all", ".status.containerStatuses[0].ready") == "true"
    });
    assert_eq!(cluster.kubectl(&["logs", "all", "-c", "main"]), "first\nside\nmain\n");
    let exec =
        |command: &str| cluster.kubectl(&["exec", "all", "-c", "main", "--", "sh", "-c", command]);
    assert_eq!(
        exec("cat /settings/a /fixed /about/labels /about/memory"),
        "oneoneapp=\"all\"33554432"
    );
    assert_eq!(exec("echo $GREETING $S_key"), "hello all 42\n");
    assert_eq!(cluster.pod("all", ".status.qosClass"), "Burstable");
    cluster.kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"a":"new"}}"#]);
    cluster.until("the file follows", || exec("cat /settings/a") == "new");
    assert_eq!(exec("cat /fixed"), "one", "a file of its own stays as it was");
    cluster.kubectl(&["delete", "pod", "all", "--timeout=60s"]);
}

#[test]
fn probes_restart_containers_and_take_pods_out_of_services() {
    if is_skipped() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: probed, labels: {app: probed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "mkdir /tmp/w; echo x > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"]
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {port: http, path: /index.html}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {exec: {command: [test, "!", -e, /tmp/dead]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: probed}
spec: {selector: {app: probed}, ports: [{port: 80, targetPort: http}]}
"#,
    );
    let addresses = || {
        let path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}";
        let label = "kubernetes.io/service-name=probed";
        cluster.kubectl(&["get", "endpointslices", "-l", label, "-o", path])
    };
    cluster.until("the pod serves", || !addresses().trim().is_empty());
    cluster.kubectl(&["exec", "probed", "--", "rm", "/tmp/w/index.html"]);
    cluster.until("the pod is out", || addresses().trim().is_empty());
    assert_eq!(cluster.pod("probed", ".status.containerStatuses[0].restartCount"), "0");
    cluster.kubectl(&["exec", "probed", "--", "touch", "/tmp/dead"]);
    let restarts = || cluster.pod("probed", ".status.containerStatuses[0].restartCount");
    cluster.until("it is started again, and serves", || {
        restarts() == "1" && !addresses().trim().is_empty()
    });
    let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
    for reason in ["Unhealthy", "Killing", "Started", "Pulled"] {
        assert!(events.contains(reason), "{reason}: {events}");
    }
}

#[test]
fn pods_that_cannot_run_say_why() {
    if is_skipped() {
        return;
    }
    let cluster = Cluster::start(1);
    let pod = |name: &str, rest: &str| {
        let head = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: ");
        format!("{head}{rest}\n---\n")
    };
    let all = [
        pod(
            "never",
            "{containers: [{name: c, image: 'hashplane.test/none:1', imagePullPolicy: Never}]}",
        ),
        pod(
            "config",
            "{containers: [{name: c, image: IMAGE, command: [sleep, '9'], env: [{name: X, valueFrom: {secretKeyRef: {name: none, key: k}}}]}]}",
        ),
        pod("command", "{containers: [{name: c, image: IMAGE, command: [/no/such]}]}"),
        pod(
            "crash",
            "{containers: [{name: c, image: IMAGE, command: [sh, -c, 'echo said > /dev/termination-log; exit 7']}]}",
        ),
        pod(
            "root",
            "{securityContext: {runAsNonRoot: true}, containers: [{name: c, image: IMAGE, command: [sleep, '9']}]}",
        ),
        pod(
            "volume",
            "{containers: [{name: c, image: IMAGE, command: [sleep, '9'], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: none}}]}",
        ),
        pod(
            "once",
            "{restartPolicy: Never, containers: [{name: c, image: IMAGE, command: [sh, -c, 'exit 3']}]}",
        ),
        pod(
            "large",
            "{nodeName: n1, containers: [{name: c, image: IMAGE, resources: {requests: {cpu: '1000'}}}]}",
        ),
    ];
    cluster.apply(&all.concat());
    let waits = |name: &str| cluster.pod(name, ".status.containerStatuses[0].state.waiting.reason");
    for (name, reason) in [
        ("never", "ErrImageNeverPull"),
        ("config", "CreateContainerConfigError"),
        ("command", "CrashLoopBackOff"),
        ("crash", "CrashLoopBackOff"),
        ("root", "CreateContainerConfigError"),
        ("volume", "ContainerCreating"),
    ] {
        cluster.until(&format!("{name} waits by {reason}"), || waits(name) == reason);
    }
    let last = |name: &str, field: &str| {
        cluster.pod(name, &format!(".status.containerStatuses[0].lastState.terminated.{field}"))
    };
    assert_eq!(last("crash", "exitCode"), "7");
    assert_eq!(last("crash", "message").trim(), "said");
    cluster.until("once has failed", || cluster.pod("once", ".status.phase") == "Failed");
    cluster.until("large is refused", || cluster.pod("large", ".status.reason") == "OutOfcpu");
    let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"]);
    assert!(events.contains("configmap \"none\" not found"), "{events}");
    // What was missing comes, and the pods go on by themselves.
    cluster.kubectl(&["create", "configmap", "none", "--from-literal=a=b"]);
    cluster.kubectl(&["create", "secret", "generic", "none", "--from-literal=k=v"]);
    for name in ["volume", "config"] {
        cluster.until(&format!("{name} runs"), || cluster.pod(name, ".status.phase") == "Running");
    }
}
