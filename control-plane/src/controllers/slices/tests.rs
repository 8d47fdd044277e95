//! Tests of EndpointSlices and Endpoints.

use super::*;
use crate::controllers::fake::Cluster;

fn service(spec: &Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec})
}

fn plain() -> Value {
    service(&json!({
        "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "clusterIP": "10.0.0.9",
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}],
    }))
}

fn pod(cluster: &mut Cluster, name: &str, ready: bool) {
    let n = cluster.revision;
    let status = if ready { "True" } else { "False" };
    let pod = json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": "a",
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": format!("10.1.{}.{}", n / 200, n % 200)}, {"ip": format!("fd00::{n:x}")}],
            "conditions": [{"type": "Ready", "status": status}],
        },
    });
    cluster.create(PODS, pod).unwrap();
}

fn slices(cluster: &Cluster) -> Vec<Value> {
    cluster.all(SLICES).map(|slice| Value::clone(slice)).collect()
}

#[test]
fn a_service_without_pods_has_an_empty_slice() {
    let mut cluster = Cluster::new(1);
    cluster.create(SERVICES, plain()).unwrap();
    cluster.converge(&[&Slices], false);
    let slices = slices(&cluster);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["endpoints"], json!([]));
    assert_eq!(slices[0]["metadata"]["labels"][SERVICE], "web");
    assert_eq!(slices[0]["metadata"]["labels"][WRITER], OURS);
}

#[test]
fn endpoints_have_conditions_ports_and_families() {
    let mut cluster = Cluster::new(1);
    let mut wish = plain();
    wish["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    wish["spec"]["trafficDistribution"] = "PreferSameNode".into();
    cluster.create(SERVICES, wish).unwrap();
    let node = json!({"metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z"}}});
    cluster.create(NODES, node).unwrap();
    pod(&mut cluster, "one", true);
    cluster.converge(&[&Slices], false);
    let found = slices(&cluster);
    assert_eq!(found.len(), 2);
    let families: Vec<&str> = found.iter().map(|slice| text(slice, &["addressType"])).collect();
    assert!(families.contains(&"IPv4") && families.contains(&"IPv6"));
    assert_eq!(found[0]["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
    let endpoint = &found[0]["endpoints"][0];
    assert_eq!(
        endpoint["conditions"],
        json!({"ready": true, "serving": true, "terminating": false})
    );
    assert_eq!(endpoint["hints"]["forNodes"], json!([{"name": "a"}]));
    assert_eq!(endpoint["zone"], "z");
    let classic = cluster.get(ENDPOINTS, "default", "web").unwrap();
    assert_eq!(classic["subsets"][0]["addresses"][0]["targetRef"]["name"], "one");

    let key = Key::new(PODS, "default", "one");
    cluster.delete(&key, &crate::client::Deletion::default()).unwrap();
    cluster.converge(&[&Slices], false);
    let endpoint = &slices(&cluster)[0]["endpoints"][0];
    assert_eq!(
        endpoint["conditions"],
        json!({"ready": false, "serving": true, "terminating": true})
    );
    let classic = cluster.get(ENDPOINTS, "default", "web").unwrap();
    assert_eq!(classic["subsets"], json!([]));
}

#[test]
fn a_slice_holds_100_endpoints_and_few_slices_change() {
    let mut cluster = Cluster::new(1);
    cluster.create(SERVICES, plain()).unwrap();
    for n in 0..250 {
        pod(&mut cluster, &format!("p{n}"), true);
    }
    cluster.converge(&[&Slices], false);
    let mut sizes: Vec<usize> =
        slices(&cluster).iter().map(|slice| list(slice, &["endpoints"]).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    pod(&mut cluster, "another", true);
    let actions = cluster.plans(&[&Slices]);
    assert_eq!(actions.len(), 2, "one slice and the Endpoints");
}

#[test]
fn pods_that_are_not_ready_are_published_if_asked_to() {
    let mut cluster = Cluster::new(1);
    let mut wish = plain();
    wish["spec"]["clusterIP"] = "None".into();
    wish["spec"]["publishNotReadyAddresses"] = true.into();
    cluster.create(SERVICES, wish).unwrap();
    pod(&mut cluster, "one", false);
    cluster.converge(&[&Slices], false);
    let slice = &slices(&cluster)[0];
    let expected = json!({"ready": true, "serving": false, "terminating": false});
    assert_eq!(slice["endpoints"][0]["conditions"], expected);
    assert_eq!(slice["metadata"]["labels"][HEADLESS], "");
}

#[test]
fn endpoints_written_by_hand_are_mirrored() {
    let mut cluster = Cluster::new(1);
    cluster.create(SERVICES, service(&json!({"ports": [{"port": 80}]}))).unwrap();
    let endpoints = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}],
    });
    cluster.create(ENDPOINTS, endpoints).unwrap();
    cluster.converge(&[&Slices], false);
    let found = slices(&cluster);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["metadata"]["labels"][WRITER], MIRROR);
    assert_eq!(found[0]["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    assert_eq!(found[0]["ports"], json!([{"name": "", "protocol": "TCP", "port": 80}]));
}
