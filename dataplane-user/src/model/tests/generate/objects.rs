//! Random Services, slices, Pods and Nodes without names.

use std::net::IpAddr;

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use super::{address, cluster_ip, node_addresses, outer_ip, pod_ip};

/// The text of a protocol.
fn protocol_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("TCP"), 3 => Just("UDP"), 2 => Just("SCTP")]
}

/// A list whose items may be broken, but not the first: an object of which nothing can be used
/// leaves its last good version in place, so that a table depends on more than the last objects.
fn with_broken(items: Vec<Value>, field: &str, broken: bool) -> Vec<Value> {
    let mut items = items;
    if let Some(last) = items.iter_mut().skip(1).last().filter(|_| broken) {
        last[field] = "QUIC".into();
    }
    items
}

/// Something Kubernetes knows, or nothing, or now and then something that it does not know.
fn word(known: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![6 => option::of(select(known)), 1 => Just(Some("Nonsense"))]
}

/// Which families: only one, or both.
fn families() -> impl Strategy<Value = (bool, bool)> {
    prop_oneof![3 => Just((true, true)), 2 => Just((true, false)), 1 => Just((false, true))]
}

fn in_families(of: u8, (v4, v6): (bool, bool), ip: fn(u8, bool) -> IpAddr) -> Vec<IpAddr> {
    let of_family = |(has, is_v6): (bool, bool)| has.then(|| ip(of, is_v6));
    [(v4, false), (v6, true)].into_iter().filter_map(of_family).collect()
}

pub(super) fn service() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        2 => Just("ClusterIP"), 3 => Just("NodePort"), 4 => Just("LoadBalancer"),
        1 => Just("ExternalName"),
    ];
    let age = (1u8..4).prop_map(|day| format!("2026-01-0{day}T00:00:00Z"));
    let base = (kind, 1u8..4, families(), prop::bool::weighted(0.07), age, ports());
    (base, outside(), rules()).prop_map(|(base, outside, rules)| {
        let (kind, of, families, headless, created, ports) = base;
        let (balancers, external, (ranges, annotation)) = outside;
        let (policies, affinity, distribution, health_port) = rules;
        let clusters: Vec<String> = if headless {
            vec!["None".into()]
        } else {
            in_families(of, families, cluster_ip).iter().map(IpAddr::to_string).collect()
        };
        let mut annotations = serde_json::Map::new();
        if let Some(annotation) = annotation {
            let key = "service.beta.kubernetes.io/load-balancer-source-ranges".to_owned();
            annotations.insert(key, annotation.into());
        }
        json!({
            "metadata": {"creationTimestamp": created, "annotations": annotations},
            "spec": {
                "type": kind, "clusterIP": clusters[0], "clusterIPs": clusters, "ports": ports,
                "externalIPs": external, "loadBalancerSourceRanges": ranges,
                "internalTrafficPolicy": policies.0, "externalTrafficPolicy": policies.1,
                "sessionAffinity": affinity.0,
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": affinity.1}},
                "trafficDistribution": distribution, "healthCheckNodePort": health_port,
            },
            "status": {"loadBalancer": {"ingress": balancers}},
        })
    })
}

fn ports() -> impl Strategy<Value = Vec<Value>> {
    let port = (0u16..3, protocol_name(), option::weighted(0.7, 0u16..3));
    (vec(port, 1..4), prop::bool::weighted(0.1)).prop_map(|(ports, broken)| {
        let port = |(number, protocol, node): (u16, &str, Option<u16>)| {
            json!({"name": format!("p{number}-{protocol}"), "port": 80 + number,
                "protocol": protocol, "nodePort": node.map(|node| 30000 + node)})
        };
        with_broken(ports.into_iter().map(port).collect(), "protocol", broken)
    })
}

/// Source ranges, and those of the annotation.
type Ranges = (Option<Vec<&'static str>>, Option<&'static str>);

/// Ingress of the load balancer, external IPs, source ranges.
fn outside() -> impl Strategy<Value = (Vec<Value>, Vec<String>, Ranges)> {
    let outer = || (1u8..4, any::<bool>()).prop_map(|(of, is_v6)| outer_ip(of, is_v6));
    let node = select(node_addresses(true));
    let ip = prop_oneof![5 => outer(), 1 => node.clone()];
    let ingress = (ip, word(&["VIP", "VIP", "Proxy"]))
        .prop_map(|(ip, mode)| json!({"ip": ip.to_string(), "ipMode": mode}));
    let external = prop_oneof![
        8 => outer().prop_map(|ip| ip.to_string()),
        1 => (1u8..4, any::<bool>()).prop_map(|(of, is_v6)| cluster_ip(of, is_v6).to_string()),
        2 => node.prop_map(|ip| ip.to_string()),
        1 => Just("everywhere".to_owned()),
    ];
    let range = || {
        select(vec![
            "198.51.100.0/24",
            "10.1.0.0/16",
            "0.0.0.0/0",
            "192.0.2.10/32",
            "192.0.2.11/32",
            "2001:db8:f::/48",
            "fd01::/120",
            "nonsense",
        ])
    };
    (
        vec(ingress, 0..3),
        prop_oneof![2 => Just(Vec::new()), 1 => vec(external, 1..3)],
        (
            option::weighted(0.3, vec(range(), 1..3)),
            option::weighted(0.2, select(vec!["", "10.1.0.0/16, fd01::/64", "broken"])),
        ),
    )
}

type Policies = (Option<&'static str>, Option<&'static str>);
type Affinity = (Option<&'static str>, Option<i32>);

/// Traffic policies, session affinity, distribution and the port of health checks.
fn rules() -> impl Strategy<Value = (Policies, Affinity, Option<&'static str>, Option<i32>)> {
    let policy = || word(&["Cluster", "Local", "Local"]);
    let timeout = option::of(select(vec![0, 1, 90, 86_400, 86_401]));
    (
        (policy(), policy()),
        (word(&["None", "ClientIP", "ClientIP"]), timeout),
        word(&["PreferClose", "PreferSameZone", "PreferSameNode", ""]),
        option::weighted(0.3, select(vec![30_500, 30_501, 70_000])),
    )
}

pub(super) fn slice() -> impl Strategy<Value = Value> {
    let target = (0u16..3, protocol_name(), 0u16..2).prop_map(|(number, protocol, target)| {
        json!({"name": format!("p{number}-{protocol}"), "protocol": protocol,
            "port": 8000 + target})
    });
    let targets = (vec(target, 0..6), prop::bool::weighted(0.1))
        .prop_map(|(targets, broken)| with_broken(targets, "protocol", broken));
    (any::<bool>(), 0u8..4, targets, any::<bool>(), any::<bool>())
        .prop_flat_map(|(is_v6, of, ports, has_zone_hints, has_node_hints)| {
            let endpoint = endpoint(is_v6, has_zone_hints, has_node_hints);
            let of = json!({"labels": {"kubernetes.io/service-name": format!("s{of}")}});
            (Just((is_v6, of, ports)), vec(endpoint, 0..5))
        })
        .prop_map(|((is_v6, metadata, ports), endpoints)| {
            json!({"metadata": metadata, "addressType": if is_v6 { "IPv6" } else { "IPv4" },
                "ports": ports, "endpoints": endpoints})
        })
}

/// An endpoint. Hints only count if every ready endpoint has them, so slices have them all or none,
/// with an exception now and then.
fn endpoint(
    is_v6: bool,
    has_zone_hints: bool,
    has_node_hints: bool,
) -> impl Strategy<Value = Value> {
    let node = if is_v6 { "2001:db8::10" } else { "192.0.2.10" };
    let at = prop_oneof![
        6 => (1u8..6).prop_map(move |of| pod_ip(of, is_v6)),
        1 => Just(address(node)),
    ];
    let zones = || vec(select(vec!["a", "b", "c"]), 1..3);
    let nodes = vec(select(vec!["here", "elsewhere"]), 1..3);
    let conditions = [0.3, 0.3, 0.3].map(|none| option::weighted(1.0 - none, any::<bool>()));
    (
        at,
        conditions,
        option::weighted(0.8, select(vec!["here", "elsewhere"])),
        option::weighted(0.8, select(vec!["a", "b"])),
        option::weighted(0.95, zones()).prop_map(move |hints| hints.filter(|_| has_zone_hints)),
        option::weighted(0.95, nodes).prop_map(move |hints| hints.filter(|_| has_node_hints)),
    )
        .prop_map(|(at, [ready, serving, terminating], node, zone, for_zones, for_nodes)| {
            let named = |names: Option<Vec<&str>>| {
                let name = |name| json!({"name": name});
                names.map(|names| names.into_iter().map(name).collect::<Vec<_>>())
            };
            json!({"addresses": [at], "nodeName": node, "zone": zone,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "hints": {"forZones": named(for_zones), "forNodes": named(for_nodes)}})
        })
}

pub(super) fn pod() -> impl Strategy<Value = Value> {
    let port = (
        select(vec![8080, 30000, 30001]),
        protocol_name(),
        option::weighted(0.3, select(vec!["0.0.0.0", "::", "192.0.2.10", "2001:db8::11"])),
        option::of(select(vec!["web", "dns"])),
    );
    let phase = prop_oneof![6 => Just("Running"), 1 => Just("Pending"), 1 => Just("Succeeded")];
    let place = prop_oneof![6 => Just("here"), 1 => Just("elsewhere")];
    let state = (phase, place, prop::bool::weighted(0.1), families(), 1u8..6, 1u8..4);
    (vec(port, 0..4), state, prop::bool::weighted(0.1)).prop_map(|(ports, state, broken)| {
        let (phase, place, host_network, families, of, day) = state;
        let ips = in_families(of, families, pod_ip);
        let port = |(number, protocol, ip, name): (u16, &str, Option<&str>, Option<&str>)| {
            json!({"containerPort": 9000 + number % 10, "hostPort": number, "hostIP": ip,
                "protocol": protocol, "name": name})
        };
        let ports = with_broken(ports.into_iter().map(port).collect(), "hostIP", broken);
        json!({
            "metadata": {"creationTimestamp": format!("2026-01-0{day}T00:00:00Z")},
            "spec": {"nodeName": place, "hostNetwork": host_network,
                "containers": [{"name": "main", "ports": ports}]},
            "status": {"phase": phase, "podIP": ips[0],
                "podIPs": ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()},
        })
    })
}

pub(super) fn node_object() -> impl Strategy<Value = Value> {
    option::weighted(0.8, select(vec!["a", "b", ""])).prop_map(|zone| match zone {
        Some(zone) => json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}),
        None => json!({"metadata": {}}),
    })
}
