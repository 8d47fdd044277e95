//! Which of the nodes that can take a pod is the best.

use serde_json::Value;

use super::{
    Node, Round, filter,
    near::{Rules, value},
};
use crate::{
    cache::ledger::Amounts,
    object::{list, number, text},
};

/// The best score of one aspect.
const FULL: i64 = 100;

/// What a pod that asks for nothing counts for, so that such pods are spread as well.
const CPU_LEAST: i64 = 100;
const MEMORY_LEAST: i64 = 200 << 20;

impl Round<'_> {
    /// The best of some nodes; of equals the one with fewest pods, then the first by name.
    pub(super) fn best(
        &self,
        pod: &Value,
        needs: &Amounts,
        rules: &Rules,
        fits: &[usize],
    ) -> Option<usize> {
        if fits.len() < 2 {
            return fits.first().copied();
        }
        let nodes: Vec<&Node> = fits.iter().map(|at| &self.nodes[*at]).collect();
        let aspects: [(i64, Vec<i64>); 5] = [
            (1, nodes.iter().map(|node| balance(needs, node)).collect()),
            (3, lower_is_better(nodes.iter().map(|node| taints(pod, node)).collect())),
            (2, higher_is_better(nodes.iter().map(|node| affinity(pod, node)).collect())),
            (2, higher_is_better(nodes.iter().map(|node| company(rules, node)).collect())),
            (2, lower_is_better(nodes.iter().map(|node| crowd(rules, node)).collect())),
        ];
        let total =
            |n: usize| -> i64 { aspects.iter().map(|(weight, scores)| weight * scores[n]).sum() };
        let best = (0..nodes.len())
            .min_by_key(|n| (std::cmp::Reverse(total(*n)), nodes[*n].usage.pods, &nodes[*n].name));
        best.map(|n| fits[n])
    }
}

/// How much is left of CPU and memory, and how evenly both are used.
fn balance(needs: &Amounts, node: &Node) -> i64 {
    let part = |name: &str, least: i64| {
        let room = node.room.get(name).copied().unwrap_or(0).max(1);
        let used = node.usage.requests.get(name).copied().unwrap_or(0);
        let used = used.max(node.usage.pods.saturating_mul(least));
        let need = needs.get(name).copied().unwrap_or(0).max(least);
        let all = i128::from(used) + i128::from(need);
        let share = (all * i128::from(FULL) / i128::from(room)).min(i128::from(FULL));
        i64::try_from(share).unwrap_or(FULL)
    };
    let (cpu, memory) = (part("cpu", CPU_LEAST), part("memory", MEMORY_LEAST));
    let left = (2 * FULL - cpu - memory) / 2;
    let even = FULL - (cpu - memory).abs() / 2;
    left + even
}

fn taints(pod: &Value, node: &Node) -> i64 {
    let taints = list(&node.object, &["spec", "taints"]).iter();
    let soft = taints.filter(|taint| text(taint, &["effect"]) == "PreferNoSchedule");
    let count = soft.filter(|taint| !filter::is_tolerated(pod, taint)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn affinity(pod: &Value, node: &Node) -> i64 {
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let preferences = list(pod, &["spec", "affinity", "nodeAffinity", PREFERRED]).iter();
    let met = preferences.filter(|it| filter::is_met(&it["preference"], &node.object));
    met.map(|it| number(it, &["weight"]).unwrap_or(0)).sum()
}

fn company(rules: &Rules, node: &Node) -> i64 {
    let terms = rules.preferred.iter();
    terms
        .map(|(topology, weight, counts)| {
            weight * counts.get(value(&node.object, topology)).copied().unwrap_or(0)
        })
        .sum()
}

fn crowd(rules: &Rules, node: &Node) -> i64 {
    let counts = rules
        .even
        .iter()
        .map(|(topology, counts)| counts.get(value(&node.object, topology)).copied().unwrap_or(0));
    counts.sum()
}

fn higher_is_better(scores: Vec<i64>) -> Vec<i64> {
    let (least, most) = bounds(&scores);
    let range = (most - least).max(1);
    scores.into_iter().map(|score| (score - least) * FULL / range).collect()
}

fn lower_is_better(scores: Vec<i64>) -> Vec<i64> {
    higher_is_better(scores.into_iter().map(|score| -score).collect())
}

fn bounds(scores: &[i64]) -> (i64, i64) {
    let least = scores.iter().min().copied().unwrap_or(0);
    (least, scores.iter().max().copied().unwrap_or(0))
}
