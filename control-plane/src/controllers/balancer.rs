//! Addresses for Services of type LoadBalancer, out of pools.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cache::{Key, Step, View, kinds::SERVICES},
    client::Kind,
    object::{self, at, list, text},
    runner::{Action, Controller, Report},
};

/// The `loadBalancerClass` of Services that ask for us by name.
pub const CLASS: &str = "hashplane.io/pool";
const NAME: &str = "service-lb-controller";
/// Addresses of one pool that are looked at.
const POOL_MAX: u128 = 65_536;

/// A range of addresses: `192.0.2.0/28`, or `192.0.2.10-192.0.2.20`. All of them are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    first: u128,
    last: u128,
    is_v6: bool,
}

/// A text that is no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {0:?} as a pool of addresses: expected a CIDR or two addresses with `-`")]
pub struct NoPool(String);

impl FromStr for Pool {
    type Err = NoPool;

    fn from_str(text: &str) -> Result<Self, NoPool> {
        let no = || NoPool(text.to_owned());
        let address = |text: &str| text.trim().parse::<IpAddr>().ok();
        let pool = if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (address(first).ok_or_else(no)?, address(last).ok_or_else(no)?);
            if first.is_ipv6() != last.is_ipv6() {
                return Err(no());
            }
            Self { first: number(first), last: number(last), is_v6: first.is_ipv6() }
        } else {
            let (base, length) = text.split_once('/').ok_or_else(no)?;
            let base = address(base).ok_or_else(no)?;
            let length: u32 = length.parse().ok().ok_or_else(no)?;
            let bits = if base.is_ipv6() { 128 } else { 32 };
            let rest = bits_left(bits, length).ok_or_else(no)?;
            let first = number(base) & !rest;
            Self { first, last: first | rest, is_v6: base.is_ipv6() }
        };
        if pool.first <= pool.last { Ok(pool) } else { Err(no()) }
    }
}

/// The mask of the bits behind a prefix.
fn bits_left(bits: u32, length: u32) -> Option<u128> {
    let left = bits.checked_sub(length)?;
    Some(if left == 128 { u128::MAX } else { (1 << left) - 1 })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl Pool {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (last, is_v6) = (self.last.min(self.first.saturating_add(POOL_MAX)), self.is_v6);
        (self.first..=last).map(move |value| match u32::try_from(value) {
            Ok(value) if !is_v6 => IpAddr::V4(Ipv4Addr::from(value)),
            _ => IpAddr::V6(Ipv6Addr::from(value)),
        })
    }

    fn has(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_v6 && (self.first..=self.last).contains(&number(address))
    }
}

/// Plans the addresses of Services of type LoadBalancer.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    /// Where addresses come from; without any, others may give them.
    pub pools: Vec<Pool>,
}

impl Controller for Balancer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[SERVICES]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let freed = step.old.as_deref().is_some_and(|old| {
            let new = step.new.as_deref();
            !given(old).is_empty() && new.is_none_or(|new| given(new) != given(old))
        });
        let mut keys: Vec<Key> =
            step.new.as_deref().map(|it| Key::of(SERVICES, it)).into_iter().collect();
        if freed {
            let waiting = view.all(SERVICES).filter(|it| is_ours(it) && given(it).is_empty());
            keys.extend(waiting.map(|service| Key::of(SERVICES, service)));
        }
        keys
    }

    fn plan(&self, key: &Key, view: &View, _now: Timestamp) -> Vec<Action> {
        let Some(service) = view.at(key) else { return Vec::new() };
        if self.pools.is_empty() || object::is_terminating(service) {
            return Vec::new();
        }
        let before = given(service);
        let is_pooled = |address: &IpAddr| self.pools.iter().any(|pool| pool.has(*address));
        if !is_ours(service) {
            // What we gave goes back; what others gave is theirs.
            let is_balanced = text(service, &["spec", "type"]) == "LoadBalancer";
            if is_balanced || before.is_empty() || !before.iter().all(is_pooled) {
                return Vec::new();
            }
            return vec![status(service, &[])];
        }
        match self.choose(service, view) {
            Ok(addresses) if addresses == before => Vec::new(),
            Ok(addresses) => vec![status(service, &addresses)],
            Err(message) => {
                let reason = "AllocationFailed";
                vec![Action::Report(Report::new(NAME, service, true, reason, message))]
            }
        }
    }

    fn workers(&self) -> usize {
        // Two plans at once could give one address twice.
        1
    }
}

impl Balancer {
    /// One address for each family of a Service.
    fn choose(&self, service: &Value, view: &View) -> Result<Vec<IpAddr>, String> {
        let uid = object::uid(service);
        let others = view.all(SERVICES).filter(|it| object::uid(it) != uid);
        let taken: BTreeSet<IpAddr> = others.flat_map(|it| given(it)).collect();
        let before = given(service);
        let wished = text(service, &["spec", "loadBalancerIP"]).parse::<IpAddr>().ok();
        let families = list(service, &["spec", "ipFamilies"]).iter().filter_map(Value::as_str);
        let mut families: Vec<&str> = families.collect();
        if families.is_empty() {
            families.push("IPv4");
        }
        let mut chosen = Vec::new();
        for family in families {
            let is_v6 = family == "IPv6";
            let is_free = |address: &IpAddr| {
                address.is_ipv6() == is_v6
                    && !taken.contains(address)
                    && self.pools.iter().any(|pool| pool.has(*address))
            };
            if let Some(wished) = wished.filter(|it| it.is_ipv6() == is_v6) {
                if !is_free(&wished) {
                    return Err(format!("address {wished} is in no pool, or taken"));
                }
                chosen.push(wished);
                continue;
            }
            let kept = before.iter().copied().find(|address| is_free(address));
            let all = || self.pools.iter().flat_map(Pool::addresses);
            match kept.or_else(|| all().find(|address| is_free(address))) {
                Some(address) => chosen.push(address),
                // One family is enough, if there is no pool of the other.
                None if !self.pools.iter().any(|pool| pool.is_v6 == is_v6) => {}
                None => return Err(format!("no {family} address is left in any pool")),
            }
        }
        if chosen.is_empty() { Err("no pool has such addresses".to_owned()) } else { Ok(chosen) }
    }
}

/// Whether a Service is to get its address from us.
fn is_ours(service: &Value) -> bool {
    text(service, &["spec", "type"]) == "LoadBalancer"
        && at(service, &["spec", "loadBalancerClass"]).is_none_or(|class| class == CLASS)
}

/// The addresses that a Service has.
fn given(service: &Value) -> Vec<IpAddr> {
    let ingress = list(service, &["status", "loadBalancer", "ingress"]).iter();
    ingress.filter_map(|it| text(it, &["ip"]).parse().ok()).collect()
}

fn status(service: &Arc<Value>, addresses: &[IpAddr]) -> Action {
    let ingress: Vec<Value> =
        addresses.iter().map(|it| json!({"ip": it.to_string(), "ipMode": "VIP"})).collect();
    let mut changed = Value::clone(service);
    changed["status"]["loadBalancer"] =
        if ingress.is_empty() { json!({}) } else { json!({"ingress": ingress}) };
    Action::Status(SERVICES, changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::fake::Cluster;

    fn service(name: &str, spec: &Value) -> Value {
        json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
    }

    fn address(cluster: &Cluster, name: &str) -> String {
        let service = cluster.get(SERVICES, "default", name).unwrap();
        given(&service).iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn pools_are_ranges() {
        let pool: Pool = "192.0.2.9/30".parse().unwrap();
        let all: Vec<String> = pool.addresses().map(|it| it.to_string()).collect();
        assert_eq!(all, ["192.0.2.8", "192.0.2.9", "192.0.2.10", "192.0.2.11"]);
        let pool: Pool = "2001:db8::1-2001:db8::2".parse().unwrap();
        assert_eq!(pool.addresses().count(), 2);
        for text in ["", "192.0.2.1", "192.0.2.0/33", "192.0.2.2-192.0.2.1", "192.0.2.1-::1", "x/1"]
        {
            assert!(text.parse::<Pool>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_given_kept_and_given_back() {
        let plans = Balancer { pools: vec!["192.0.2.0/31".parse().unwrap()] };
        let mut cluster = Cluster::new(1);
        let spec = json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"]});
        let mut wish = spec.clone();
        wish["loadBalancerIP"] = "192.0.2.1".into();
        cluster.create(SERVICES, service("a", &wish)).unwrap();
        cluster.create(SERVICES, service("b", &spec)).unwrap();
        let mut other = spec.clone();
        other["loadBalancerClass"] = "example.com/other".into();
        cluster.create(SERVICES, service("other", &other)).unwrap();
        cluster.converge(&[&plans], false);
        assert_eq!(address(&cluster, "a"), "192.0.2.1");
        assert_eq!(address(&cluster, "b"), "192.0.2.0");
        assert_eq!(address(&cluster, "other"), "");
        cluster.create(SERVICES, service("c", &spec)).unwrap();
        cluster.converge(&[&plans], false);
        assert_eq!(address(&cluster, "c"), "");
        let mut a = cluster.get(SERVICES, "default", "a").unwrap();
        a["spec"] = json!({"type": "ClusterIP"});
        cluster.update(SERVICES, a, false).unwrap();
        cluster.converge(&[&plans], false);
        assert_eq!(address(&cluster, "a"), "");
        assert_eq!(address(&cluster, "c"), "192.0.2.1");
    }
}
