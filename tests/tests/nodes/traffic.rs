//! Pods on two nodes serve by address, by port and by name, also while they are replaced.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    cluster::{Cluster, address, get},
    is_skipped,
};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: c
        image: IMAGE
        command: [sh, -c, "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: IMAGE, command: [sleep, "1000"]}]
"#;

fn node_port(cluster: &Cluster, node: usize) -> SocketAddr {
    let port =
        cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    address(node, port.parse().unwrap())
}

#[test]
fn pods_on_both_nodes_serve_by_port_and_by_name() {
    if is_skipped() {
        return;
    }
    let cluster = Cluster::start(2);
    cluster.apply(WEB);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    cluster.until("the client runs", || cluster.pod("client", ".status.phase") == "Running");
    let nodes = cluster.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[*].spec.nodeName}",
    ]);
    let nodes: BTreeSet<&str> = nodes.split_whitespace().collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    for node in 0..2 {
        let to = node_port(&cluster, node);
        let asked = cluster.outside(move || {
            (0..60).map(|_| get(to)).collect::<Result<BTreeSet<_>, anyhow::Error>>()
        });
        let names = asked.join().unwrap().unwrap();
        assert_eq!(names.len(), 4, "{names:?}");
    }
    let address = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let named =
        cluster.kubectl(&["exec", "client", "--", "nslookup", "web.default.svc.cluster.local"]);
    assert!(named.contains(&address), "{named}");
    let none = cluster.try_kubectl(&[
        "exec",
        "client",
        "--",
        "nslookup",
        "none.default.svc.cluster.local",
    ]);
    assert!(!none.status.success());
    let server = cluster.kubectl(&["exec", "client", "--", "cat", "/etc/resolv.conf"]);
    assert!(server.contains("nameserver 10.96.0.10\n"), "{server}");
}

#[test]
fn a_rolling_update_under_load_loses_no_request() {
    if is_skipped() {
        return;
    }
    let cluster = Cluster::start(2);
    cluster.apply(WEB);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let to = node_port(&cluster, 0);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let load = cluster.outside(move || {
        let (mut names, mut count, mut failures) = (BTreeSet::new(), 0_u32, Vec::new());
        while !over.load(Ordering::Relaxed) {
            match get(to) {
                Ok(name) => drop(names.insert(name)),
                Err(words) => failures.push(words),
            }
            count += 1;
        }
        (names, count, failures)
    });
    for _ in 0..3 {
        cluster.kubectl(&["rollout", "restart", "deployment/web"]);
        cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    }
    is_over.store(true, Ordering::Relaxed);
    let (names, count, failures) = load.join().unwrap();
    assert!(failures.is_empty(), "{} of {count}: {failures:?}", failures.len());
    assert!(names.len() > 8, "{} pods answered {count} requests", names.len());
    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
}

#[test]
fn one_node_answers_for_an_address_of_a_load_balancer_and_another_one_when_it_dies() {
    if is_skipped() {
        return;
    }
    let mut cluster = Cluster::start(2);
    cluster.apply(&WEB.replace("NodePort", "LoadBalancer"));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let address = cluster.kubectl(&["get", "service", "web", "-o", path]);
    let to = SocketAddr::new(address.parse().unwrap(), 80);
    let ask = |cluster: &Cluster| {
        cluster
            .outside(move || {
                (0..60).map(|_| get(to)).collect::<Result<BTreeSet<_>, anyhow::Error>>()
            })
            .join()
            .unwrap()
    };
    cluster.until("it is reached from outside", || ask(&cluster).is_ok());
    assert_eq!(ask(&cluster).unwrap().len(), 4);
    let announced = || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector=reason=Announced", "-o=name"]);
        events.lines().count()
    };
    cluster.until("it is announced", || announced() == 1);
    let describes = cluster.kubectl(&["describe", "service", "web"]);
    let holder = usize::from(!describes.contains("node n1 answers"));
    // The API lives on the first node: the event tells only where the second one held it.
    cluster.kill(holder);
    if holder == 0 {
        // Somebody else has to answer, without an API.
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert!(ask(&cluster).is_ok());
        cluster.run(0);
        cluster
            .until("the API answers", || cluster.try_kubectl(&["get", "nodes"]).status.success());
    } else {
        cluster.until("the other node answers", || {
            cluster.kubectl(&["describe", "service", "web"]).contains("node n1 answers")
        });
        assert!(ask(&cluster).is_ok());
        cluster.run(1);
    }
    cluster.until("both nodes answer", || ask(&cluster).is_ok());
}
