//! Virtual servers, elements and addresses that are not as the program says, in words.

use std::collections::BTreeMap;

use super::{
    contents::{Contents, Element},
    program::Program,
    server::{ServerKey, Virtual},
};
use crate::backend::Drift;

/// How what is in the kernel differs from the program: how many entries, and some of them.
pub(super) fn differences(program: &Program, seen: &Contents, max: usize) -> (usize, Vec<Drift>) {
    let wanted = program.contents();
    let servers = differing(&wanted.servers, &seen.servers).map(|(key, state)| {
        let owner = match key {
            ServerKey::Address(wanted) => program.owner(wanted),
            ServerKey::Mark(..) => None,
        };
        Drift { key: owner, what: format!("virtual server {key} {state}") }
    });
    let elements = differing(&wanted.elements, &seen.elements).map(|(element, state)| {
        let of: Option<&Virtual> = match element {
            Element::Service(of) | Element::Mark(of) | Element::Range(of, _) => Some(of),
            Element::Closed(_) | Element::Node(_) | Element::Hairpin(_) | Element::PodLink(..) => {
                None
            }
        };
        let owner = of.and_then(|of| program.owner(of));
        Drift { key: owner, what: format!("element {element:?} {state}") }
    });
    let addresses = wanted.addresses.symmetric_difference(&seen.addresses).map(|address| {
        let state = if wanted.addresses.contains(address) { MISSING } else { EXTRA };
        Drift { key: None, what: format!("address {address} {state}") }
    });
    let all: Vec<Drift> = servers.chain(elements).chain(addresses).collect();
    (all.len(), all.into_iter().take(max).collect())
}

const MISSING: &str = "is missing";
const CHANGED: &str = "was changed";
const EXTRA: &str = "should not be there";

/// Entries that are not the same in both, and how.
fn differing<'a, K: Ord, V: PartialEq>(
    wanted: &'a BTreeMap<K, V>,
    seen: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'static str)> {
    let missing = wanted.iter().filter_map(|(key, value)| match seen.get(key) {
        Some(found) => (found != value).then_some((key, CHANGED)),
        None => Some((key, MISSING)),
    });
    missing.chain(seen.keys().filter(|key| !wanted.contains_key(key)).map(|key| (key, EXTRA)))
}
