//! Host ports of pods.

use dataplane_user::model::{
    Kind, Masquerade, ObjectEvent, Placement, Protocol, Route, Scope, ServiceTable,
};

use crate::objects::{ask, dump, gone, objects, problems, table, targets};

/// A pod with one port; what stands in the second pair of braces is added to its port.
fn pod(name: &str, port: &str) -> String {
    format!(
        "---
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  nodeName: here
  containers: [{{name: main, ports: [{{containerPort: 8080, {port}}}]}}]
status: {{phase: Running, podIP: 10.1.0.5, podIPs: [{{ip: 10.1.0.5}}, {{ip: 'fd01::5'}}]}}
"
    )
}

#[test]
fn a_host_port_is_on_every_node_address_and_loopback_in_both_families() {
    let table = table(&pod("web", "hostPort: 80"));
    for (scope, address) in [
        (Scope::Outside, "192.0.2.10"),
        (Scope::Pod, "192.0.2.10"),
        (Scope::Host, "192.0.2.10"),
        (Scope::Host, "127.0.0.1"),
    ] {
        assert_eq!(targets(&ask(&table, scope, address, 80)), ["10.1.0.5:8080"], "{address}");
    }
    assert_eq!(targets(&ask(&table, Scope::Outside, "2001:db8::10", 80)), ["[fd01::5]:8080"]);
    assert_eq!(ask(&table, Scope::Pod, "127.0.0.1", 80), Route::NotOurs);
    assert_eq!(ask(&table, Scope::Outside, "192.0.2.99", 80), Route::NotOurs);
    assert_eq!(
        dump(&table),
        "default/web:80/TCP v4 of a pod
  at node:80/TCP host port
  to 10.1.0.5:8080 local
default/web:80/TCP v6 of a pod
  at node:80/TCP host port
  to [fd01::5]:8080 local
"
    );
}

#[test]
fn only_a_pod_that_reaches_itself_through_its_host_port_is_masqueraded() {
    let table = table(&pod("web", "hostPort: 80"));
    for scope in [Scope::Outside, Scope::Pod, Scope::Host] {
        let route = ask(&table, scope, "192.0.2.10", 80);
        let Route::OneOf { endpoints, masquerade, affinity_s } = route else { panic!("{route:?}") };
        assert_eq!((masquerade, affinity_s), (Masquerade::Hairpin, None));
        assert_eq!(endpoints[0].placement, Placement::Local);
    }
}

#[test]
fn host_ip_narrows_a_host_port() {
    let of = |ip: &str| table(&pod("web", &format!("hostPort: 80, hostIP: '{ip}'")));
    let is_served = |table: &ServiceTable, scope, address: &str| {
        ask(table, scope, address, 80) != Route::NotOurs
    };
    let one = of("192.0.2.10");
    assert!(is_served(&one, Scope::Outside, "192.0.2.10"));
    assert!(!is_served(&one, Scope::Host, "127.0.0.1"));
    assert!(!is_served(&one, Scope::Outside, "2001:db8::10"));
    let v4 = of("0.0.0.0");
    assert!(is_served(&v4, Scope::Outside, "192.0.2.10"));
    assert!(is_served(&v4, Scope::Host, "127.0.0.1"));
    assert!(!is_served(&v4, Scope::Outside, "2001:db8::10"));
    let v6 = of("::");
    assert!(is_served(&v6, Scope::Outside, "2001:db8::10"));
    assert!(!is_served(&v6, Scope::Outside, "192.0.2.10"));
    let loopback = of("127.0.0.1");
    assert!(is_served(&loopback, Scope::Host, "127.0.0.1"));
    assert!(!is_served(&loopback, Scope::Pod, "127.0.0.1"));
    assert!(!is_served(&loopback, Scope::Outside, "192.0.2.10"));
}

#[test]
fn only_pods_that_run_here_with_a_network_of_their_own_have_host_ports() {
    let good = pod("web", "hostPort: 80");
    for (old, new) in [
        ("nodeName: here", "nodeName: elsewhere"),
        ("nodeName: here", "schedulerName: none"),
        ("nodeName: here", "nodeName: here\n  hostNetwork: true"),
        ("phase: Running", "phase: Pending"),
        ("phase: Running", "phase: Succeeded"),
        ("podIP: 10.1.0.5, podIPs: [{ip: 10.1.0.5}, {ip: 'fd01::5'}]", "podIPs: []"),
        ("hostPort: 80", "hostPort: 0"),
        ("hostPort: 80", "name: web"),
    ] {
        let mut table = table(&good);
        assert_eq!(table.take_changed().len(), 2);
        let changed = good.replacen(old, new, 1);
        assert_ne!(changed, good);
        for event in objects(&changed) {
            assert_eq!(table.apply(event), [], "{new}");
        }
        assert_eq!((table.keys(), table.take_changed().len()), (vec![], 2), "{new}");
        assert_eq!(ask(&table, Scope::Outside, "192.0.2.10", 80), Route::NotOurs, "{new}");
    }
}

#[test]
fn sidecars_have_host_ports_and_other_init_containers_have_not() {
    let of = |policy: &str| {
        let port = "ports: [{containerPort: 9090, hostPort: 90, protocol: SCTP}]";
        let init = format!("initContainers: [{{name: init, {policy} {port}}}]");
        pod("web", "hostPort: 80").replace("nodeName: here", &format!("nodeName: here\n  {init}"))
    };
    assert_eq!(table(&of("")).keys().len(), 2);
    let table = table(&of("restartPolicy: Always,"));
    let protocols: Vec<Protocol> =
        table.keys().iter().map(|key| table.port(key).unwrap().frontends[0].protocol).collect();
    assert_eq!(protocols, [Protocol::Tcp, Protocol::Tcp, Protocol::Sctp, Protocol::Sctp]);
}

#[test]
fn a_pod_with_one_address_has_host_ports_in_its_family() {
    let yaml =
        pod("web", "hostPort: 80").replace(", podIPs: [{ip: 10.1.0.5}, {ip: 'fd01::5'}]", "");
    let table = table(&yaml);
    assert_eq!(targets(&ask(&table, Scope::Outside, "192.0.2.10", 80)), ["10.1.0.5:8080"]);
    assert_eq!(ask(&table, Scope::Outside, "2001:db8::10", 80), Route::NotOurs);
}

const NODE_PORT: &str = "---
kind: Service
metadata: {name: web, namespace: default, creationTimestamp: '2026-06-01T00:00:00Z'}
spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}
";

#[test]
fn a_service_wins_over_a_pod_and_the_pod_gets_the_port_when_it_goes() {
    for service_first in [false, true] {
        let pod = pod("old", "hostPort: 30080");
        let yaml = if service_first { format!("{NODE_PORT}{pod}") } else { pod + NODE_PORT };
        let mut table = table(&yaml);
        assert_eq!(ask(&table, Scope::Outside, "192.0.2.10", 30080), Route::Refused, "the Service");
        assert_eq!(
            problems(&table),
            [
                "Pod default/old: spec.containers.ports.hostPort: 0.0.0.0:30080/TCP belongs to Service \
              default/web"
            ]
        );
        table.take_changed();
        table.apply(gone(Kind::Service, "default", "web"));
        assert!(table.take_changed().iter().any(|key| &*key.service == "old"));
        let route = ask(&table, Scope::Outside, "192.0.2.10", 30080);
        assert_eq!(targets(&route), ["10.1.0.5:8080"]);
        assert_eq!(problems(&table), [""; 0]);
    }
}

#[test]
fn of_two_pods_the_older_one_has_the_port() {
    let dated = |name: &str, day: u8, ip: u8| {
        pod(name, "hostPort: 80")
            .replace(
                "namespace: default",
                &format!("namespace: default, creationTimestamp: '2026-01-0{day}T00:00:00Z'"),
            )
            .replace("10.1.0.5", &format!("10.1.0.{ip}"))
    };
    let mut table = table(&(dated("younger", 2, 2) + &dated("older", 1, 1)));
    assert_eq!(targets(&ask(&table, Scope::Outside, "192.0.2.10", 80)), ["10.1.0.1:8080"]);
    assert_eq!(table.problem_counts()["taken"], 2, "one per family");
    table.take_changed();
    table.apply(gone(Kind::Pod, "default", "older"));
    assert_eq!(table.take_changed().len(), 4);
    assert_eq!(targets(&ask(&table, Scope::Outside, "192.0.2.10", 80)), ["10.1.0.2:8080"]);
}

#[test]
fn pods_that_a_list_does_not_name_are_gone() {
    let mut table = table(&(pod("a", "hostPort: 80") + &pod("b", "hostPort: 81")));
    table.take_changed();
    table.apply(ObjectEvent::ListBegin(Kind::Pod));
    for event in objects(&pod("b", "hostPort: 81")) {
        table.apply(event);
    }
    table.apply(ObjectEvent::ListEnd(Kind::Pod));
    let changed: Vec<String> =
        table.take_changed().iter().map(|key| key.service.to_string()).collect();
    assert_eq!(changed, ["a", "a"]);
    assert_eq!(table.keys().len(), 2);
}

#[test]
fn a_host_port_at_the_nodes_own_address_leads_to_the_host() {
    let mut table = table(&pod("web", "hostPort: 80"));
    table.take_changed();
    table.set_addresses(["10.1.0.5".parse().unwrap()]);
    assert_eq!(table.take_changed().len(), 2);
    let endpoints = table.port(&table.keys()[0]).unwrap().endpoints;
    assert_eq!(endpoints[0].placement, Placement::Host);
}
