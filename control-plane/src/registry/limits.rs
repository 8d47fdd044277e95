//! The `LimitRange` objects of a namespace: what containers get that ask for nothing, and which pods are not taken.

use serde_json::{Map, Value, json};

use super::{Registry, Scope, encoded};
use crate::{
    api::status::{Failure, Reason},
    client::Kind,
    object::{self, list, map, text},
    quantity::Quantity,
    resource,
    rules::limits::amounts,
};

const RANGES: Kind = Kind { group: "", plural: "limitranges" };
/// Says what was added to a pod.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const LISTS: [&str; 2] = ["containers", "initContainers"];

impl Registry {
    /// Fills in what containers of a new pod leave open, and refuses those that no range allows.
    pub(super) async fn limit(&self, scope: &Scope<'_>, pod: &mut Value) -> Result<(), Failure> {
        let Some(resource) = resource::by_id(RANGES) else { return Ok(()) };
        let ranges = Scope::new(resource, scope.namespace);
        let listing = self.list(&ranges, None, 0, None).await?;
        let ranges: Vec<Value> = listing.entries.iter().map(encoded::decoded).collect();
        let items: Vec<&Value> =
            ranges.iter().flat_map(|it| list(it, &["spec", "limits"])).collect();
        if items.is_empty() {
            return Ok(());
        }
        fill(pod, &items);
        let wrong: Vec<String> = items.iter().flat_map(|item| check(pod, item)).collect();
        let words = match wrong.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let name = object::name(pod);
        let words = format!("pods {name:?} is forbidden: {words}");
        Err(Failure::new(Reason::Forbidden, words).about(scope.about(name)))
    }
}

/// Gives containers the defaults of the ranges.
fn fill(pod: &mut Value, items: &[&Value]) {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for item in items.iter().filter(|it| text(it, &["type"]) == "Container") {
        limits.extend(amounts(item.get("default")));
        requests.extend(amounts(item.get("defaultRequest")));
    }
    let mut said = Vec::new();
    for (field, what) in LISTS.into_iter().zip(["container", "init container"]) {
        let spec = map(pod, &["spec"]);
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, &["name"]).to_owned();
            for (kind, defaults) in [("requests", &requests), ("limits", &limits)] {
                let missing: Vec<(&String, &Value)> = defaults
                    .iter()
                    .filter(|(key, _)| object::at(container, &["resources", kind, key]).is_none())
                    .collect();
                if missing.is_empty() {
                    continue;
                }
                let keys: Vec<&str> = missing.iter().map(|(key, _)| key.as_str()).collect();
                said.push(format!(
                    "{} {} for {what} {name}",
                    keys.join(", "),
                    &kind[..kind.len() - 1]
                ));
                let own = map(container, &["resources", kind]);
                own.extend(missing.into_iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
    }
    if !said.is_empty() {
        let words = format!("LimitRanger plugin set: {}", said.join("; "));
        map(pod, &["metadata", "annotations"]).insert(ANNOTATION.into(), json!(words));
    }
}

/// What is wrong with a pod by one item of a range, in upstream's words.
fn check(pod: &Value, item: &Value) -> Vec<String> {
    let kind = text(item, &["type"]);
    match kind {
        "Container" => LISTS
            .iter()
            .flat_map(|field| list(pod, &["spec", field]))
            .flat_map(|container| {
                let of = |what| amounts(object::at(container, &["resources", what]));
                compare(item, kind, &of("requests"), &of("limits"))
            })
            .collect(),
        "Pod" => compare(item, kind, &sum(pod, "requests"), &sum(pod, "limits")),
        _ => Vec::new(),
    }
}

/// What all containers of a pod have together: those that run side by side, or the greediest that runs before
/// them.
fn sum(pod: &Value, what: &str) -> Map<String, Value> {
    let all = |field: &str, sidecars: bool| -> Vec<Map<String, Value>> {
        let is_wanted = |it: &&Value| (text(it, &["restartPolicy"]) == "Always") == sidecars;
        let containers = list(pod, &["spec", field]).iter().filter(is_wanted);
        containers.map(|it| amounts(object::at(it, &["resources", what]))).collect()
    };
    let mut sums: Map<String, Value> = Map::new();
    for own in all("containers", false).into_iter().chain(all("initContainers", true)) {
        for (key, value) in own {
            let before = sums.get(&key).map_or(Ok(Quantity::ZERO), Quantity::of);
            if let (Ok(before), Ok(value)) = (before, Quantity::of(&value)) {
                sums.insert(key, json!((value + before).to_string()));
            }
        }
    }
    for own in all("initContainers", false) {
        for (key, value) in own {
            let before = sums.get(&key).map_or(Ok(Quantity::ZERO), Quantity::of);
            if let (Ok(before), Ok(amount)) = (before, Quantity::of(&value))
                && amount > before
            {
                sums.insert(key, value);
            }
        }
    }
    sums
}

fn compare(
    item: &Value,
    kind: &str,
    requests: &Map<String, Value>,
    limits: &Map<String, Value>,
) -> Vec<String> {
    let amount = |of: &Map<String, Value>, key: &str| Quantity::of(of.get(key)?).ok();
    let mut wrong = Vec::new();
    for (key, bound) in amounts(item.get("min")) {
        let Ok(bound) = Quantity::of(&bound) else { continue };
        let rule = format!("minimum {key} usage per {kind} is {bound}");
        match (amount(requests, &key), amount(limits, &key)) {
            (None, _) => wrong.push(format!("{rule}.  No request is specified")),
            (Some(request), _) if request < bound => {
                wrong.push(format!("{rule}, but request is {request}"));
            }
            (_, Some(limit)) if limit < bound => {
                wrong.push(format!("{rule}, but limit is {limit}"));
            }
            _ => {}
        }
    }
    for (key, bound) in amounts(item.get("max")) {
        let Ok(bound) = Quantity::of(&bound) else { continue };
        let rule = format!("maximum {key} usage per {kind} is {bound}");
        match (amount(requests, &key), amount(limits, &key)) {
            (_, None) => wrong.push(format!("{rule}.  No limit is specified")),
            (_, Some(limit)) if limit > bound => {
                wrong.push(format!("{rule}, but limit is {limit}"));
            }
            (Some(request), _) if request > bound => {
                wrong.push(format!("{rule}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (key, bound) in amounts(item.get("maxLimitRequestRatio")) {
        let Ok(bound) = Quantity::of(&bound) else { continue };
        let rule = format!("{key} max limit to request ratio per {kind} is {bound}");
        match (amount(requests, &key).filter(|it| !it.is_zero()), amount(limits, &key)) {
            (None, _) => wrong.push(format!("{rule}, but no request is specified or request is 0")),
            (_, None) => wrong.push(format!("{rule}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                #[expect(clippy::cast_precision_loss, reason = "upstream compares floats too")]
                let ratio = limit.milli() as f64 / request.milli() as f64;
                #[expect(clippy::cast_precision_loss, reason = "upstream compares floats too")]
                let most = bound.milli() as f64 / 1000.0;
                if ratio > most {
                    wrong.push(format!("{rule}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &Value) -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"containers": [
            {"name": "c", "resources": resources},
        ]}})
    }

    #[test]
    fn containers_get_what_they_do_not_ask_for() {
        let range = json!({
            "type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "100m"},
        });
        let mut own = pod(&json!({"limits": {"cpu": "2"}}));
        fill(&mut own, &[&range]);
        let resources = &own["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"cpu": "2", "memory": "1Gi"}));
        assert_eq!(resources["requests"], json!({"cpu": "100m"}));
        let words =
            "LimitRanger plugin set: cpu request for container c; memory limit for container c";
        assert_eq!(own["metadata"]["annotations"][ANNOTATION], words);
    }

    #[test]
    fn pods_outside_of_a_range_are_told_why() {
        let range = json!({
            "type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "1", "memory": "1Gi"},
            "maxLimitRequestRatio": {"cpu": "2"},
        });
        let resources = json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "2"}});
        let wrong = check(&pod(&resources), &range);
        assert_eq!(
            wrong,
            [
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum cpu usage per Container is 1, but limit is 2",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 200.000000",
            ]
        );
        let good = json!({
            "requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"},
        });
        assert!(check(&pod(&good), &range).is_empty());
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let one = json!({"resources": {"requests": {"cpu": "400m"}, "limits": {"cpu": "400m"}}});
        let first = json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}});
        let pod = json!({"spec": {"containers": [one, one], "initContainers": [first]}});
        assert_eq!(sum(&pod, "limits")["cpu"], "2");
        let pod = json!({"spec": {"containers": [one, one]}});
        assert_eq!(sum(&pod, "limits")["cpu"], "800m");
        let range = json!({"type": "Pod", "max": {"cpu": "500m"}});
        assert_eq!(check(&pod, &range), ["maximum cpu usage per Pod is 500m, but limit is 800m"]);
    }
}
