//! Addresses and node ports of Services: who claims one first has it, also among several servers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Registry, Scope, encoded, names, now};
use crate::{
    api::status::{Cause, Failure},
    client::Kind,
    object::{self, map},
    resource,
    store::{self, Expect, Key, Write},
};

/// Addresses and ports of Services in a cluster.
#[derive(Clone, Debug)]
pub struct Networks {
    /// First address and length of the prefix; the first family is that of single-stack Services.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// Ports of nodes that Services get.
    pub node_ports: RangeInclusive<u16>,
}

impl Default for Networks {
    fn default() -> Self {
        Self {
            service_cidrs: vec![
                (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 16),
                (IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 96, 0, 0, 0, 0)), 112),
            ],
            node_ports: 30_000..=32_767,
        }
    }
}

impl Networks {
    /// The address of the `kubernetes` Service: the first of the first network.
    pub fn first_address(&self) -> Option<IpAddr> {
        let (base, prefix) = self.service_cidrs.first()?;
        Some(match base {
            IpAddr::V4(base) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from((u32::from(*base) & mask) + 1))
            }
            IpAddr::V6(base) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from((u128::from(*base) & mask) + 1))
            }
        })
    }
}

/// Keys that a write claimed, to be given back if it fails.
pub(super) type Claims = Vec<Key>;

const ADDRESSES: Kind = Kind { group: "networking.k8s.io", plural: "ipaddresses" };
/// How many addresses or ports are tried at random before it counts as full.
const DRAWS: usize = 256;

impl Registry {
    /// Gives a Service what it asks for and does not have, and claims it.
    pub(super) async fn claim(
        &self,
        scope: &Scope<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Claims, Failure> {
        if (scope.resource.group, scope.resource.plural) != ("", "services") {
            return Ok(Claims::new());
        }
        let mut claims = Claims::new();
        let done = self.claim_all(scope, object, old, &mut claims).await;
        match done {
            Ok(()) => Ok(claims),
            Err(failure) => {
                self.release(claims).await;
                Err(failure)
            }
        }
    }

    async fn claim_all(
        &self,
        scope: &Scope<'_>,
        service: &mut Value,
        old: Option<&Value>,
        claims: &mut Claims,
    ) -> Result<(), Failure> {
        let kind = object::text(service, &["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            drop_addresses(service);
        } else {
            self.addresses(scope, service, old, claims).await?;
        }
        if kind == "NodePort" || kind == "LoadBalancer" {
            self.node_ports(scope, service, old, claims).await?;
        } else {
            drop_node_ports(service);
        }
        Ok(())
    }

    async fn addresses(
        &self,
        scope: &Scope<'_>,
        service: &mut Value,
        old: Option<&Value>,
        claims: &mut Claims,
    ) -> Result<(), Failure> {
        let families = self.families(service);
        let spec = map(service, &["spec"]);
        spec.insert("ipFamilies".into(), json!(families));
        object::set_default(spec, "ipFamilyPolicy", || {
            json!(if families.len() > 1 { "RequireDualStack" } else { "SingleStack" })
        });
        let mut given: Vec<String> = strings(spec.get("clusterIPs"));
        if let Some(first) =
            spec.get("clusterIP").and_then(Value::as_str).filter(|it| !it.is_empty())
            && given.first().is_none_or(|it| it != first)
        {
            given = vec![first.to_owned()];
        }
        if given.first().is_some_and(|it| it == "None") {
            spec.insert("clusterIP".into(), json!("None"));
            spec.insert("clusterIPs".into(), json!(["None"]));
            return Ok(());
        }
        let had =
            old.map(|old| strings(object::at(old, &["spec", "clusterIPs"]))).unwrap_or_default();
        let mut addresses = Vec::new();
        for (index, family) in families.iter().enumerate() {
            let asked = given.get(index).or_else(|| had.get(index));
            let address = match asked {
                Some(asked) if had.contains(asked) => asked.clone(),
                Some(asked) => {
                    let field = format!("spec.clusterIPs[{index}]");
                    self.claim_address(scope, service, asked, &field, claims).await?
                }
                None => self.free_address(scope, service, family, claims).await?,
            };
            addresses.push(address);
        }
        let spec = map(service, &["spec"]);
        spec.insert("clusterIP".into(), json!(addresses.first()));
        spec.insert("clusterIPs".into(), json!(addresses));
        Ok(())
    }

    fn families(&self, service: &Value) -> Vec<String> {
        let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let known: Vec<&str> =
            self.settings.networks.service_cidrs.iter().map(|(it, _)| family(it)).collect();
        let mut families = strings(object::at(service, &["spec", "ipFamilies"]));
        if families.is_empty() {
            let given = strings(object::at(service, &["spec", "clusterIPs"]));
            let given = given.iter().filter_map(|it| it.parse::<IpAddr>().ok());
            families.extend(given.map(|it| family(&it).to_owned()));
        }
        if families.is_empty() {
            families.extend(known.first().map(|it| (*it).to_owned()));
        }
        let policy = object::text(service, &["spec", "ipFamilyPolicy"]);
        if policy == "PreferDualStack" || policy == "RequireDualStack" {
            for it in known {
                if !families.iter().any(|have| have == it) {
                    families.push(it.to_owned());
                }
            }
        } else if policy == "SingleStack" {
            families.truncate(1);
        }
        families
    }

    async fn free_address(
        &self,
        scope: &Scope<'_>,
        service: &Value,
        family: &str,
        claims: &mut Claims,
    ) -> Result<String, Failure> {
        let cidrs = &self.settings.networks.service_cidrs;
        let cidr = cidrs.iter().find(|(it, _)| it.is_ipv4() == (family == "IPv4"));
        let Some((base, prefix)) = cidr else {
            let words = format!("this cluster is not configured for {family}");
            let cause = Cause::invalid("spec.ipFamilies", &json!([family]), &words);
            return Err(scope.invalid(service, vec![cause]));
        };
        let bits = if base.is_ipv4() { 32 } else { 128 } - u32::from(*prefix);
        // A part of the network is kept for addresses that people choose.
        let size = 1_u64 << bits.min(32);
        let kept = (size / 16).clamp(16, 256).min(size / 2);
        let free = size.saturating_sub(kept + 1).max(1);
        for draw in 0..DRAWS {
            let from = if draw < DRAWS / 2 { kept } else { 1 };
            let span = if draw < DRAWS / 2 { free } else { size.saturating_sub(2).max(1) };
            let address = offset(*base, from + names::random() % span);
            if self.take(scope, service, address, claims).await? {
                return Ok(address.to_string());
            }
        }
        let words = format!("failed to allocate IP: the range {base}/{prefix} is full");
        Err(Failure::new(crate::api::status::Reason::InternalError, words))
    }

    async fn claim_address(
        &self,
        scope: &Scope<'_>,
        service: &Value,
        asked: &str,
        field: &str,
        claims: &mut Claims,
    ) -> Result<String, Failure> {
        let refuse = |why: &str| {
            Err(scope.invalid(service, vec![Cause::invalid(field, &json!([asked]), why)]))
        };
        let Ok(address) = asked.parse::<IpAddr>() else {
            return refuse("must be a valid IP address");
        };
        let cidrs = &self.settings.networks.service_cidrs;
        let contains = |(base, prefix): &(IpAddr, u8)| is_within(address, *base, *prefix);
        if !cidrs.iter().any(contains) {
            return refuse("failed to allocate IP: the provided IP is not in the valid range");
        }
        if self.take(scope, service, address, claims).await? {
            Ok(address.to_string())
        } else {
            refuse("failed to allocate IP: provided IP is already allocated")
        }
    }

    /// Whether the address was free; it is the Service's from now on.
    async fn take(
        &self,
        scope: &Scope<'_>,
        service: &Value,
        address: IpAddr,
        claims: &mut Claims,
    ) -> Result<bool, Failure> {
        let Some(resource) = resource::by_id(ADDRESSES) else { return Ok(true) };
        let name = address.to_string();
        let parent = json!({
            "group": "", "resource": "services", "namespace": scope.namespace, "name": object::name(service),
        });
        let labels = json!({
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        });
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {
                "name": name.replace(':', "-"), "uid": names::uid(), "creationTimestamp": now(), "labels": labels,
            },
            "spec": {"parentRef": parent},
        });
        let key = Scope::new(resource, "").key(object::name(&object));
        self.take_key(key, encoded::encode(&object), claims).await
    }

    async fn take_key(&self, key: Key, value: Bytes, claims: &mut Claims) -> Result<bool, Failure> {
        let write = Write { key: key.clone(), expect: Expect::Absent, value: Some(value) };
        match self.store.write(write).await {
            Ok(_) => {
                claims.push(key);
                Ok(true)
            }
            Err(store::Error::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn node_ports(
        &self,
        scope: &Scope<'_>,
        service: &mut Value,
        old: Option<&Value>,
        claims: &mut Claims,
    ) -> Result<(), Failure> {
        let had = old.map(node_ports_of).unwrap_or_default();
        let is_off = object::at(service, &["spec", "allocateLoadBalancerNodePorts"])
            == Some(&Value::Bool(false))
            && object::text(service, &["spec", "type"]) == "LoadBalancer";
        let ports = object::list(service, &["spec", "ports"]).to_vec();
        let mut chosen: Vec<Value> = Vec::new();
        for (index, mut port) in ports.into_iter().enumerate() {
            let asked = object::number(&port, &["nodePort"]).filter(|it| *it != 0);
            let protocol = object::text(&port, &["protocol"]).to_owned();
            let asked = asked.or_else(|| {
                // The same number for the same port in another protocol, or as it was.
                let mut before = had.iter();
                let same = |it: &&(i64, String, i64)| {
                    Some(it.2) == object::number(&port, &["port"]) && it.1 == protocol
                };
                before.find(same).map(|it| it.0)
            });
            let number = match asked {
                Some(number) => {
                    let is_known = had.iter().any(|it| it.0 == number && it.1 == protocol);
                    if !is_known
                        && !self.take_port(scope, service, number, &protocol, claims).await?
                    {
                        let field = format!("spec.ports[{index}].nodePort");
                        let why = "provided port is already allocated";
                        let cause = Cause::invalid(field, &json!(number), why);
                        return Err(scope.invalid(service, vec![cause]));
                    }
                    number
                }
                None if is_off => 0,
                None => self.free_port(scope, service, &protocol, claims).await?,
            };
            if number != 0 {
                map(&mut port, &[]).insert("nodePort".into(), json!(number));
            }
            chosen.push(port);
        }
        map(service, &["spec"]).insert("ports".into(), json!(chosen));
        Ok(())
    }

    async fn free_port(
        &self,
        scope: &Scope<'_>,
        service: &Value,
        protocol: &str,
        claims: &mut Claims,
    ) -> Result<i64, Failure> {
        let range = &self.settings.networks.node_ports;
        let (first, size) = (*range.start(), u64::from(range.end() - range.start()) + 1);
        let kept = (size / 32).clamp(16, 128).min(size / 2);
        for draw in 0..DRAWS {
            let from = if draw < DRAWS / 2 { kept } else { 0 };
            let port = u64::from(first) + from + names::random() % (size - from);
            let port = i64::try_from(port).unwrap_or_default();
            if self.take_port(scope, service, port, protocol, claims).await? {
                return Ok(port);
            }
        }
        let words = "failed to allocate a nodePort: range is full";
        Err(Failure::new(crate::api::status::Reason::InternalError, words))
    }

    async fn take_port(
        &self,
        scope: &Scope<'_>,
        service: &Value,
        port: i64,
        protocol: &str,
        claims: &mut Claims,
    ) -> Result<bool, Failure> {
        let owner = format!("{}/{}", scope.namespace, object::name(service));
        self.take_key(port_key(port, protocol), Bytes::from(owner), claims).await
    }

    /// Gives claimed keys back.
    pub(super) async fn release(&self, claims: Claims) {
        for key in claims {
            let Ok(Some(entry)) = self.store.get(&key).await else { continue };
            let write = Write { key, expect: Expect::At(entry.modified), value: None };
            if let Err(error) = self.store.write(write).await {
                tracing::warn!(%error, "an address or a port of a Service stays claimed");
            }
        }
    }

    /// What a Service had and no longer has.
    pub(super) async fn release_old(&self, scope: &Scope<'_>, old: &Value, new: &Value) {
        if (scope.resource.group, scope.resource.plural) == ("", "services") {
            let kept = claims_of(new);
            let gone = claims_of(old).into_iter().filter(|it| !kept.contains(it)).collect();
            self.release(gone).await;
        }
    }

    /// What is to be done when an object is gone.
    pub(super) async fn forget(&self, scope: &Scope<'_>, object: &Value) {
        if (scope.resource.group, scope.resource.plural) == ("", "services") {
            self.release(claims_of(object)).await;
        }
    }
}

fn port_key(port: i64, protocol: &str) -> Key {
    Key::from(format!("/hashplane/nodeports/{port}/{protocol}"))
}

fn node_ports_of(service: &Value) -> Vec<(i64, String, i64)> {
    let ports = object::list(service, &["spec", "ports"]).iter();
    let number = |port: &Value, field: &str| object::number(port, &[field]).unwrap_or(0);
    let entry = |port: &Value| {
        let protocol = object::text(port, &["protocol"]).to_owned();
        (number(port, "nodePort"), protocol, number(port, "port"))
    };
    ports.map(entry).filter(|it| it.0 != 0).collect()
}

/// The keys that hold what a Service has.
fn claims_of(service: &Value) -> Claims {
    let mut keys = Claims::new();
    if let Some(resource) = resource::by_id(ADDRESSES) {
        for address in strings(object::at(service, &["spec", "clusterIPs"])) {
            if address != "None" {
                keys.push(Scope::new(resource, "").key(&address.replace(':', "-")));
            }
        }
    }
    let ports = node_ports_of(service);
    keys.extend(ports.iter().map(|(port, protocol, _)| port_key(*port, protocol)));
    keys
}

fn drop_addresses(service: &mut Value) {
    let spec = map(service, &["spec"]);
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        spec.remove(field);
    }
}

fn drop_node_ports(service: &mut Value) {
    let spec = map(service, &["spec"]);
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        map(port, &[]).remove("nodePort");
    }
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn offset(base: IpAddr, by: u64) -> IpAddr {
    match base {
        IpAddr::V4(base) => {
            let by = u32::try_from(by).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(by)))
        }
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(by.into()))),
    }
}

fn is_within(address: IpAddr, base: IpAddr, prefix: u8) -> bool {
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            let difference = u32::from(address) ^ u32::from(base);
            difference.checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => {
            let difference = u128::from(address) ^ u128::from(base);
            difference.checked_shr(128 - u32::from(prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}
