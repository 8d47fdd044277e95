//! Which endpoints each traffic policy gives: kube-proxy's cases of `CategorizeEndpoints`.
//!
//! An endpoint is a line such as `here ready zone:a for:a,b`. It is `here`, `there` or `nowhere`
//! (without a node); `ready`, `unready`, `leaving` (terminating, and still serving), `gone`
//! (terminating, and not serving) or `silent` (without conditions); in a zone, and hinted to zones
//! (`for:`) and nodes (`node:`). This node is `here`, in zone `a`.

use std::collections::BTreeSet;

use dataplane_user::model::{Endpoint, PortState, ServiceTable, Views};
use serde_json::{Value, json};

use crate::objects::{node, service, slice};

/// A row is: what it is about | the Service | endpoints | numbers of those in the view of policy
/// `Cluster` | the same for `Local` | whether there is any endpoint.
struct Case<'row> {
    name: &'row str,
    service: &'row str,
    endpoints: Vec<&'row str>,
    cluster: &'row str,
    local: &'row str,
    any: &'row str,
}

/// Without hints: who is ready, who is near.
const PLAIN: &str = "
no endpoints at all | internal | none | - | - | false
nobody is ready | internal | here unready; there unready | - | - | false
all are ready | internal | here ready; there ready | 1 2 | - | true
only some are ready | internal | here unready; there ready | 2 | - | true
no conditions mean ready | internal | there silent | 1 | - | true
policy Local: near and far | iTP | here ready; there ready | - | 1 | true
policy Local: only far ones | iTP | there ready; there ready | - | - | true
policy Local: nobody is ready | iTP | here unready | - | - | false
policy Local: no node is not this node | iTP | nowhere ready | - | - | true
outside Local, inside Cluster | eTP | here ready; there ready | 1 2 | 1 | true
outside Local: only far ones | eTP | there ready | 1 | - | true
outside Local: nobody | eTP | here unready; there unready | - | - | false
both Local: node port clients here still get all | both | here ready; there ready | 1 2 | 1 | true
inside Local, outside Cluster | iTP eTP:Cluster | here ready; there ready | 1 2 | 1 | true
policy Local outside needs a frontend outside | eTP no node port | here ready; there ready | 1 2 | - | true
";

/// Terminating endpoints (KEP-1669).
const TERMINATING: &str = "
ready ones come before leaving ones | internal | here leaving; there ready | 2 | - | true
leaving ones if nobody is ready | internal | here leaving; there leaving | 1 2 | - | true
leaving and not serving is never used | internal | here gone; there gone | - | - | false
not ready and not leaving is never a fallback | internal | here unready; there leaving | 2 | - | true
policy Local: a ready one here | iTP | here ready; here leaving; there ready | - | 1 | true
policy Local: leaving ones here before ready ones there | iTP | here leaving; there ready | - | 1 | true
policy Local: leaving ones only there | iTP | there leaving | - | - | true
policy Local: those that do not serve | iTP | here gone; there gone | - | - | false
each policy falls back by itself | eTP | here leaving; there ready | 2 | 1 | true
both policies fall back | eTP | here leaving; there leaving | 1 2 | 1 | true
neither has anybody | eTP | here gone; there unready | - | - | false
both Local fall back | both | here leaving; there ready | 2 | 1 | true
ready is believed of one that terminates | internal | there ready terminating; there leaving | 1 | - | true
";

/// Hints in slices.
const HINTS: &str = "
hints for zones | internal | there ready for:a; there ready for:b; there ready for:a | 1 3 | - | true
a hint for several zones | internal | there ready for:b,a; there ready for:b | 1 | - | true
one without a hint: hints do not count | internal | there ready for:a; there ready | 1 2 | - | true
no hint for this zone: hints do not count | internal | there ready for:b; there ready for:c | 1 2 | - | true
one without a hint that is not ready | internal | there ready for:a; there unready; there ready for:b | 1 | - | true
a hint of one that is not ready | internal | there unready for:a; there ready for:b | 2 | - | true
hints are not asked for fallbacks | internal | there leaving for:a; there leaving for:b | 1 2 | - | true
hints for nodes | internal | here ready node:here; there ready node:there | 1 | - | true
hints for nodes come before zones | internal | here ready node:here for:b; there ready node:there for:a | 1 | - | true
no hint for this node: zones | internal | there ready node:there for:a; there ready node:other for:b | 1 | - | true
no hint for this node, nor its zone | internal | there ready node:there for:b | 1 | - | true
one without a hint for nodes: zones | internal | here ready node:here for:b; there ready for:a | 2 | - | true
hints do not matter for policy Local | iTP | here ready for:b; there ready for:a | - | 1 | true
hints beside policy Local outside | eTP | here ready for:b; there ready for:a | 2 | 1 | true
hinted away, and still near | eTP | here ready for:a; here ready for:b; there ready for:a | 1 3 | 1 2 | true
a near fallback beside a hinted one | eTP | here leaving for:b; there ready for:a | 2 | 1 | true
";

/// `trafficDistribution`, where slices have no hints.
const DISTRIBUTION: &str = "
PreferClose means the zone | PreferClose | there ready zone:a; there ready zone:b | 1 | - | true
PreferSameZone means the zone | PreferSameZone | here ready zone:a; there ready zone:a; there ready zone:b | 1 2 | - | true
PreferSameNode means the node | PreferSameNode | here ready zone:a; there ready zone:a | 1 | - | true
PreferSameNode, else the zone | PreferSameNode | there ready zone:a; there ready zone:b | 1 | - | true
PreferSameNode, else anywhere | PreferSameNode | there ready zone:b; there ready zone:c | 1 2 | - | true
nobody in this zone | PreferSameZone | there ready zone:b | 1 | - | true
one without a zone | PreferSameZone | there ready zone:a; there ready | 1 2 | - | true
one without a node | PreferSameNode | here ready zone:a; nowhere ready zone:b | 1 | - | true
hints of slices come first | PreferSameZone | there ready zone:a for:b; there ready zone:b for:a | 2 | - | true
hints are another controller's with topology-mode | PreferSameZone topology-mode | there ready zone:a; there ready zone:b | 1 2 | - | true
no distribution: the zone does not matter | internal | there ready zone:a; there ready zone:b | 1 2 | - | true
a distribution that is none | PreferFast | there ready zone:a; there ready zone:b | 1 2 | - | true
";

fn object(text: &str) -> Value {
    let has = |word| text.split(' ').any(|it| it == word);
    let local = |is| if is { "Local" } else { "Cluster" };
    let is_external = has("eTP") || has("both") || has("eTP:Cluster");
    let with_port = is_external && !text.ends_with("no node port");
    let distribution = text.split(' ').find(|word| word.starts_with("Prefer"));
    let mut object = json!({
        "metadata": {"namespace": "n", "name": "s"},
        "spec": {
            "type": if is_external { "NodePort" } else { "ClusterIP" },
            "clusterIP": "10.96.0.1",
            "internalTrafficPolicy": local(has("iTP") || has("both")),
            "trafficDistribution": distribution,
            "ports": [{"port": 80, "nodePort": with_port.then_some(30080)}],
        },
    });
    if is_external {
        object["spec"]["externalTrafficPolicy"] = local(has("eTP") || has("both")).into();
    }
    if has("topology-mode") {
        let mode = json!({"service.kubernetes.io/topology-mode": "Auto"});
        object["metadata"]["annotations"] = mode;
    }
    object
}

fn endpoint((index, text): (usize, &&str)) -> Value {
    let words: Vec<&str> = text.split(' ').collect();
    let named = |prefix: &str| {
        let listed = words.iter().find_map(|word| word.strip_prefix(prefix));
        listed.map(|list| list.split(',').map(|name| json!({"name": name})).collect::<Vec<_>>())
    };
    let (ready, serving, terminating) = match words[1] {
        "ready" => (true, true, words.contains(&"terminating")),
        "unready" => (false, false, false),
        "leaving" => (false, true, true),
        "gone" => (false, false, true),
        "silent" => (true, true, false),
        other => panic!("{other} is no state"),
    };
    let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
    let zone = words.iter().find_map(|word| word.strip_prefix("zone:"));
    json!({
        "addresses": [format!("10.1.0.{}", index + 1)],
        "nodeName": (words[0] != "nowhere").then_some(words[0]),
        "conditions": if words[1] == "silent" { Value::Null } else { conditions },
        "zone": zone,
        "hints": {"forZones": named("for:"), "forNodes": named("node:")},
    })
}

fn state(case: &Case<'_>) -> PortState {
    let mut identity = node();
    identity.zone = Some("a".into());
    let mut table = ServiceTable::new(identity);
    let object = object(case.service);
    table.apply(service(serde_json::from_value(object).unwrap()));
    let endpoints: Vec<Value> = case.endpoints.iter().enumerate().map(endpoint).collect();
    let object = json!({
        "metadata": {"namespace": "n", "name": "e", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints,
    });
    table.apply(slice(serde_json::from_value(object).unwrap()));
    table.port(&table.keys()[0]).unwrap()
}

fn in_view(state: &PortState, not: Views) -> BTreeSet<String> {
    let in_it = |endpoint: &&Endpoint| endpoint.views != not;
    state.endpoints.iter().filter(in_it).map(|endpoint| endpoint.address.to_string()).collect()
}

fn numbers(listed: &str) -> BTreeSet<String> {
    let numbers = listed.split(' ').filter(|number| *number != "-");
    numbers.map(|number| format!("10.1.0.{number}")).collect()
}

fn read(row: &str) -> Case<'_> {
    let cells: Vec<&str> = row.split(" | ").collect();
    let [name, service, endpoints, cluster, local, any] = cells[..] else { panic!("{row}") };
    let endpoints = endpoints.split("; ").filter(|text| *text != "none").collect();
    Case { name, service, endpoints, cluster, local, any }
}

fn check(table: &str, count: usize) {
    let cases: Vec<Case<'_>> = table.trim().lines().map(read).collect();
    assert_eq!(cases.len(), count, "no row is lost");
    for case in cases {
        let state = state(&case);
        let name = case.name;
        assert_eq!(in_view(&state, Views::Local), numbers(case.cluster), "{name}: Cluster");
        assert_eq!(in_view(&state, Views::Cluster), numbers(case.local), "{name}: Local");
        assert_eq!(state.any_endpoint.to_string(), case.any, "{name}: any");
    }
}

#[test]
fn ready_endpoints_take_flows_and_policy_local_takes_those_of_this_node() {
    check(PLAIN, 15);
}

#[test]
fn terminating_endpoints_take_flows_only_while_nobody_is_ready() {
    check(TERMINATING, 13);
}

#[test]
fn hints_count_if_every_ready_endpoint_has_one_and_one_is_for_here() {
    check(HINTS, 16);
}

#[test]
fn a_distribution_is_followed_where_slices_have_no_hints() {
    check(DISTRIBUTION, 12);
}
