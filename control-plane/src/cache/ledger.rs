//! What nodes have promised to pods, and which pods still wait for a node; kept up with each change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    controllers::facts::is_over,
    object::{self, at, list, number, text},
};

/// Amounts by resource: thousandths of a CPU, bytes, pieces.
pub type Amounts = BTreeMap<String, i64>;

/// A port of a host that a pod takes: address, protocol, number.
pub type HostPort = (String, String, i64);

/// What a node has promised.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The sum of all requests.
    pub requests: Amounts,
    /// The number of pods.
    pub pods: i64,
    /// Ports of the host, and how many pods take each.
    pub ports: BTreeMap<HostPort, u32>,
}

/// All promises.
#[derive(Debug, Default)]
pub struct Ledger {
    nodes: BTreeMap<String, Usage>,
    pending: BTreeSet<(String, String)>,
    guarded: BTreeSet<(String, String)>,
}

impl Usage {
    /// Counts a pod in or out.
    pub fn count(&mut self, pod: &Value, enter: bool) {
        let sign = if enter { 1 } else { -1 };
        self.pods += sign;
        for (resource, amount) in requests(pod) {
            *self.requests.entry(resource).or_default() += sign * amount;
        }
        for port in host_ports(pod) {
            let count = self.ports.entry(port.clone()).or_default();
            *count = if enter { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.ports.remove(&port);
            }
        }
    }
}

impl Ledger {
    /// What a node has promised; nothing if nobody knows it.
    pub fn usage(&self, node: &str) -> Usage {
        self.nodes.get(node).cloned().unwrap_or_default()
    }

    /// Namespaces and names of pods that wait for a node.
    pub fn pending(&self) -> &BTreeSet<(String, String)> {
        &self.pending
    }

    /// Pods with a node that do not bear others near.
    pub fn guarded(&self) -> &BTreeSet<(String, String)> {
        &self.guarded
    }

    pub(super) fn turn(&mut self, pod: &Value, enter: bool) {
        let node = text(pod, &["spec", "nodeName"]);
        let name = || (object::namespace(pod).to_owned(), object::name(pod).to_owned());
        if is_over(pod) {
            return;
        }
        if node.is_empty() {
            let is_ours = matches!(text(pod, &["spec", "schedulerName"]), "" | "default-scheduler");
            let is_free = list(pod, &["spec", "schedulingGates"]).is_empty();
            if is_ours && is_free && !object::is_terminating(pod) {
                set(&mut self.pending, name(), enter);
            }
            return;
        }
        let usage = self.nodes.entry(node.to_owned()).or_default();
        usage.count(pod, enter);
        if usage.pods <= 0 {
            self.nodes.remove(node);
        }
        if !anti_affinity(pod).is_empty() {
            set(&mut self.guarded, name(), enter);
        }
    }
}

fn set<V: Ord>(values: &mut BTreeSet<V>, value: V, enter: bool) {
    if enter {
        values.insert(value);
    } else {
        values.remove(&value);
    }
}

/// The terms that a pod demands not to have near.
pub fn anti_affinity(pod: &Value) -> &[Value] {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    list(pod, &["spec", "affinity", "podAntiAffinity", REQUIRED])
}

/// Ports of the host that a pod takes.
pub fn host_ports(pod: &Value) -> Vec<HostPort> {
    let containers = list(pod, &["spec", "containers"]).iter();
    let sidecars = list(pod, &["spec", "initContainers"]).iter().filter(|it| is_sidecar(it));
    let ports = containers.chain(sidecars).flat_map(|container| list(container, &["ports"]));
    ports
        .filter_map(|port| {
            let number = number(port, &["hostPort"]).filter(|number| *number > 0)?;
            let or = |text: &str, other: &str| {
                if text.is_empty() { other.to_owned() } else { text.to_owned() }
            };
            let address = or(text(port, &["hostIP"]), "0.0.0.0");
            Some((address, or(text(port, &["protocol"]), "TCP"), number))
        })
        .collect()
}

fn is_sidecar(container: &Value) -> bool {
    text(container, &["restartPolicy"]) == "Always"
}

/// What a pod needs: the most that its containers, or the start of them one after another, ask for.
pub fn requests(pod: &Value) -> Amounts {
    let mut sum = Amounts::new();
    for container in list(pod, &["spec", "containers"]) {
        add(&mut sum, &asked(container));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in list(pod, &["spec", "initContainers"]) {
        let asked = asked(container);
        if is_sidecar(container) {
            add(&mut sidecars, &asked);
            raise(&mut most, &sidecars);
        } else {
            let mut then = sidecars.clone();
            add(&mut then, &asked);
            raise(&mut most, &then);
        }
    }
    add(&mut sum, &sidecars);
    raise(&mut sum, &most);
    // What is said for the pod as a whole stands for its containers.
    sum.extend(amounts(at(pod, &["spec", "resources", "requests"])));
    add(&mut sum, &amounts(at(pod, &["spec", "overhead"])));
    sum
}

fn asked(container: &Value) -> Amounts {
    amounts(at(container, &["resources", "requests"]))
}

/// Quantities by name.
pub fn amounts(quantities: Option<&Value>) -> Amounts {
    let map = quantities.and_then(Value::as_object).into_iter().flatten();
    map.map(|(name, value)| (name.clone(), amount(name, value))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = most.entry(name.clone()).or_default();
        *known = (*known).max(*amount);
    }
}

/// A quantity in the unit of its resource, rounded up; 0 if it is none.
pub fn amount(resource: &str, quantity: &Value) -> i64 {
    let text = quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned);
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (mut number, mut suffix) = text.split_at(end);
    // `1e3` is a number, `1E` is not.
    if suffix.len() > 1 && suffix.starts_with(['e', 'E']) && !suffix.ends_with('i') {
        (number, suffix) = (&text, "");
    }
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        _ => 1.0,
    };
    let scale = if resource == "cpu" { 1000.0 } else { 1.0 };
    let value = number.parse::<f64>().unwrap_or(0.0) * factor * scale;
    // Products such as 0.1 × 1000 are not exact; what is nearly whole is whole.
    let whole = value.round();
    let value = if (value - whole).abs() < 1e-6 { whole } else { value.ceil() };
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    let value = value as i64;
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_have_units() {
        for (resource, quantity, expected) in [
            ("cpu", json!("100m"), 100),
            ("cpu", json!(2), 2000),
            ("cpu", json!("0.1"), 100),
            ("memory", json!("64Mi"), 67_108_864),
            ("memory", json!("1e3"), 1000),
            ("memory", json!("1G"), 1_000_000_000),
            ("memory", json!("100m"), 1),
            ("pods", json!("110"), 110),
        ] {
            assert_eq!(amount(resource, &quantity), expected, "{resource} {quantity}");
        }
    }

    #[test]
    fn a_pod_needs_the_most_it_ever_asks_for() {
        let cpu = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = cpu("300m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {
            "containers": [cpu("100m"), cpu("200m")],
            "initContainers": [cpu("400m"), sidecar, cpu("700m")],
            "overhead": {"cpu": "10m"},
        }});
        assert_eq!(requests(&pod)["cpu"], 1010, "the last init container beside the sidecar");
    }
}
