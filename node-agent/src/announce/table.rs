//! Which addresses Services have, and on which nodes their endpoints are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::{
    core::v1::{ObjectReference, Service},
    discovery::v1::EndpointSlice,
};

/// A Service says `"false"` by this annotation if somebody else announces its addresses.
const ANNOTATION: &str = "hashplane.dev/announce";
/// The label by which a slice names its Service.
const SERVICE: &str = "kubernetes.io/service-name";

type Key = (String, String);

/// What of a Service counts here.
#[derive(Clone, Debug)]
pub(super) struct Balanced {
    /// The Service, for events.
    pub(super) about: ObjectReference,
    /// Its addresses.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether only nodes with endpoints serve them.
    pub(super) is_local: bool,
}

/// Services with addresses, and where their endpoints are.
#[derive(Debug, Default)]
pub(crate) struct Table {
    services: BTreeMap<Key, Balanced>,
    /// Nodes with endpoints that are ready, slice by slice.
    slices: BTreeMap<Key, (Key, BTreeSet<String>)>,
}

impl Table {
    /// Takes a Service as it is now; whether anything changed.
    pub(crate) fn set_service(&mut self, service: &Service) -> bool {
        let key = key(service.metadata.namespace.as_ref(), service.metadata.name.as_ref());
        match balanced(service) {
            Some(new) => {
                let addresses = (new.addresses.clone(), new.is_local);
                let old = self.services.insert(key, new);
                old.is_none_or(|old| (old.addresses, old.is_local) != addresses)
            }
            None => self.services.remove(&key).is_some(),
        }
    }

    /// A Service is gone; whether it had an address.
    pub(crate) fn remove_service(&mut self, namespace: &str, name: &str) -> bool {
        self.services.remove(&(namespace.to_owned(), name.to_owned())).is_some()
    }

    /// Takes a slice as it is now; whether anything changed.
    pub(crate) fn set_slice(&mut self, slice: &EndpointSlice) -> bool {
        let own = key(slice.metadata.namespace.as_ref(), slice.metadata.name.as_ref());
        let service = slice.metadata.labels.as_ref().and_then(|it| it.get(SERVICE));
        let of = key(slice.metadata.namespace.as_ref(), service);
        let is_ready = |ready: Option<bool>| ready.unwrap_or(true);
        let ready = slice.endpoints.iter().flatten();
        let ready = ready.filter(|it| is_ready(it.conditions.as_ref().and_then(|it| it.ready)));
        let nodes = ready.filter_map(|it| it.node_name.clone()).collect();
        let new = (of, nodes);
        if self.slices.get(&own) == Some(&new) {
            return false;
        }
        self.slices.insert(own, new);
        true
    }

    /// A slice is gone; whether it was there.
    pub(crate) fn remove_slice(&mut self, namespace: &str, name: &str) -> bool {
        self.slices.remove(&(namespace.to_owned(), name.to_owned())).is_some()
    }

    /// Each address with its Service, and the nodes that could answer for it: `None` means any.
    pub(super) fn addresses(&self) -> BTreeMap<IpAddr, (Balanced, Option<BTreeSet<String>>)> {
        let mut all = BTreeMap::new();
        for (key, service) in &self.services {
            let nodes = service.is_local.then(|| {
                let own = self.slices.values().filter(|(of, _)| of == key);
                own.flat_map(|(_, nodes)| nodes.iter().cloned()).collect()
            });
            for address in &service.addresses {
                all.insert(*address, (service.clone(), nodes.clone()));
            }
        }
        all
    }
}

fn key(namespace: Option<&String>, name: Option<&String>) -> Key {
    (namespace.cloned().unwrap_or_default(), name.cloned().unwrap_or_default())
}

/// Nothing for a Service without addresses that nodes answer for.
fn balanced(service: &Service) -> Option<Balanced> {
    let spec = service.spec.as_ref()?;
    let annotations = service.metadata.annotations.as_ref();
    if spec.type_.as_deref() != Some("LoadBalancer")
        || annotations.and_then(|it| it.get(ANNOTATION)).is_some_and(|it| it == "false")
    {
        return None;
    }
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    let is_virtual = |mode: Option<&str>| mode.is_none_or(|it| it == "VIP");
    let addresses: BTreeSet<IpAddr> = ingress
        .iter()
        .filter(|it| is_virtual(it.ip_mode.as_deref()))
        .filter_map(|it| it.ip.as_ref()?.parse().ok())
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        uid: service.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    Some(Balanced { about, addresses, is_local })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(policy: &str, annotations: &Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.200", "ipMode": "VIP"}, {"ip": "192.0.2.201", "ipMode": "Proxy"},
            ]}},
        }))
        .expect("a Service")
    }

    fn slice(nodes: &[(&str, bool)]) -> EndpointSlice {
        let endpoints: Vec<Value> = nodes
            .iter()
            .map(|(node, ready)| {
                json!({"addresses": ["10.0.0.1"], "nodeName": node, "conditions": {"ready": ready}})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "web-1", "labels": {SERVICE: "web"},
            },
            "addressType": "IPv4", "endpoints": endpoints,
        }))
        .expect("a slice")
    }

    #[test]
    fn a_local_service_has_the_nodes_of_its_ready_endpoints() {
        let mut table = Table::default();
        assert!(table.set_service(&service("Local", &json!({}))));
        assert!(table.set_slice(&slice(&[("n1", true), ("n2", false)])));
        assert!(!table.set_slice(&slice(&[("n1", true), ("n2", false)])));
        let all = table.addresses();
        let [(address, (_, nodes))]: [_; 1] =
            all.into_iter().collect::<Vec<_>>().try_into().expect("one address");
        assert_eq!(address, IpAddr::from([192, 0, 2, 200]));
        assert_eq!(nodes, Some(BTreeSet::from(["n1".to_owned()])));
        assert!(table.set_service(&service("Cluster", &json!({}))));
        assert!(table.addresses().values().all(|(_, nodes)| nodes.is_none()));
        assert!(table.set_service(&service("Cluster", &json!({ANNOTATION: "false"}))));
        assert!(table.addresses().is_empty());
        assert!(!table.remove_service("shop", "web"));
        assert!(table.remove_slice("shop", "web-1"));
    }
}
