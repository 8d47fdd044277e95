//! How much heap the table takes per service at 50,000 services; the number is printed.
#![expect(clippy::unwrap_used, reason = "every line of this crate is a test")]

mod kernel;

use std::{net::Ipv4Addr, sync::atomic::Ordering};

use dataplane_user::model::{NodeIdentity, ObjectEvent, ServiceTable};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::json;

use self::kernel::{Counting, LIVE};

/// Services of the measurement.
const SERVICES: u32 = 50_000;
/// Endpoints of each of them.
const ENDPOINTS: u32 = 5;
/// What all of the product may take per service.
const LIMIT_BYTES: usize = 600;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_service_with_five_endpoints_takes_less_than_the_limit() {
    let before = LIVE.load(Ordering::Relaxed);
    let mut table = ServiceTable::new(NodeIdentity::new("node-1", []));
    for number in 0..SERVICES {
        let (service, slice) = objects(number);
        table.apply(ObjectEvent::Service { object: Box::new(service), file: None });
        table.apply(ObjectEvent::EndpointSlice { object: Box::new(slice), file: None });
    }
    table.apply(ObjectEvent::Synced);
    assert_eq!(table.take_changed().len(), SERVICES as usize);
    let per_service = (LIVE.load(Ordering::Relaxed) - before) / SERVICES as usize;
    println!("heap of the table: {per_service} B per service at {SERVICES} services");
    assert_eq!(table.keys().len(), SERVICES as usize);
    assert!(per_service < LIMIT_BYTES, "{per_service} B");
}

fn objects(number: u32) -> (Service, EndpointSlice) {
    let (namespace, name) = (format!("team-{}", number % 200), format!("service-{number}"));
    let service = json!({
        "metadata": {"namespace": namespace, "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"clusterIP": Ipv4Addr::from(0x0a60_0000 + number + 1),
            "ports": [{"name": "http", "port": 80}]},
    });
    let endpoints: Vec<_> = (0..ENDPOINTS)
        .map(|pod| Ipv4Addr::from(0x0b00_0000 + number * ENDPOINTS + pod))
        .map(|address| {
            // As Kubernetes writes them for `trafficDistribution`.
            let zone = format!("zone-{}", number % 3);
            json!({"addresses": [address], "nodeName": format!("node-{}", number % 9),
                "zone": zone, "hints": {"forZones": [{"name": zone}]}})
        })
        .collect();
    let slice = json!({
        "metadata": {"namespace": namespace, "name": format!("{name}-x7k2p"),
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    (serde_json::from_value(service).unwrap(), serde_json::from_value(slice).unwrap())
}
