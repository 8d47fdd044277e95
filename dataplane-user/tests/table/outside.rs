//! How clients outside reach a Service: load balancers, external IPs, source ranges, health checks.

use dataplane_user::model::{DropCause, FrontendKind, HealthCheck, Kind, ObjectName, Route, Scope};

use crate::objects::{ask, ask_from, gone, objects, problems, table, targets};

const ENDPOINTS: &str = "
---
kind: EndpointSlice
metadata: {name: web-4, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.5], nodeName: here}, {addresses: [10.1.1.6], nodeName: elsewhere}]
---
kind: EndpointSlice
metadata: {name: web-6, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ['fd01::5'], nodeName: here}]
";

fn web(kind: &str, spec: &str, status: &str) -> String {
    format!(
        "kind: Service
metadata: {{name: web, namespace: default}}
spec: {{type: {kind}, clusterIPs: [10.96.0.1, 'fd00::1'], ports: [{{port: 80}}], {spec}}}
status: {{{status}}}{ENDPOINTS}"
    )
}

fn balanced(spec: &str) -> String {
    web("LoadBalancer", spec, "loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: '2001:db8:f::9'}]}")
}

#[test]
fn addresses_of_load_balancers_are_served_unless_a_proxy_has_them() {
    let ingress = "loadBalancer: {ingress: [
        {ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.3, ipMode: Proxy},
        {hostname: lb.example.org}, {ip: 203.0.113.1}]}";
    let table = table(&web("LoadBalancer", "", ingress));
    assert_eq!(problems(&table), [""; 0]);
    for (address, is_served) in [(1, true), (2, true), (3, false)] {
        let route = ask(&table, Scope::Outside, &format!("203.0.113.{address}"), 80);
        assert_eq!(route != Route::NotOurs, is_served, "{address}");
    }
    assert_eq!(ask(&table, Scope::Outside, "192.0.2.10", 80), Route::NotOurs);
}

#[test]
fn addresses_of_load_balancers_are_no_frontends_of_another_type() {
    let ingress = "loadBalancer: {ingress: [{ip: 203.0.113.1}]}";
    let table = table(&web("NodePort", "", ingress));
    assert_eq!(ask(&table, Scope::Outside, "203.0.113.1", 80), Route::NotOurs);
}

#[test]
fn external_ips_are_served_for_every_type_that_has_addresses() {
    for (kind, is_served) in
        [("ClusterIP", true), ("NodePort", true), ("LoadBalancer", true), ("ExternalName", false)]
    {
        let table = table(&web(kind, "externalIPs: [203.0.113.7, 'fd09::7']", ""));
        for address in ["203.0.113.7", "fd09::7"] {
            let route = ask(&table, Scope::Outside, address, 80);
            assert_eq!(route != Route::NotOurs, is_served, "{kind} {address}");
        }
    }
}

#[test]
fn only_cluster_ips_refuse_ports_that_they_do_not_have() {
    let yaml = balanced("externalIPs: [203.0.113.7]");
    let table = table(&yaml);
    for scope in [Scope::Pod, Scope::Host, Scope::Outside] {
        assert_eq!(ask(&table, scope, "10.96.0.1", 81), Route::Refused);
        assert_eq!(ask(&table, scope, "fd00::1", 81), Route::Refused);
        assert_eq!(ask(&table, scope, "203.0.113.1", 81), Route::NotOurs);
        assert_eq!(ask(&table, scope, "203.0.113.7", 81), Route::NotOurs);
        assert_eq!(ask(&table, scope, "10.96.0.2", 80), Route::NotOurs);
    }
}

#[test]
fn the_nodes_own_address_may_be_a_load_balancers_and_comes_before_node_ports() {
    let ingress = "loadBalancer: {ingress: [{ip: 192.0.2.10}]}";
    let other = "
---
kind: Service
metadata: {name: other, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.9, ports: [{port: 80, nodePort: 30080}]}";
    let web = web("LoadBalancer", "", ingress).replace("port: 80}", "port: 30080}");
    let table = table(&(web + other));
    assert_eq!(problems(&table), [""; 0]);
    let route = ask(&table, Scope::Outside, "192.0.2.10", 30080);
    assert_eq!(targets(&route), ["10.1.0.5:8080", "10.1.1.6:8080"]);
    assert_eq!(ask(&table, Scope::Host, "127.0.0.1", 30080), Route::Refused, "the node port");
}

#[test]
fn an_external_ip_that_is_the_cluster_ip_is_served_once_as_that() {
    let table = table(&web("ClusterIP", "externalIPs: [10.96.0.1]", ""));
    let frontends = table.port(&table.keys()[0]).unwrap().frontends;
    let kinds: Vec<FrontendKind> = frontends.iter().map(|frontend| frontend.kind).collect();
    assert_eq!(kinds, [FrontendKind::ClusterIp]);
    assert_eq!(problems(&table), [""; 0]);
}

#[test]
fn an_older_service_has_an_external_ip_before_a_younger_one() {
    let of = |name: &str, year, ip| {
        format!(
            "kind: Service
metadata: {{name: {name}, namespace: default, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec: {{clusterIP: 10.96.0.{ip}, externalIPs: [203.0.113.7], ports: [{{port: 80}}]}}
---
"
        )
    };
    let mut table = table(&(of("younger", 2026, 1) + &of("older", 2025, 2)));
    assert_eq!(
        problems(&table),
        ["Service default/younger: spec.externalIPs: 203.0.113.7:80/TCP belongs to Service \
          default/older"]
    );
    let frontends = |table: &dataplane_user::model::ServiceTable| -> Vec<usize> {
        table.keys().iter().map(|key| table.port(key).unwrap().frontends.len()).collect()
    };
    assert_eq!(frontends(&table), [2, 1]);
    table.take_changed();
    table.apply(gone(Kind::Service, "default", "older"));
    assert_eq!(table.take_changed().len(), 2, "the heir is marked too");
    assert_eq!((frontends(&table), problems(&table)), (vec![2], vec![]));
}

#[test]
fn source_ranges_hold_for_the_load_balancers_addresses_alone() {
    let spec = "loadBalancerSourceRanges: [198.51.100.0/24, ' 10.1.0.9/32 '],
        externalIPs: [203.0.113.7], ";
    let yaml = balanced(spec).replace("port: 80}", "port: 80, nodePort: 30080}");
    let table = table(&yaml);
    assert_eq!(problems(&table), [""; 0]);
    let not_allowed = Route::Dropped(DropCause::SourceNotAllowed);
    let from = |source, to| ask_from(&table, Scope::Outside, source, to, 80);
    assert_ne!(from("198.51.100.1", "203.0.113.1"), not_allowed);
    assert_eq!(from("198.51.101.1", "203.0.113.1"), not_allowed);
    assert_ne!(from("198.51.101.1", "203.0.113.7"), not_allowed, "an external IP");
    assert_ne!(from("198.51.101.1", "10.96.0.1"), not_allowed, "the cluster IP");
    assert_ne!(ask_from(&table, Scope::Outside, "198.51.101.1", "192.0.2.10", 30080), not_allowed);
    let pod = |source| ask_from(&table, Scope::Pod, source, "203.0.113.1", 80);
    assert_ne!(pod("10.1.0.9"), not_allowed);
    assert_eq!(pod("10.1.0.8"), not_allowed, "pods are not exempt");
    assert_eq!(from("2001:db8::1", "2001:db8:f::9"), not_allowed, "no range of this family");
}

#[test]
fn an_address_that_is_also_an_external_ip_keeps_its_source_ranges() {
    let spec = "loadBalancerSourceRanges: [10.0.0.0/8], externalIPs: [203.0.113.1]";
    let table = table(&balanced(spec));
    assert_eq!(
        ask(&table, Scope::Outside, "203.0.113.1", 80),
        Route::Dropped(DropCause::SourceNotAllowed)
    );
}

#[test]
fn the_annotation_has_source_ranges_where_the_field_has_none() {
    let annotated = |spec: &str, ranges: &str| {
        let annotation = "service.beta.kubernetes.io/load-balancer-source-ranges";
        let old = "{name: web, namespace: default}";
        let new =
            format!("{{name: web, namespace: default, annotations: {{{annotation}: '{ranges}'}}}}");
        table(&balanced(spec).replacen(old, &new, 1))
    };
    let is_allowed = |table: &dataplane_user::model::ServiceTable| {
        matches!(ask(table, Scope::Outside, "203.0.113.1", 80), Route::OneOf { .. })
    };
    assert!(is_allowed(&annotated("", "10.0.0.0/8, 198.51.100.0/24")));
    assert!(!is_allowed(&annotated("", "10.0.0.0/8")));
    assert!(is_allowed(&annotated("", " ")), "nothing is no range");
    assert!(is_allowed(&annotated("loadBalancerSourceRanges: [198.51.100.0/24]", "10.0.0.0/8")));
    assert!(!is_allowed(&annotated("", "everybody")), "a mistake admits nobody");
}

#[test]
fn health_checks_count_the_ready_addresses_of_this_node() {
    let spec = "externalTrafficPolicy: Local, healthCheckNodePort: 30500";
    let mut table = table(&balanced(spec));
    let check = |local_endpoints| HealthCheck {
        service: ObjectName::new("default", "web"),
        port: 30500,
        local_endpoints,
    };
    assert_eq!(table.health_checks(), [check(1)]);
    let slice = |name: &str, condition: &str| {
        objects(&format!(
            "kind: EndpointSlice
metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints:
- {{addresses: [10.1.0.5], nodeName: here}}
- {{addresses: [10.1.0.7], nodeName: here, conditions: {condition}}}"
        ))
    };
    let mut version = table.health_version();
    for (condition, expected) in [
        ("{ready: true}", 2),
        ("{ready: false, serving: true, terminating: true}", 1),
        ("{ready: false}", 1),
    ] {
        for event in slice("web-more", condition) {
            table.apply(event);
        }
        assert_eq!(table.health_checks(), [check(expected)], "{condition}");
        assert_ne!(table.health_version(), version);
        version = table.health_version();
    }
    table.apply(gone(Kind::EndpointSlice, "default", "web-more"));
    table.apply(gone(Kind::EndpointSlice, "default", "web-4"));
    table.apply(gone(Kind::EndpointSlice, "default", "web-6"));
    assert_eq!(table.health_checks(), [check(0)], "it answers, and says that nobody is here");
    table.apply(gone(Kind::Service, "default", "web"));
    assert_eq!(table.health_checks(), []);
    assert_ne!(table.health_version(), version);
}

#[test]
fn what_does_not_touch_a_health_check_leaves_its_version() {
    let spec = "externalTrafficPolicy: Local, healthCheckNodePort: 30500";
    let mut table = table(&balanced(spec));
    let version = table.health_version();
    let other = balanced("").replace("web", "other").replace("10.96.0.1", "10.96.0.2");
    for event in objects(&other).into_iter().chain(objects(&balanced(spec))) {
        table.apply(event);
    }
    assert_eq!(table.health_version(), version);
}

#[test]
fn affinity_comes_with_its_timeout() {
    let affinity = |spec: &str| {
        let table = table(&web("ClusterIP", spec, ""));
        table.port(&table.keys()[0]).unwrap().affinity_s
    };
    assert_eq!(affinity(""), None);
    assert_eq!(affinity("sessionAffinity: None"), None);
    assert_eq!(affinity("sessionAffinity: ClientIP"), Some(10_800));
    let with = |timeout| {
        affinity(&format!(
            "sessionAffinity: ClientIP,
             sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {timeout}}}}}"
        ))
    };
    assert_eq!([with(1), with(86_400)], [Some(1), Some(86_400)]);
    assert_eq!([with(0), with(-1), with(86_401)], [None; 3]);
}
