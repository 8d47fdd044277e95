//! What names there are, and what they lead to: a function of Services, slices and namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

/// The version of the specification.
const SPECIFICATION: &str = "1.1.0";
/// The label by which a slice says whose it is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Data {
    /// An address.
    Ip(IpAddr),
    /// A port of a name.
    Srv(u16, String),
    /// A name, from an address.
    Ptr(String),
    /// Another name.
    Cname(String),
    /// Words.
    Txt(&'static str),
}

/// The answer to a question about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The name is none of the cluster's.
    NotOurs,
    /// There is no such name.
    Missing,
    /// Everything that the name leads to, of whatever type.
    All(Vec<Data>),
}

type Key = (String, String);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    addresses: Vec<IpAddr>,
    is_headless: bool,
    external: Option<String>,
    /// Name, protocol, number.
    ports: Vec<(String, String, u16)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slice {
    service: String,
    ports: Vec<(String, String, u16)>,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Endpoint {
    addresses: Vec<IpAddr>,
    hostname: Option<String>,
    is_ready: bool,
}

impl Endpoint {
    /// Its own label below its Service.
    fn label(&self, address: IpAddr) -> String {
        self.hostname.clone().unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"))
    }
}

/// The names of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zone {
    domain: Vec<String>,
    services: BTreeMap<Key, Entry>,
    slices: BTreeMap<Key, Slice>,
    of_service: BTreeMap<Key, BTreeSet<Key>>,
    by_address: BTreeMap<IpAddr, Key>,
    namespaces: BTreeSet<String>,
}

fn labels(name: &str) -> Vec<String> {
    name.trim_end_matches('.').to_lowercase().split('.').map(str::to_owned).collect()
}

fn key(namespace: Option<&String>, name: Option<&String>) -> Key {
    (namespace.cloned().unwrap_or_default(), name.cloned().unwrap_or_default())
}

impl Zone {
    /// An empty one.
    pub(crate) fn new(domain: &str) -> Self {
        Self { domain: labels(domain), ..Self::default() }
    }

    /// The domain, as text with a dot at its end.
    pub(crate) fn domain(&self) -> String {
        format!("{}.", self.domain.join("."))
    }

    pub(crate) fn set_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.into());
    }

    pub(crate) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub(crate) fn set_service(&mut self, service: &Service) {
        let key = key(service.metadata.namespace.as_ref(), service.metadata.name.as_ref());
        self.remove_service(&key.0, &key.1);
        let spec = service.spec.clone().unwrap_or_default();
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        let all = spec.cluster_ips.unwrap_or_default();
        let addresses: Vec<IpAddr> = all.iter().filter_map(|it| it.parse().ok()).collect();
        let external = (spec.type_.as_deref() == Some("ExternalName"))
            .then(|| spec.external_name.unwrap_or_default());
        let ports = spec.ports.unwrap_or_default();
        let ports = ports.into_iter().map(|it| {
            let protocol = it.protocol.unwrap_or_else(|| "TCP".into()).to_lowercase();
            (it.name.unwrap_or_default(), protocol, u16::try_from(it.port).unwrap_or(0))
        });
        for address in &addresses {
            self.by_address.insert(*address, key.clone());
        }
        self.services
            .insert(key, Entry { addresses, is_headless, external, ports: ports.collect() });
    }

    pub(crate) fn remove_service(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        for address in self.services.remove(&key).unwrap_or_default().addresses {
            if self.by_address.get(&address) == Some(&key) {
                self.by_address.remove(&address);
            }
        }
    }

    pub(crate) fn set_slice(&mut self, slice: &EndpointSlice) {
        let key = key(slice.metadata.namespace.as_ref(), slice.metadata.name.as_ref());
        self.remove_slice(&key.0, &key.1);
        let service = slice.metadata.labels.as_ref().and_then(|it| it.get(SERVICE_LABEL));
        let Some(service) = service else { return };
        let ports = slice.ports.iter().flatten().filter_map(|it| {
            let protocol = it.protocol.clone().unwrap_or_else(|| "TCP".into()).to_lowercase();
            Some((it.name.clone().unwrap_or_default(), protocol, u16::try_from(it.port?).ok()?))
        });
        let endpoints = slice.endpoints.iter().flatten().map(|it| Endpoint {
            addresses: it.addresses.iter().filter_map(|it| it.parse().ok()).collect(),
            hostname: it.hostname.clone().filter(|it| !it.is_empty()),
            is_ready: it.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true),
        });
        let of = (key.0.clone(), service.clone());
        self.of_service.entry(of).or_default().insert(key.clone());
        let slice = Slice {
            service: service.clone(),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        };
        self.slices.insert(key, slice);
    }

    pub(crate) fn remove_slice(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(old) = self.slices.remove(&key) else { return };
        let of = (key.0.clone(), old.service);
        if let Some(all) = self.of_service.get_mut(&of) {
            all.remove(&key);
            if all.is_empty() {
                self.of_service.remove(&of);
            }
        }
    }

    fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Slice> {
        let keys = self.of_service.get(service);
        keys.into_iter().flatten().filter_map(|it| self.slices.get(it))
    }

    /// Endpoints that are ready, with the ports of their slice.
    fn ready<'z>(&'z self, service: &Key) -> impl Iterator<Item = (&'z Slice, &'z Endpoint)> {
        self.slices_of(service).flat_map(|slice| {
            slice.endpoints.iter().filter(|it| it.is_ready).map(move |it| (slice, it))
        })
    }

    /// Whether clients of these addresses have others to go to once these do not count as ready any more:
    /// nothing while some of them still count as ready.
    pub(crate) fn has_others(&self, addresses: &[IpAddr]) -> Option<bool> {
        let is_asked = |it: &Endpoint| it.addresses.iter().any(|ip| addresses.contains(ip));
        let mut has_others = false;
        for slice in self.slices.iter().filter(|(_, it)| it.endpoints.iter().any(is_asked)) {
            let (key, slice) = slice;
            let of = (key.0.clone(), slice.service.clone());
            if self.ready(&of).any(|(_, it)| is_asked(it)) {
                return None;
            }
            has_others |= self.ready(&of).next().is_some();
        }
        Some(has_others)
    }

    /// What a name leads to.
    pub(crate) fn answer(&self, name: &str) -> Answer {
        let labels = labels(name);
        if let Some(address) = reverse(&labels) {
            return self.names_of(address);
        }
        let Some(rest) = labels.strip_suffix(self.domain.as_slice()) else {
            return Answer::NotOurs;
        };
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        match rest.as_slice() {
            [] | ["svc"] => Answer::All(Vec::new()),
            ["dns-version"] => Answer::All(vec![Data::Txt(SPECIFICATION)]),
            [namespace, "svc"] if self.namespaces.contains(*namespace) => Answer::All(Vec::new()),
            [rest @ .., service, namespace, "svc"] => {
                let key = ((*namespace).to_owned(), (*service).to_owned());
                self.service(&key, rest).map_or(Answer::Missing, Answer::All)
            }
            _ => Answer::Missing,
        }
    }

    /// A Service's own name, or one below it.
    fn service(&self, key: &Key, below: &[&str]) -> Option<Vec<Data>> {
        let entry = self.services.get(key)?;
        let full = format!("{}.{}.svc.{}", key.1, key.0, self.domain());
        if let Some(external) = &entry.external {
            let target = format!("{}.", external.trim_end_matches('.'));
            return below.is_empty().then(|| vec![Data::Cname(target)]);
        }
        match below {
            [] if !entry.is_headless => {
                let addresses = entry.addresses.iter().map(|ip| Data::Ip(*ip));
                let ports = entry.ports.iter().map(|(_, _, port)| Data::Srv(*port, full.clone()));
                Some(addresses.chain(ports).collect())
            }
            [] => {
                let mut all = Vec::new();
                for (slice, endpoint) in self.ready(key) {
                    for ip in &endpoint.addresses {
                        all.push(Data::Ip(*ip));
                        let target = format!("{}.{full}", endpoint.label(*ip));
                        all.extend(slice.ports.iter().map(|it| Data::Srv(it.2, target.clone())));
                    }
                }
                (!all.is_empty()).then(|| sorted(all))
            }
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let is_meant = |own: &(String, String, u16)| {
                    own.0.to_lowercase() == port[1..] && own.1 == protocol[1..]
                };
                let mut all = Vec::new();
                if entry.is_headless {
                    for (slice, endpoint) in self.ready(key) {
                        for ip in &endpoint.addresses {
                            let target = format!("{}.{full}", endpoint.label(*ip));
                            let ports = slice.ports.iter().filter(|it| is_meant(it));
                            all.extend(ports.map(|it| Data::Srv(it.2, target.clone())));
                        }
                    }
                } else {
                    let ports = entry.ports.iter().filter(|it| is_meant(it));
                    all.extend(ports.map(|it| Data::Srv(it.2, full.clone())));
                }
                (!all.is_empty()).then(|| sorted(all))
            }
            [protocol] if protocol.starts_with('_') => {
                let has = |it: &(String, String, u16)| it.1 == protocol[1..];
                let headless = || self.ready(key).any(|(slice, _)| slice.ports.iter().any(has));
                (entry.ports.iter().any(has) || headless()).then(Vec::new)
            }
            [label] if entry.is_headless => {
                let mut all = Vec::new();
                for (_, endpoint) in self.ready(key) {
                    let named =
                        endpoint.addresses.iter().filter(|ip| endpoint.label(**ip) == *label);
                    all.extend(named.map(|ip| Data::Ip(*ip)));
                }
                (!all.is_empty()).then(|| sorted(all))
            }
            _ => None,
        }
    }

    fn names_of(&self, address: IpAddr) -> Answer {
        if let Some((namespace, name)) = self.by_address.get(&address) {
            let full = format!("{name}.{namespace}.svc.{}", self.domain());
            return Answer::All(vec![Data::Ptr(full)]);
        }
        let mut names = Vec::new();
        for (key, slice) in &self.slices {
            let of = (key.0.clone(), slice.service.clone());
            if !self.services.get(&of).is_some_and(|it| it.is_headless) {
                continue;
            }
            for endpoint in slice.endpoints.iter().filter(|it| it.is_ready) {
                if let Some(hostname) = &endpoint.hostname
                    && endpoint.addresses.contains(&address)
                {
                    let full = format!("{hostname}.{}.{}.svc.{}", of.1, of.0, self.domain());
                    names.push(Data::Ptr(full));
                }
            }
        }
        // Addresses of nobody may be known elsewhere.
        if names.is_empty() { Answer::NotOurs } else { Answer::All(sorted(names)) }
    }
}

fn sorted(mut all: Vec<Data>) -> Vec<Data> {
    all.sort();
    all.dedup();
    all
}

/// The address that a name in `in-addr.arpa` or `ip6.arpa` is about.
fn reverse(labels: &[String]) -> Option<IpAddr> {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => {
            format!("{a}.{b}.{c}.{d}").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        [digits @ .., "ip6", "arpa"] if digits.len() == 32 => {
            let mut bits: u128 = 0;
            for digit in digits.iter().rev() {
                let value = u128::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
                bits = bits << 4 | value;
            }
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec}))
            .expect("a service")
    }

    fn slice(service: &str, endpoints: &Value) -> EndpointSlice {
        let slice = json!({
            "metadata": {"name": format!("{service}-1"), "namespace": "a", "labels": {SERVICE_LABEL: service}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        });
        serde_json::from_value(slice).expect("a slice")
    }

    fn zone() -> Zone {
        let mut zone = Zone::new("cluster.local");
        zone.set_namespace("a");
        let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}]);
        zone.set_service(&service(
            "web",
            &json!({
                "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ports": ports,
            }),
        ));
        zone.set_service(&service(
            "db",
            &json!({
                "clusterIP": "None", "clusterIPs": ["None"], "ports": ports,
            }),
        ));
        zone.set_service(&service("empty", &json!({"clusterIP": "None", "ports": ports})));
        zone.set_service(&service(
            "out",
            &json!({
                "type": "ExternalName", "externalName": "example.org",
            }),
        ));
        zone.set_slice(&slice(
            "db",
            &json!([
                {"addresses": ["10.0.0.1"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
            ]),
        ));
        zone
    }

    fn ip(text: &str) -> Data {
        Data::Ip(text.parse().expect("an address"))
    }

    #[test]
    fn names_lead_where_the_specification_says() {
        let zone = zone();
        let srv = |port, name: &str| Data::Srv(port, format!("{name}.a.svc.cluster.local."));
        for (name, expected) in [
            ("web.a.svc.cluster.local.", vec![ip("10.96.0.5"), ip("fd00::5"), srv(80, "web")]),
            ("WEB.A.svc.Cluster.Local", vec![ip("10.96.0.5"), ip("fd00::5"), srv(80, "web")]),
            ("_http._tcp.web.a.svc.cluster.local", vec![srv(80, "web")]),
            (
                "db.a.svc.cluster.local",
                vec![
                    ip("10.0.0.1"),
                    ip("10.0.0.2"),
                    srv(8080, "10-0-0-2.db"),
                    srv(8080, "db-0.db"),
                ],
            ),
            ("db-0.db.a.svc.cluster.local", vec![ip("10.0.0.1")]),
            ("10-0-0-2.db.a.svc.cluster.local", vec![ip("10.0.0.2")]),
            (
                "_http._tcp.db.a.svc.cluster.local",
                vec![srv(8080, "10-0-0-2.db"), srv(8080, "db-0.db")],
            ),
            ("out.a.svc.cluster.local", vec![Data::Cname("example.org.".into())]),
            ("dns-version.cluster.local", vec![Data::Txt("1.1.0")]),
            ("5.0.96.10.in-addr.arpa", vec![Data::Ptr("web.a.svc.cluster.local.".into())]),
            ("1.0.0.10.in-addr.arpa", vec![Data::Ptr("db-0.db.a.svc.cluster.local.".into())]),
            ("a.svc.cluster.local", vec![]),
            ("_tcp.web.a.svc.cluster.local", vec![]),
            ("cluster.local", vec![]),
        ] {
            assert_eq!(zone.answer(name), Answer::All(expected), "{name}");
        }
        for name in [
            "nobody.a.svc.cluster.local",
            "web.b.svc.cluster.local",
            "b.svc.cluster.local",
            "empty.a.svc.cluster.local",
            "_ftp._tcp.web.a.svc.cluster.local",
            "x.web.a.svc.cluster.local",
            "x.cluster.local",
            "10-0-0-3.db.a.svc.cluster.local",
        ] {
            assert_eq!(zone.answer(name), Answer::Missing, "{name}");
        }
        assert_eq!(zone.answer("example.org"), Answer::NotOurs);
        assert_eq!(zone.answer("9.9.9.9.in-addr.arpa"), Answer::NotOurs);
    }

    #[test]
    fn what_is_removed_is_not_found() {
        let mut zone = zone();
        zone.remove_service("a", "web");
        zone.remove_slice("a", "db-1");
        assert_eq!(zone.answer("web.a.svc.cluster.local"), Answer::Missing);
        assert_eq!(zone.answer("5.0.96.10.in-addr.arpa"), Answer::NotOurs);
        assert_eq!(zone.answer("db.a.svc.cluster.local"), Answer::Missing);
    }

    #[test]
    fn whether_others_serve_is_known_once_an_endpoint_is_not_ready() {
        let mut zone = zone();
        let [first, third] = ["10.0.0.1", "10.0.0.3"].map(|it| it.parse().expect("an address"));
        assert_eq!(zone.has_others(&[first]), None);
        assert_eq!(zone.has_others(&[third]), Some(true));
        zone.set_slice(&slice("db", &json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        ])));
        assert_eq!(zone.has_others(&[first]), Some(false));
        assert_eq!(zone.has_others(&["10.9.9.9".parse().expect("an address")]), Some(false));
    }
}
