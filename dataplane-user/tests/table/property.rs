//! Any history of objects gives the table that its last state alone gives.

use std::collections::BTreeMap;

use dataplane_user::model::{Kind, ObjectEvent, PortKey, PortState, ServiceTable};
use proptest::{collection::vec, prelude::*};
use serde_json::json;

use crate::objects::{dump, gone, node, service, slice};

/// What happens to one of a few names, so that they collide often.
#[derive(Clone, Debug)]
enum Step {
    Service { name: u8, cluster: u8, ports: Vec<(u8, bool)>, v6: bool, age: u8, headless: bool },
    Slice { name: u8, of: u8, v6: bool, ports: Vec<(u8, u8)>, pods: Vec<(u8, bool, bool)> },
    ServiceGone(u8),
    SliceGone(u8),
    Relist(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let ports = vec((0u8..3, any::<bool>()), 1..3);
    let service = (0u8..4, 0u8..3, ports, any::<bool>(), 0u8..3, prop::bool::weighted(0.1));
    let pods = vec((0u8..5, any::<bool>(), any::<bool>()), 0..4);
    let slice = (0u8..4, 0u8..4, any::<bool>(), vec((0u8..3, 0u8..2), 0..3), pods);
    prop_oneof![
        4 => service.prop_map(|(name, cluster, ports, v6, age, headless)| {
            Step::Service { name, cluster, ports, v6, age, headless }
        }),
        4 => slice.prop_map(|(name, of, v6, ports, pods)| Step::Slice { name, of, v6, ports, pods }),
        1 => (0u8..4).prop_map(Step::ServiceGone),
        1 => (0u8..4).prop_map(Step::SliceGone),
        1 => any::<bool>().prop_map(Step::Relist),
    ]
}

fn event(step: &Step) -> Option<((Kind, u8), ObjectEvent)> {
    match step {
        Step::Service { name, cluster, ports, v6, age, headless } => {
            let mut clusters = vec![format!("10.96.0.{}", cluster + 1)];
            clusters.extend(v6.then(|| format!("fd00::{}", cluster + 1)));
            let port = |(number, node): &(u8, bool)| {
                let node_port = node.then(|| 30000 + i32::from(*number));
                json!({"name": format!("p{number}"), "port": 80 + number, "nodePort": node_port})
            };
            let object = json!({
                "metadata": {"namespace": "n", "name": format!("s{name}"),
                    "creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1)},
                "spec": {"type": "NodePort",
                    "clusterIP": if *headless { "None" } else { clusters[0].as_str() },
                    "clusterIPs": if *headless { vec!["None".to_owned()] } else { clusters.clone() },
                    "ports": ports.iter().map(port).collect::<Vec<_>>()},
            });
            Some(((Kind::Service, *name), service(serde_json::from_value(object).unwrap())))
        }
        Step::Slice { name, of, v6, ports, pods } => {
            let port = |(number, target): &(u8, u8)| json!({"name": format!("p{number}"), "port": 8000 + u16::from(*target)});
            let pod = |(number, ready, here): &(u8, bool, bool)| {
                let address = if *v6 {
                    format!("fd01::{}", number + 1)
                } else {
                    format!("10.1.0.{}", number + 1)
                };
                json!({"addresses": [address], "conditions": {"ready": ready},
                    "nodeName": if *here { "here" } else { "elsewhere" }})
            };
            let object = json!({
                "metadata": {"namespace": "n", "name": format!("e{name}"),
                    "labels": {"kubernetes.io/service-name": format!("s{of}")}},
                "addressType": if *v6 { "IPv6" } else { "IPv4" },
                "ports": ports.iter().map(port).collect::<Vec<_>>(),
                "endpoints": pods.iter().map(pod).collect::<Vec<_>>(),
            });
            Some(((Kind::EndpointSlice, *name), slice(serde_json::from_value(object).unwrap())))
        }
        Step::ServiceGone(_) | Step::SliceGone(_) | Step::Relist(_) => None,
    }
}

fn states(table: &ServiceTable) -> BTreeMap<PortKey, PortState> {
    table.keys().into_iter().map(|key| (key.clone(), table.port(&key).unwrap())).collect()
}

/// Tells the table one step, and keeps what the source has now.
fn tell(table: &mut ServiceTable, now: &mut BTreeMap<(Kind, u8), ObjectEvent>, step: &Step) {
    if let Some((key, event)) = event(step) {
        table.apply(event.clone());
        now.insert(key, event);
        return;
    }
    match step {
        Step::ServiceGone(name) => {
            now.remove(&(Kind::Service, *name));
            table.apply(gone(Kind::Service, "n", &format!("s{name}")));
        }
        Step::SliceGone(name) => {
            now.remove(&(Kind::EndpointSlice, *name));
            table.apply(gone(Kind::EndpointSlice, "n", &format!("e{name}")));
        }
        Step::Relist(services) => {
            // The source lost sight of one object meanwhile.
            let kind = if *services { Kind::Service } else { Kind::EndpointSlice };
            let lost = now.keys().find(|key| key.0 == kind).copied();
            lost.and_then(|key| now.remove(&key));
            table.apply(ObjectEvent::ListBegin(kind));
            for (_, event) in now.iter().filter(|(key, _)| key.0 == kind) {
                table.apply(event.clone());
            }
            table.apply(ObjectEvent::ListEnd(kind));
        }
        Step::Service { .. } | Step::Slice { .. } => unreachable!("told above"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_history_ends_where_its_last_objects_alone_end(
        steps in vec(step(), 1..40),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut table = ServiceTable::new(node());
        let mut now = BTreeMap::new();
        for step in &steps {
            let before = states(&table);
            tell(&mut table, &mut now, step);
            let (after, changed) = (states(&table), table.take_changed());
            for key in before.keys().chain(after.keys()) {
                prop_assert!(
                    before.get(key) == after.get(key) || changed.contains(key),
                    "{key:?} changed and nobody said so at {step:?}"
                );
            }
        }
        let mut scratch = ServiceTable::new(node());
        let mut events: Vec<_> = now.into_values().collect();
        if !events.is_empty() {
            let middle = seed.index(events.len());
            events.rotate_left(middle);
        }
        for event in events {
            scratch.apply(event);
        }
        prop_assert_eq!(dump(&table), dump(&scratch));
    }
}
