//! Networks of nodes' pods: each node gets one part of each of the cluster's networks.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cache::{Key, Step, View, kinds::NODES},
    client::Kind,
    object::{self, list, map, text},
    runner::{Action, Controller, Report},
};

const NAME: &str = "node-ipam-controller";
/// Bits that addresses of one node share, as upstream: 254 pods, and as many as one likes.
const V4_BITS: u8 = 24;
const V6_BITS: u8 = 64;
/// Parts of a network that are looked at.
const PARTS_MAX: u128 = 65_536;

/// Plans the networks of nodes.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// Networks of the cluster's pods: first address and shared bits. Without any, others give them out.
    pub networks: Vec<(IpAddr, u8)>,
}

impl Controller for Ranges {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[NODES]
    }

    fn touched(&self, step: &Step, _view: &View) -> Vec<Key> {
        // One key for all: two nodes that come together must not get the same.
        let is_new =
            step.new.as_deref().is_some_and(|it| list(it, &["spec", "podCIDRs"]).is_empty());
        let is_gone = step.new.is_none();
        if is_new || is_gone { vec![Key::new(NODES, "", "")] } else { Vec::new() }
    }

    fn plan(&self, _key: &Key, view: &View, _now: Timestamp) -> Vec<Action> {
        if self.networks.is_empty() {
            return Vec::new();
        }
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for node in view.all(NODES) {
            let all = list(node, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
            taken.extend(all.map(str::to_owned));
            taken.insert(text(node, &["spec", "podCIDR"]).to_owned());
        }
        let mut actions = Vec::new();
        for node in view.all(NODES) {
            let has_some = !text(node, &["spec", "podCIDR"]).is_empty()
                || !list(node, &["spec", "podCIDRs"]).is_empty();
            if has_some || object::is_terminating(node) {
                continue;
            }
            let parts: Option<Vec<String>> =
                self.networks.iter().map(|network| next(*network, &taken)).collect();
            let Some(parts) = parts else {
                let message = "the cluster's networks have no part left for this node's pods";
                let report = Report::new(NAME, node, true, "CIDRNotAvailable", message.into());
                actions.push(Action::Report(report));
                continue;
            };
            taken.extend(parts.iter().cloned());
            let mut changed = Value::clone(node);
            let spec = map(&mut changed, &["spec"]);
            spec.insert("podCIDR".into(), json!(parts.first()));
            spec.insert("podCIDRs".into(), json!(parts));
            actions.push(Action::Update(NODES, changed));
        }
        actions
    }

    fn workers(&self) -> usize {
        1
    }
}

/// The first part of a network that nobody has.
fn next((first, bits): (IpAddr, u8), taken: &BTreeSet<String>) -> Option<String> {
    let part_bits = if first.is_ipv4() { V4_BITS.max(bits) } else { V6_BITS.max(bits) };
    let count = 1_u128.checked_shl(u32::from(part_bits - bits)).unwrap_or(PARTS_MAX);
    (0..count.min(PARTS_MAX))
        .map(|number| part(first, part_bits, number))
        .find(|it| !taken.contains(it))
}

fn part(first: IpAddr, bits: u8, number: u128) -> String {
    match first {
        IpAddr::V4(first) => {
            let step =
                u32::try_from(number).unwrap_or(0).checked_shl(32 - u32::from(bits)).unwrap_or(0);
            format!("{}/{bits}", Ipv4Addr::from_bits(first.to_bits().wrapping_add(step)))
        }
        IpAddr::V6(first) => {
            let step = number.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            format!("{}/{bits}", Ipv6Addr::from_bits(first.to_bits().wrapping_add(step)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_gets_the_first_part_that_nobody_has() {
        let v4 = ("10.244.0.0".parse().expect("an address"), 16);
        let v6 = ("fd00:10:244::".parse().expect("an address"), 56);
        let mut taken = BTreeSet::from(["10.244.1.0/24".to_owned()]);
        assert_eq!(next(v4, &taken).as_deref(), Some("10.244.0.0/24"));
        taken.insert("10.244.0.0/24".into());
        assert_eq!(next(v4, &taken).as_deref(), Some("10.244.2.0/24"));
        taken.insert("fd00:10:244::/64".into());
        assert_eq!(next(v6, &taken).as_deref(), Some("fd00:10:244:1::/64"));
        let small = ("10.0.0.0".parse().expect("an address"), 24);
        taken.insert("10.0.0.0/24".into());
        assert_eq!(next(small, &taken), None);
    }
}
