//! What one event does to a table that has something already.

use dataplane_user::model::{
    Endpoint, Kind, Masquerade, ObjectEvent, Packet, Placement, Protocol, Route, Scope,
    ServiceTable, Target, route,
};

use crate::objects::{dump, gone, node, objects};

const WEB: &str = "
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{name: http, port: 80, nodePort: 30080}]}
---
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.5], nodeName: here}]
";

fn table(yaml: &str) -> ServiceTable {
    let mut table = ServiceTable::new(node());
    for event in objects(yaml) {
        assert_eq!(table.apply(event), []);
    }
    table
}

#[test]
fn the_same_object_again_changes_nothing() {
    let mut table = table(WEB);
    assert_eq!(table.take_changed().len(), 1);
    for event in objects(WEB) {
        table.apply(event);
    }
    assert!(table.take_changed().is_empty());
}

#[test]
fn an_unusable_version_leaves_the_last_good_one_and_is_counted_until_it_is_right_again() {
    let mut table = table(WEB);
    let good = dump(&table);
    for bad in [
        "{kind: Service, metadata: {name: web, namespace: default}, spec: {clusterIP: 10.96.0.10}}",
        "{kind: Service, metadata: {name: web, namespace: default}, spec: {clusterIP: x, ports: [{port: 80}]}}",
        "{kind: EndpointSlice, metadata: {name: web-1, namespace: default}, addressType: IPv4}",
    ] {
        table.take_changed();
        let problems = objects(bad).into_iter().flat_map(|event| table.apply(event)).count();
        assert!(problems > 0, "{bad}");
        assert!(table.take_changed().is_empty(), "{bad}");
        assert!(dump(&table).starts_with(&good), "{bad}");
    }
    let counts: Vec<_> = table.problem_counts().into_iter().collect();
    assert_eq!(counts, [("no_address", 1), ("no_service_label", 1), ("not_an_address", 1)]);
    for event in objects(WEB) {
        table.apply(event);
    }
    assert!(table.problem_counts().is_empty());
}

#[test]
fn what_a_list_does_not_name_is_gone() {
    let mut table = table(WEB);
    table.take_changed();
    table.apply(ObjectEvent::ListBegin(Kind::EndpointSlice));
    table.apply(ObjectEvent::ListEnd(Kind::EndpointSlice));
    assert_eq!(table.take_changed().len(), 1);
    let key = table.keys().remove(0);
    assert_eq!(table.port(&key).unwrap().endpoints, []);
    table.apply(ObjectEvent::ListBegin(Kind::Service));
    table.apply(ObjectEvent::ListEnd(Kind::Service));
    assert_eq!(table.keys(), []);
    assert!(table.take_changed().contains(&key));
}

#[test]
fn what_a_list_names_stays_and_does_not_change() {
    let mut table = table(WEB);
    table.take_changed();
    for kind in [Kind::Service, Kind::EndpointSlice] {
        table.apply(ObjectEvent::ListBegin(kind));
    }
    for event in objects(WEB) {
        table.apply(event);
    }
    for kind in [Kind::Service, Kind::EndpointSlice] {
        table.apply(ObjectEvent::ListEnd(kind));
    }
    assert!(table.take_changed().is_empty());
    assert_eq!(table.keys().len(), 1);
}

#[test]
fn the_heir_gets_the_address_when_its_owner_goes() {
    let two = "
{kind: Service, metadata: {name: a, namespace: default}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{kind: Service, metadata: {name: b, namespace: default}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let mut table = ServiceTable::new(node());
    let problems = objects(two).into_iter().map(|event| table.apply(event)).last().unwrap();
    assert_eq!(problems[0].object.name.name.as_ref(), "b");
    assert_eq!(table.problem_counts()["taken"], 1);
    table.take_changed();
    table.apply(gone(Kind::Service, "default", "a"));
    let names: Vec<_> = table.take_changed().into_iter().map(|key| key.service).collect();
    assert_eq!(names.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a", "b"]);
    assert_eq!(dump(&table), "default/b: v4\n  at 10.96.0.1:80/TCP\n  refuses\n");
}

#[test]
fn an_endpoint_at_an_address_that_becomes_the_nodes_own_is_on_the_host() {
    let mut table = table(WEB);
    let key = table.take_changed().pop_first().unwrap();
    table.set_addresses(["192.0.2.10".parse().unwrap()]);
    assert!(table.take_changed().is_empty(), "no endpoint is at the address that left");
    table.set_addresses(["10.1.0.5".parse().unwrap()]);
    assert!(table.take_changed().contains(&key));
    assert_eq!(table.port(&key).unwrap().endpoints[0].placement, Placement::Host);
}

#[test]
fn a_problem_names_file_object_and_field() {
    let mut table = ServiceTable::new(node());
    let yaml = "{kind: Service, metadata: {name: a, namespace: b}, spec: {clusterIP: 10.96.0.1}}";
    for event in objects(yaml) {
        let ObjectEvent::Service { object, .. } = event else { panic!("a Service") };
        let problems = table.apply(ObjectEvent::Service { object, file: Some("web.yaml".into()) });
        assert_eq!(
            problems[0].to_string(),
            "web.yaml: Service b/a: spec.ports: the Service has no port that can be served"
        );
    }
}

#[test]
fn a_route_follows_cluster_ip_node_port_and_loopback() {
    let table = table(WEB);
    let ask = |scope, destination: &str, port| {
        let (source, destination) = ("10.1.0.9".parse().unwrap(), destination.parse().unwrap());
        route(&table, &Packet { scope, source, destination, port, protocol: Protocol::Tcp })
    };
    let target =
        |it: &Endpoint| Target { address: it.address, port: it.port, placement: it.placement };
    let endpoints: Vec<_> =
        table.port(&table.keys()[0]).unwrap().endpoints.iter().map(target).collect();
    let to =
        |masquerade| Route::OneOf { endpoints: endpoints.clone(), masquerade, affinity_s: None };
    assert_eq!(ask(Scope::Pod, "10.96.0.10", 80), to(Masquerade::Hairpin));
    assert_eq!(ask(Scope::Pod, "10.96.0.10", 81), Route::Refused);
    assert_eq!(ask(Scope::Pod, "10.96.0.11", 80), Route::NotOurs);
    assert_eq!(ask(Scope::Outside, "192.0.2.10", 30080), to(Masquerade::Always));
    assert_eq!(ask(Scope::Outside, "192.0.2.11", 30080), Route::NotOurs);
    assert_eq!(ask(Scope::Host, "127.0.0.1", 30080), to(Masquerade::Always));
    assert_eq!(ask(Scope::Pod, "127.0.0.1", 30080), Route::NotOurs);
}
