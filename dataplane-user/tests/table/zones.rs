//! The zone of the node changes while services are served.

use dataplane_user::model::{Kind, ObjectEvent, ServiceTable};

use crate::objects::{gone, node, objects};

const NEAR: &str = "
kind: Service
metadata: {name: SERVICE, namespace: default}
spec: {clusterIP: CLUSTER, ports: [{port: 80}], DISTRIBUTION}
---
kind: EndpointSlice
metadata: {name: SERVICE-1, namespace: default, labels: {kubernetes.io/service-name: SERVICE}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.1.0.1], zone: a, hints: HINTS-A}
- {addresses: [10.1.0.2], zone: b, hints: HINTS-B}
";

fn service(name: &str, cluster: &str, distribution: &str, hints: [&str; 2]) -> Vec<ObjectEvent> {
    let yaml = NEAR
        .replace("SERVICE", name)
        .replace("CLUSTER", cluster)
        .replace("DISTRIBUTION", distribution)
        .replace("HINTS-A", hints[0])
        .replace("HINTS-B", hints[1]);
    objects(&yaml)
}

/// Services that ask for the zone, that have hints for it (own zone, and crosswise), and for which
/// it does not matter.
fn table(zone: Option<&str>) -> ServiceTable {
    let mut identity = node();
    identity.zone = zone.map(Into::into);
    let mut table = ServiceTable::new(identity);
    let (a, b) = ("{forZones: [{name: a}]}", "{forZones: [{name: b}]}");
    let all = [
        service("asks", "10.96.0.1", "trafficDistribution: PreferSameZone", ["null"; 2]),
        service("hinted", "10.96.0.2", "", [a, b]),
        service("crosswise", "10.96.0.3", "", [b, a]),
        service("anywhere", "10.96.0.4", "", ["null"; 2]),
    ];
    for event in all.into_iter().flatten() {
        table.apply(event);
    }
    table.take_changed();
    table
}

/// Where each service leads: last bytes of the endpoints.
fn near(table: &ServiceTable) -> String {
    let of = |key| {
        let endpoints = table.port(key).unwrap().endpoints;
        let last = |address: String| address.rsplit('.').next().unwrap().to_owned();
        let last = endpoints.iter().map(|it| last(it.address.to_string()));
        format!("{}:{}", key.service, last.collect::<String>())
    };
    table.keys().iter().map(of).collect::<Vec<_>>().join(" ")
}

fn changed(table: &mut ServiceTable) -> Vec<String> {
    table.take_changed().iter().map(|key| key.service.to_string()).collect()
}

fn node_object(name: &str, labels: &str) -> Vec<ObjectEvent> {
    objects(&format!("kind: Node\nmetadata: {{name: {name}, labels: {labels}}}"))
}

const IN_A: &str = "anywhere:12 asks:1 crosswise:2 hinted:1";
const IN_B: &str = "anywhere:12 asks:2 crosswise:1 hinted:2";
const NOWHERE: &str = "anywhere:12 asks:12 crosswise:12 hinted:12";
const ZONED: [&str; 3] = ["asks", "crosswise", "hinted"];

#[test]
fn the_zone_is_that_of_the_command_line_until_the_node_has_a_label() {
    assert_eq!(near(&table(None)), NOWHERE);
    assert_eq!(near(&table(Some("c"))), NOWHERE);
    let mut table = table(Some("a"));
    assert_eq!(near(&table), IN_A);
    for event in node_object("here", "{topology.kubernetes.io/zone: b}") {
        table.apply(event);
    }
    assert_eq!((near(&table), table.node().zone.as_deref()), (IN_B.into(), Some("b")));
    assert_eq!(changed(&mut table), ZONED);
    for event in node_object("here", "{other: label}") {
        table.apply(event);
    }
    assert_eq!(near(&table), IN_A, "a node without the label says nothing");
    assert_eq!(changed(&mut table), ZONED);
}

#[test]
fn other_nodes_and_the_same_zone_change_nothing() {
    let mut table = table(Some("a"));
    let same = node_object("here", "{topology.kubernetes.io/zone: a}");
    for event in
        node_object("elsewhere", "{topology.kubernetes.io/zone: b}").into_iter().chain(same)
    {
        assert_eq!(table.apply(event), []);
    }
    assert_eq!((near(&table), changed(&mut table)), (IN_A.into(), vec![]));
}

#[test]
fn a_node_that_is_gone_leaves_the_zone_of_the_command_line() {
    let in_b = || node_object("here", "{topology.kubernetes.io/zone: b}");
    let mut table = table(Some("a"));
    for event in in_b() {
        table.apply(event);
    }
    table.apply(gone(Kind::Node, "", "elsewhere"));
    assert_eq!(near(&table), IN_B);
    table.apply(gone(Kind::Node, "", "here"));
    assert_eq!(near(&table), IN_A);
    for event in in_b() {
        table.apply(event);
    }
    table.apply(ObjectEvent::ListBegin(Kind::Node));
    for event in in_b() {
        table.apply(event);
    }
    table.apply(ObjectEvent::ListEnd(Kind::Node));
    assert_eq!(near(&table), IN_B, "the list named it");
    table.apply(ObjectEvent::ListBegin(Kind::Node));
    table.apply(ObjectEvent::ListEnd(Kind::Node));
    assert_eq!(near(&table), IN_A, "the list did not name it");
}
