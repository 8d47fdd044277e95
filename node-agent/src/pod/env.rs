//! Environment and command of a container.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector, Service,
};

use crate::{
    configs::{Configs, Key, Kind},
    quantity::{limit, request},
};

/// What of the node containers may ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Name of the node.
    pub(crate) node: String,
    /// Its addresses.
    pub(crate) host: Vec<IpAddr>,
    /// Thousandths of CPUs that its pods may have.
    pub(crate) cpu: i64,
    /// Bytes that its pods may have.
    pub(crate) memory: i64,
}

/// The value of a field, as the downward API gives it.
pub(crate) fn field(
    pod: &Pod,
    selector: &ObjectFieldSelector,
    place: &Place,
    addresses: &[IpAddr],
) -> Option<String> {
    let list = |all: &[IpAddr]| all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |all: &[IpAddr]| all.first().map(IpAddr::to_string).unwrap_or_default();
    let path = selector.field_path.as_str();
    let meta = &pod.metadata;
    let map = |map: Option<&BTreeMap<String, String>>| {
        let lines = map.into_iter().flatten().map(|(name, value)| format!("{name}={value:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let at = |map: Option<&BTreeMap<String, String>>, key: &str| {
        map.and_then(|it| it.get(key)).cloned().unwrap_or_default()
    };
    let key = |name: &str| path.strip_prefix(name)?.strip_prefix("['")?.strip_suffix("']");
    Some(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => map(meta.labels.as_ref()),
        "metadata.annotations" => map(meta.annotations.as_ref()),
        "spec.nodeName" => place.node.clone(),
        "spec.serviceAccountName" => {
            pod.spec.as_ref().and_then(|it| it.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => first(&place.host),
        "status.hostIPs" => list(&place.host),
        "status.podIP" => first(addresses),
        "status.podIPs" => list(addresses),
        _ => match (key("metadata.labels"), key("metadata.annotations")) {
            (Some(key), _) => at(meta.labels.as_ref(), key),
            (_, Some(key)) => at(meta.annotations.as_ref(), key),
            _ => return None,
        },
    })
}

/// The value of a resource of a container of the pod, rounded up to its divisor.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    place: &Place,
) -> Option<String> {
    let named = selector.container_name.as_deref().filter(|it| !it.is_empty());
    let container = match named {
        Some(name) => crate::configs::containers(pod).find(|it| it.name == name)?,
        None => own?,
    };
    let (side, name) = selector.resource.split_once('.')?;
    let milli = match side {
        "limits" => limit(container, name).or(match name {
            "cpu" => Some(place.cpu),
            "memory" => Some(place.memory * 1000),
            _ => None,
        }),
        _ => request(container, name),
    };
    let divisor = selector.divisor.as_ref().map_or(0, crate::quantity::milli);
    let divisor = if divisor > 0 { divisor } else { 1000 };
    Some((milli.unwrap_or(0) + divisor - 1).div_euclid(divisor).to_string())
}

/// The environment of a container, in order; otherwise why there is none.
pub(crate) async fn environment(
    pod: &Pod,
    container: &Container,
    configs: &Configs,
    services: &[Service],
    place: &Place,
    addresses: &[IpAddr],
) -> Result<Vec<(String, String)>, String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut set = |known: &mut BTreeMap<String, String>, name: String, value: String| {
        if known.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|it| it.enable_service_links).unwrap_or(true);
    for (name, value) in of_services(services, namespace, links) {
        set(&mut known, name, value);
    }
    let key = |kind, name: &str| Key { kind, namespace: namespace.into(), name: name.into() };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let map = from.config_map_ref.as_ref().map(|it| (Kind::ConfigMap, &it.name, it.optional));
        let secret = from.secret_ref.as_ref().map(|it| (Kind::Secret, &it.name, it.optional));
        let Some((kind, name, optional)) = map.or(secret) else { continue };
        let Some(content) = configs.get(&key(kind, name)).await else {
            if optional == Some(true) {
                continue;
            }
            return Err(format!("{} {name:?} not found", kind.word()));
        };
        for (name, value) in &content.data {
            let value = String::from_utf8_lossy(value).into_owned();
            set(&mut known, format!("{prefix}{name}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => expand(variable.value.as_deref().unwrap_or_default(), &known),
            Some(source) => {
                let asked = Asked { pod, container, configs, place, addresses, namespace };
                match asked.value(source).await? {
                    Some(value) => value,
                    None => continue,
                }
            }
        };
        set(&mut known, variable.name.clone(), value);
    }
    let pair = |name: String| known.get(&name).cloned().map(|value| (name, value));
    Ok(order.into_iter().filter_map(pair).collect())
}

struct Asked<'a> {
    pod: &'a Pod,
    container: &'a Container,
    configs: &'a Configs,
    place: &'a Place,
    addresses: &'a [IpAddr],
    namespace: &'a str,
}

impl Asked<'_> {
    async fn value(&self, source: &EnvVarSource) -> Result<Option<String>, String> {
        if let Some(selector) = &source.field_ref {
            let value = field(self.pod, selector, self.place, self.addresses);
            return value
                .map(Some)
                .ok_or_else(|| format!("there is no field {}", selector.field_path));
        }
        if let Some(selector) = &source.resource_field_ref {
            return Ok(resource(self.pod, Some(self.container), selector, self.place));
        }
        let map = source.config_map_key_ref.as_ref();
        let map = map.map(|it| (Kind::ConfigMap, &it.name, &it.key, it.optional));
        let secret = source.secret_key_ref.as_ref();
        let secret = secret.map(|it| (Kind::Secret, &it.name, &it.key, it.optional));
        let Some((kind, name, key, optional)) = map.or(secret) else { return Ok(None) };
        let object = Key { kind, namespace: self.namespace.into(), name: name.clone() };
        let content = self.configs.get(&object).await;
        let is_optional = optional == Some(true);
        match content.as_ref().map(|it| it.data.get(key)) {
            Some(Some(value)) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            Some(None) | None if is_optional => Ok(None),
            Some(None) => {
                let place = self.namespace;
                Err(format!("couldn't find key {key} in {} {place}/{name}", kind.name()))
            }
            None => Err(format!("{} {name:?} not found", kind.word())),
        }
    }
}

/// Variables that name Services of the namespace, and always that of the API.
fn of_services(services: &[Service], namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut seen = BTreeSet::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let place = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_api = name == "kubernetes" && place == "default";
        if !(is_api || (links && place == namespace)) || !seen.insert(name) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(address) = spec.cluster_ip.as_deref().filter(|it| it.parse::<IpAddr>().is_ok())
        else {
            continue;
        };
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let word = name.to_uppercase().replace('-', "_");
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let mut add =
            |suffix: &str, value: String| variables.push((format!("{word}_{suffix}"), value));
        add("SERVICE_HOST", address.to_owned());
        add("SERVICE_PORT", first.port.to_string());
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|it| !it.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                add(&format!("SERVICE_PORT_{name}"), port.port.to_string());
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                add("PORT", url.clone());
            }
            let base = format!("PORT_{}_{protocol}", port.port);
            add(&base, url);
            add(&format!("{base}_PROTO"), protocol.to_lowercase());
            add(&format!("{base}_PORT"), port.port.to_string());
            add(&format!("{base}_ADDR"), address.to_owned());
        }
    }
    variables
}

/// Replaces `$(NAME)` by what is known; `$$` is one dollar, and unknown names stay.
pub(crate) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|it| it.split_once(')'));
        match name {
            Some((name, after)) => {
                if let Some(value) = known.get(name) {
                    out.push_str(value);
                } else {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_replaced_and_dollars_can_be_kept() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("x$(A)y$(B)z", "x1y$(B)z"),
            ("$(A", "$(A"),
            ("cost $5", "cost $5"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn services_are_named_as_upstream_does() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-db", "namespace": "a"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
        }))
        .expect("a service");
        let variables: BTreeMap<String, String> =
            of_services(std::slice::from_ref(&service), "a", true).into_iter().collect();
        assert_eq!(variables["MY_DB_SERVICE_HOST"], "10.96.0.7");
        assert_eq!(variables["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(variables["MY_DB_PORT_5432_TCP"], "tcp://10.96.0.7:5432");
        assert!(of_services(&[service], "b", true).is_empty());
    }

    #[test]
    fn fields_and_resources_of_the_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}]},
        }))
        .expect("a pod");
        let place = Place { memory: 1 << 20, ..Place::default() };
        let field = |path: &str| {
            let selector = ObjectFieldSelector { field_path: path.into(), ..Default::default() };
            field(&pod, &selector, &place, &["10.0.0.1".parse().expect("an address")])
        };
        assert_eq!(field("metadata.labels['app']").as_deref(), Some("x"));
        assert_eq!(field("metadata.labels").as_deref(), Some("app=\"x\""));
        assert_eq!(field("status.podIP").as_deref(), Some("10.0.0.1"));
        assert_eq!(field("spec.never"), None);
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let resource = |name: &str| {
            let selector = ResourceFieldSelector { resource: name.into(), ..Default::default() };
            resource(&pod, Some(container), &selector, &place)
        };
        assert_eq!(resource("limits.cpu").as_deref(), Some("2"));
        assert_eq!(resource("limits.memory").as_deref(), Some("1048576"));
    }
}
