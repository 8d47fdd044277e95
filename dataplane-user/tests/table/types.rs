//! A Service changes its type while it is served.

use dataplane_user::model::ServiceTable;

use crate::objects::{dump, node, objects};

const ENDPOINTS: &str = "
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.5], nodeName: here}]
";

const TYPES: [(&str, &str, usize); 6] = [
    (
        "ExternalName",
        "spec: {type: ExternalName, externalName: example.org, ports: [{port: 80}]}",
        0,
    ),
    ("headless", "spec: {clusterIP: None, ports: [{port: 80}]}", 0),
    ("ClusterIP", "spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}", 1),
    (
        "NodePort",
        "spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}",
        2,
    ),
    (
        "LoadBalancer",
        "spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}",
        3,
    ),
    (
        "LoadBalancer without node ports",
        "spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}],
  allocateLoadBalancerNodePorts: false, externalTrafficPolicy: Local, healthCheckNodePort: 30500}
status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}",
        2,
    ),
];

fn tell(table: &mut ServiceTable, rest: &str) {
    let yaml = format!("kind: Service\nmetadata: {{name: web, namespace: default}}\n{rest}");
    for event in objects(&yaml) {
        assert_eq!(table.apply(event), [], "{rest}");
    }
}

fn fresh(rest: &str) -> ServiceTable {
    let mut table = ServiceTable::new(node());
    for event in objects(ENDPOINTS) {
        table.apply(event);
    }
    tell(&mut table, rest);
    table
}

#[test]
fn a_service_that_changes_its_type_is_as_if_it_had_always_had_it() {
    for (from, before, _) in TYPES {
        for (to, after, frontends) in TYPES {
            let mut table = fresh(before);
            table.take_changed();
            tell(&mut table, after);
            assert_eq!(dump(&table), dump(&fresh(after)), "{from} to {to}");
            let served: usize =
                table.keys().iter().map(|key| table.port(key).unwrap().frontends.len()).sum();
            assert_eq!(served, frontends, "{to}");
            let is_same = dump(&fresh(before)) == dump(&fresh(after));
            assert_eq!(table.take_changed().is_empty(), is_same, "{from} to {to}");
            let health = fresh(after).health_checks();
            assert_eq!(table.health_checks(), health, "{from} to {to}");
        }
    }
}

#[test]
fn labels_hand_a_service_to_somebody_else_while_it_is_served() {
    let labels =
        ["service.kubernetes.io/service-proxy-name: other", "service.kubernetes.io/headless: ''"];
    for label in labels {
        let mut table = fresh(TYPES[2].1);
        assert_eq!(table.keys().len(), 1);
        table.take_changed();
        let yaml = format!(
            "kind: Service\nmetadata: {{name: web, namespace: default, labels: {{{label}}}}}\n{}",
            TYPES[2].1
        );
        for event in objects(&yaml) {
            table.apply(event);
        }
        assert_eq!((table.keys().len(), table.take_changed().len()), (0, 1), "{label}");
    }
}
