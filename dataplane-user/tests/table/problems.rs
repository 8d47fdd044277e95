//! What is wrong with objects: named with field and cause, and the rest is served.

use crate::objects::{problems, table};

/// A Service that is right but for some fields, and what is said about it.
fn said(kind: &str, spec: &str, rest: &str) -> (Vec<String>, usize) {
    let table = table(&format!(
        "kind: Service
metadata: {{name: web, namespace: default}}
spec: {{type: {kind}, clusterIP: 10.96.0.1, ports: [{{port: 80}}], {spec}}}
{rest}"
    ));
    let problems = problems(&table)
        .iter()
        .map(|text| text.strip_prefix("Service default/web: ").unwrap().to_owned())
        .collect();
    (problems, table.keys().len())
}

/// Type of the Service | what its spec says | what is said about it.
const BAD_FIELDS: &str = "
ClusterIP | internalTrafficPolicy: Near | spec.internalTrafficPolicy: `Near` is not a traffic policy; Cluster and Local are
NodePort | externalTrafficPolicy: local | spec.externalTrafficPolicy: `local` is not a traffic policy; Cluster and Local are
ClusterIP | trafficDistribution: PreferFar | spec.trafficDistribution: `PreferFar` is not a traffic distribution; PreferSameZone, PreferSameNode and PreferClose are
ClusterIP | sessionAffinity: Cookie | spec.sessionAffinity: `Cookie` is not a session affinity; None and ClientIP are
ClusterIP | sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}} | spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 s is not a timeout of session affinity (1-86400); the Service has none
ClusterIP | sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}} | spec.sessionAffinityConfig: has no effect: the Service has no session affinity
ClusterIP | externalIPs: [nowhere] | spec.externalIPs[0]: `nowhere` is not an address that a service or a pod can have
ClusterIP | externalIPs: [203.0.113.1, 127.0.0.1] | spec.externalIPs[1]: `127.0.0.1` is not an address that a service or a pod can have
ClusterIP | externalIPs: [169.254.1.1] | spec.externalIPs[0]: `169.254.1.1` is not an address that a service or a pod can have
ClusterIP | externalIPs: ['fd09::1'] | spec.externalIPs[0]: `fd09::1` is not served: the Service is not of its family
LoadBalancer | loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.1] | spec.loadBalancerSourceRanges[1]: `10.0.0.1` is not a range of addresses; it admits nobody
LoadBalancer | loadBalancerSourceRanges: [10.0.0.0/33] | spec.loadBalancerSourceRanges[0]: `10.0.0.0/33` is not a range of addresses; it admits nobody
NodePort | loadBalancerSourceRanges: [10.0.0.0/8] | spec.loadBalancerSourceRanges: has no effect: the type is not LoadBalancer
NodePort | allocateLoadBalancerNodePorts: false | spec.allocateLoadBalancerNodePorts: has no effect: the type is not LoadBalancer
ClusterIP | externalTrafficPolicy: Local | spec.externalTrafficPolicy: has no effect: the Service has no frontend for clients outside
ClusterIP | externalTrafficPolicy: Cluster | spec.externalTrafficPolicy: has no effect: the Service has no frontend for clients outside
NodePort | externalTrafficPolicy: Local, healthCheckNodePort: 30500 | spec.healthCheckNodePort: has no effect: only a LoadBalancer with externalTrafficPolicy Local has it
LoadBalancer | externalTrafficPolicy: Cluster, healthCheckNodePort: 30500 | spec.healthCheckNodePort: has no effect: only a LoadBalancer with externalTrafficPolicy Local has it
LoadBalancer | externalTrafficPolicy: Local, healthCheckNodePort: 70000 | spec.healthCheckNodePort: 70000 is not a port (1-65535)
";

#[test]
fn every_bad_field_of_a_service_is_named_and_the_rest_is_served() {
    let rows: Vec<&str> = BAD_FIELDS.trim().lines().collect();
    assert_eq!(rows.len(), 19, "no row is lost");
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [kind, spec, expected] = cells[..] else { panic!("{row}") };
        assert_eq!(said(kind, spec, ""), (vec![expected.to_owned()], 1), "{row}");
    }
}

#[test]
fn what_the_api_server_allows_is_no_problem() {
    for (kind, spec) in [
        ("ClusterIP", "externalIPs: [203.0.113.1], externalTrafficPolicy: Local"),
        ("ClusterIP", "internalTrafficPolicy: Local, trafficDistribution: PreferSameNode"),
        ("NodePort", "externalTrafficPolicy: Local, publishNotReadyAddresses: true"),
        ("LoadBalancer", "externalTrafficPolicy: Local, healthCheckNodePort: 30500"),
        ("LoadBalancer", "allocateLoadBalancerNodePorts: false, externalTrafficPolicy: Cluster"),
        ("LoadBalancer", "loadBalancerSourceRanges: [0.0.0.0/0, '::/0', 10.1.2.3/8]"),
        ("ClusterIP", "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}"),
    ] {
        assert_eq!(said(kind, spec, ""), (vec![], 1), "{kind} {spec}");
    }
}

#[test]
fn bad_addresses_of_load_balancers_are_named() {
    for (ingress, expected) in [
        (
            "{ip: here}",
            "status.loadBalancer.ingress[0].ip: `here` is not an address that a service or a pod can have",
        ),
        (
            "{ip: 203.0.113.1, ipMode: Both}",
            "status.loadBalancer.ingress[0].ipMode: `Both` is not an IP mode; VIP and Proxy are",
        ),
        (
            "{ip: 'fd09::1'}",
            "status.loadBalancer.ingress[0].ip: `fd09::1` is not served: the Service is not of its family",
        ),
    ] {
        let status = format!("status: {{loadBalancer: {{ingress: [{ingress}]}}}}");
        assert_eq!(said("LoadBalancer", "", &status), (vec![expected.to_owned()], 1));
    }
}

#[test]
fn a_node_port_of_a_cluster_ip_service_has_no_effect() {
    let table = table(
        "{kind: Service, metadata: {name: web, namespace: default},
          spec: {clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}}",
    );
    assert_eq!(
        problems(&table),
        ["Service default/web: spec.ports[0].nodePort: has no effect: the type is ClusterIP"]
    );
}

#[test]
fn every_bad_port_of_a_pod_is_named_and_the_rest_is_served() {
    let cases = [
        ("{containerPort: 80, hostPort: 70000}", "hostPort: 70000 is not a port (1-65535)"),
        ("{containerPort: 0, hostPort: 81}", "containerPort: 0 is not a port (1-65535)"),
        (
            "{containerPort: 80, hostPort: 81, protocol: QUIC}",
            "protocol: `QUIC` is not a protocol; TCP, UDP and SCTP are",
        ),
        (
            "{containerPort: 80, hostPort: 81, hostIP: here}",
            "hostIP: `here` is not an address that a service or a pod can have",
        ),
        (
            "{containerPort: 81, hostPort: 80}",
            "hostPort: port 80/TCP is there twice; the first one is served",
        ),
        (
            "{containerPort: 81, hostPort: 80, hostIP: 0.0.0.0}",
            "hostPort: port 80/TCP is there twice; the first one is served",
        ),
        (
            "{containerPort: 81, hostPort: 81, name: web}",
            "name: port name `web` is there twice; the first one is served",
        ),
    ];
    for (port, expected) in cases {
        let table = table(&format!(
            "kind: Pod
metadata: {{name: web, namespace: default}}
spec:
  nodeName: here
  containers:
  - {{name: main, ports: [{{containerPort: 80, hostPort: 80, name: web}}]}}
  - {{name: other, ports: [{port}]}}
status: {{phase: Running, podIPs: [{{ip: 10.1.0.5}}]}}"
        ));
        let path = "Pod default/web: spec.containers[1].ports[0].";
        assert_eq!(problems(&table), [format!("{path}{expected}")], "{port}");
        assert_eq!(table.keys().len(), 1, "{port}");
    }
}

#[test]
fn an_address_of_a_pod_that_is_none_leaves_the_other_family() {
    let table = table(
        "kind: Pod
metadata: {name: web, namespace: default}
spec: {nodeName: here, containers: [{name: main, ports: [{containerPort: 80, hostPort: 80}]}]}
status: {phase: Running, podIPs: [{ip: pending}, {ip: 'fd01::5'}]}",
    );
    assert_eq!(
        problems(&table),
        [
            "Pod default/web: status.podIPs[0].ip: `pending` is not an address that a service or a pod \
          can have"
        ]
    );
    assert_eq!(table.keys().len(), 1);
}
