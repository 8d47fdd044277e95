//! What pods ask of a node, and the class that follows from it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    object::{at, list, text},
    quantity::Quantity,
};

/// Amounts by the name of the resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// Whether an init container goes on beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    text(container, &["restartPolicy"]) == "Always"
}

/// What a pod asks of a node: the most that its containers, or their start one after another, ask for.
/// What is said for the pod as a whole stands for its containers.
pub fn effective_requests(pod: &Value) -> Amounts {
    let mut all = container_requests(pod);
    all.extend(amounts(at(pod, &["spec", "resources", "requests"])));
    add(&mut all, &amounts(at(pod, &["spec", "overhead"])));
    all
}

/// The same for the containers alone.
pub fn container_requests(pod: &Value) -> Amounts {
    let asked = |container: &Value| amounts(at(container, &["resources", "requests"]));
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in list(pod, &["spec", "initContainers"]) {
        let mut then = sidecars.clone();
        add(&mut then, &asked(container));
        raise(&mut most, &then);
        if is_sidecar(container) {
            sidecars = then;
        }
    }
    let mut all = sidecars;
    for container in list(pod, &["spec", "containers"]) {
        add(&mut all, &asked(container));
    }
    raise(&mut all, &most);
    all
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Value) -> &'static str {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut is_limited = true;
    let whole = at(pod, &["spec", "resources"]).filter(|resources| {
        ["requests", "limits"].iter().any(|field| !amounts(resources.get(*field)).is_empty())
    });
    let containers = list(pod, &["spec", "containers"]).iter();
    let containers = containers.chain(list(pod, &["spec", "initContainers"]));
    let parts: Vec<Option<&Value>> = match whole {
        Some(resources) => vec![Some(resources)],
        None => containers.map(|container| container.get("resources")).collect(),
    };
    for resources in parts {
        let counted = |field: &str| {
            let mut amounts = amounts(resources.and_then(|resources| resources.get(field)));
            amounts.retain(|name, amount| {
                COUNTED.contains(&name.as_str()) && *amount > Quantity::ZERO
            });
            amounts
        };
        let limit = counted("limits");
        is_limited &= limit.len() == COUNTED.len();
        add(&mut requests, &counted("requests"));
        add(&mut limits, &limit);
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if is_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Amounts as they are written; what is none counts as nothing.
pub fn amounts(resources: Option<&Value>) -> Amounts {
    let map = resources.and_then(Value::as_object).into_iter().flatten();
    map.map(|(name, value)| (name.clone(), Quantity::of(value).unwrap_or(Quantity::ZERO))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = most.entry(name.clone()).or_insert(*amount);
        if *amount > *known {
            *known = *amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(amounts: &Amounts) -> Vec<String> {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn a_pod_asks_for_the_most_it_ever_needs() {
        let asks = |cpu: &str, memory: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}});
        let mut sidecar = asks("100m", "64Mi");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {
            "initContainers": [asks("1", "1Mi"), sidecar, asks("500m", "1Gi")],
            "containers": [asks("200m", "64Mi"), asks("300m", "64Mi")],
            "overhead": {"cpu": "10m"},
        }});
        // The first init container runs alone, the last one beside the sidecar.
        assert_eq!(written(&container_requests(&pod)), ["cpu=1", "memory=1088Mi"]);
        assert_eq!(written(&effective_requests(&pod)), ["cpu=1010m", "memory=1088Mi"]);
        let mut whole = pod;
        whole["spec"]["resources"] = json!({"requests": {"cpu": "3"}});
        assert_eq!(written(&effective_requests(&whole)), ["cpu=3010m", "memory=1088Mi"]);
    }

    #[test]
    fn classes_follow_from_requests_and_limits() {
        let pod = |containers: Value, init: Value| json!({"spec": {"containers": containers, "initContainers": init}});
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let full = json!({"resources": {"requests": both, "limits": {"cpu": "1000m", "memory": "1024Mi"}}});
        for (containers, init, expected) in [
            (json!([{}]), json!([]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "0"}}}]), json!([]), "BestEffort"),
            (json!([{"resources": {"limits": {"example.com/gpu": "1"}}}]), json!([]), "BestEffort"),
            (json!([full]), json!([]), "Guaranteed"),
            (json!([full, full]), json!([full]), "Guaranteed"),
            (json!([full]), json!([{}]), "Burstable"),
            (json!([full, {}]), json!([]), "Burstable"),
            (json!([{"resources": {"limits": both}}]), json!([]), "Burstable"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), json!([]), "Burstable"),
            (
                json!([{"resources": {"requests": both, "limits": {"cpu": "2", "memory": "1Gi"}}}]),
                json!([]),
                "Burstable",
            ),
        ] {
            let pod = pod(containers, init);
            assert_eq!(qos_class(&pod), expected, "{pod}");
        }
        let whole =
            json!({"spec": {"containers": [{}], "resources": {"requests": both, "limits": both}}});
        assert_eq!(qos_class(&whole), "Guaranteed");
    }
}
