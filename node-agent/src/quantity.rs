//! Quantities of resources, in thousandths.

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity,
};

/// A quantity in thousandths, rounded up: `100m` is 100, `1Ki` is 1,024,000. What does not parse is 0:
/// the API server has refused it already.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    parse(&quantity.0).unwrap_or(0)
}

/// A whole quantity; nothing if it does not parse.
pub(crate) fn whole(text: &str) -> Option<u64> {
    u64::try_from(parse(text)? / 1000).ok()
}

/// Bytes as quantities write them: `100Mi`; what is no whole number of kibibytes is written out.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = UNITS.into_iter().find(|(bits, _)| number > 0 && number.trailing_zeros() >= *bits);
    match unit {
        Some((bits, name)) => format!("{}{name}", number >> bits),
        None => number.to_string(),
    }
}

fn parse(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'));
    let (number, suffix) = text.split_at(digits.unwrap_or(text.len()));
    let number: f64 = number.parse().ok()?;
    let scale = match suffix {
        "" => 1.0,
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
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10_f64.powi(power)
        }
    };
    let milli = (number * scale * 1000.0).ceil();
    #[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
    Some(milli as i64)
}

/// What a container asks for, in thousandths.
pub(crate) fn request(container: &Container, resource: &str) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    let request = resources.requests.as_ref().and_then(|it| it.get(resource));
    request.or_else(|| resources.limits.as_ref()?.get(resource)).map(milli)
}

/// What a container may have at most, in thousandths.
pub(crate) fn limit(container: &Container, resource: &str) -> Option<i64> {
    container.resources.as_ref()?.limits.as_ref()?.get(resource).map(milli)
}

/// What a pod needs: the sum of its containers and sidecars, or what one init container needs with the
/// sidecars before it, whichever is more.
pub(crate) fn pod_request(pod: &Pod, resource: &str) -> i64 {
    pod_sum(pod, |container| request(container, resource).unwrap_or(0))
}

/// What a pod may have at most, if all its containers have limits.
pub(crate) fn pod_limit(pod: &Pod, resource: &str) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let has_limits = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .all(|it| limit(it, resource).is_some_and(|it| it > 0));
    has_limits.then(|| pod_sum(pod, |container| limit(container, resource).unwrap_or(0)))
}

fn pod_sum(pod: &Pod, of: impl Fn(&Container) -> i64) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars += of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    let mains: i64 = spec.containers.iter().map(of).sum();
    peak.max(mains + sidecars)
}

/// Whether an init container runs beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths() {
        for (text, expected) in [
            ("1", 1_000),
            ("100m", 100),
            ("1.5", 1_500),
            ("1Ki", 1_024_000),
            ("2e3", 2_000_000),
            ("0", 0),
            ("1n", 1),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        assert_eq!(parse("1x"), None);
    }

    #[test]
    fn a_pod_needs_its_sum_or_its_hungriest_beginning() {
        let container = |name: &str, cpu: &str, policy: Option<&str>| {
            json!({
                "name": name, "restartPolicy": policy,
                "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}},
            })
        };
        let pod = json!({"metadata": {}, "spec": {
            "initContainers": [
                container("first", "3", None), container("side", "1", Some("Always")),
                container("last", "2500m", None),
            ],
            "containers": [container("a", "1", None), container("b", "500m", None)],
        }});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        assert_eq!(pod_request(&pod, "cpu"), 3_500);
        assert_eq!(pod_limit(&pod, "cpu"), Some(3_500));
        assert_eq!(pod_limit(&pod, "memory"), None);
    }
}
