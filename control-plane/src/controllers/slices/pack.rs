//! Packs endpoints into slices, so that as few slices as possible change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use super::{delete, frame};
use crate::{
    cache::kinds::SLICES,
    controllers::facts::dense,
    object::{at, list, text},
    runner::Action,
};

/// Endpoints in one slice at most.
const ENDPOINTS_MAX: usize = 100;

/// Endpoints that share their ports.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The ports.
    pub(super) ports: Vec<Value>,
    /// The endpoints, by their address and what they stand for.
    pub(super) endpoints: BTreeMap<String, Value>,
}

/// What all slices of a Service have in common.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) owner: &'a Value,
    pub(super) labels: Value,
    pub(super) prefix: String,
}

/// What tells an endpoint from others.
pub(super) fn identity(endpoint: &Value) -> String {
    let address = list(endpoint, &["addresses"]).first().and_then(Value::as_str);
    format!("{}/{}", address.unwrap_or_default(), text(endpoint, &["targetRef", "uid"]))
}

/// What to do so that slices hold these groups, by family and ports.
pub(super) fn pack(
    wish: &Wish<'_>,
    groups: BTreeMap<(String, String), Group>,
    slices: &[&Arc<Value>],
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut kept = BTreeSet::new();
    for ((family, _), mut group) in groups {
        let is_empty = group.endpoints.is_empty();
        let ports = Value::from(group.ports.clone());
        let mut filled: Vec<(&Arc<Value>, Vec<Value>)> = Vec::new();
        for slice in slices {
            let same = text(slice, &["addressType"]) == family
                && at(slice, &["ports"])
                    .map_or(&[][..], |ports| ports.as_array().map_or(&[], |it| it))
                    == group.ports;
            if !same || kept.contains(text(slice, &["metadata", "name"])) {
                continue;
            }
            let known = list(slice, &["endpoints"]).iter().map(identity);
            let stay: Vec<Value> =
                known.filter_map(|known| group.endpoints.remove(&known)).collect();
            if !stay.is_empty() || (is_empty && filled.is_empty()) {
                kept.insert(text(slice, &["metadata", "name"]).to_owned());
                filled.push((slice, stay));
            }
        }
        let mut rest = group.endpoints.into_values();
        // The fullest first: fewest slices change, and none stays nearly empty.
        filled.sort_by_key(|(_, stay)| std::cmp::Reverse(stay.len()));
        for (_, stay) in &mut filled {
            let room = ENDPOINTS_MAX.saturating_sub(stay.len());
            stay.extend(rest.by_ref().take(room));
        }
        let is_served = !filled.is_empty();
        actions.extend(filled.into_iter().filter_map(|(slice, stay)| change(wish, slice, stay)));
        loop {
            let part: Vec<Value> = rest.by_ref().take(ENDPOINTS_MAX).collect();
            if part.is_empty() && (is_served || !is_empty) {
                break;
            }
            let is_last = part.is_empty();
            let mut object = frame(wish, &family);
            object["endpoints"] = part.into();
            object["ports"] = ports.clone();
            actions.push(Action::Create { kind: SLICES, object, owner: None });
            if is_last {
                break;
            }
        }
    }
    // Endpoints in before endpoints out: a pod whose slice changes is never in none.
    let gone = slices.iter().filter(|slice| !kept.contains(text(slice, &["metadata", "name"])));
    actions.extend(gone.map(|slice| delete(SLICES, slice)));
    actions
}

fn change(wish: &Wish<'_>, slice: &Arc<Value>, endpoints: Vec<Value>) -> Option<Action> {
    let mut changed = Value::clone(slice);
    changed["endpoints"] = endpoints.into();
    changed["metadata"]["labels"] = wish.labels.clone();
    let is_same = dense(&changed) == dense(slice);
    if is_same { None } else { Some(Action::Update(SLICES, changed)) }
}
