//! Services, slices of endpoints and addresses.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Rules,
    field::{Field, Report},
    fill::{children, set_text},
    metadata, text,
};
use crate::{
    api::status::Cause,
    object::{self, map, set_default},
};

/// Rules of Services. Addresses and node ports are claimed where objects are written.
pub const SERVICE: Rules = Rules { default, validate, ..super::NONE };

/// Rules of slices of endpoints.
pub const SLICE: Rules = Rules { default: default_slice, validate: slice, ..super::NONE };

/// Rules of Endpoints.
pub const ENDPOINTS: Rules =
    Rules { default: default_endpoints, validate: endpoints, ..super::NONE };

/// Seconds that a client stays with an endpoint, unless the Service says otherwise.
const AFFINITY_S: i64 = 10_800;
const AFFINITY_S_MAX: i64 = 86_400;
const ENDPOINTS_MAX: usize = 1_000;
const PORTS_MAX: usize = 100;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn default(service: &mut Value) {
    let spec = map(service, &["spec"]);
    set_text(spec, "sessionAffinity", "None");
    if spec.get("sessionAffinity").and_then(Value::as_str) == Some("None") {
        spec.remove("sessionAffinityConfig");
    }
    set_text(spec, "type", "ClusterIP");
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if spec.get("sessionAffinity").and_then(Value::as_str) == Some("ClientIP") {
        let timeout = || json!({"clientIP": {"timeoutSeconds": AFFINITY_S}});
        set_default(spec, "sessionAffinityConfig", timeout);
    }
    for port in children(spec, "ports") {
        set_text(port, "protocol", "TCP");
        let own = port.get("port").cloned();
        let is_open = port.get("targetPort").is_none_or(|it| it == &json!(0) || it == &json!(""));
        if let Some(own) = own.filter(|_| is_open) {
            port.insert("targetPort".into(), own);
        }
    }
    let is_external = kind == "NodePort"
        || kind == "LoadBalancer"
        || (kind == "ClusterIP"
            && spec.get("externalIPs").and_then(Value::as_array).is_some_and(|it| !it.is_empty()));
    if is_external {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        set_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", || json!(true));
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::label_1035_name, &mut report);
    let spec = root.get("spec");
    let kind = spec.get("type");
    report.required_one_of(&kind, &TYPES);
    match kind.text() {
        "ExternalName" => external_name(&spec, &mut report),
        "LoadBalancer" if is_headless(&spec) => {
            let why = "may not be set to 'None' for LoadBalancer services";
            report.invalid_as(&spec.get("clusterIPs").item(0), &json!("None"), why);
        }
        "NodePort" if is_headless(&spec) => {
            let why = "may not be set to 'None' for NodePort services";
            report.invalid_as(&spec.get("clusterIPs").item(0), &json!("None"), why);
        }
        _ => {}
    }
    ports(&spec, &mut report);
    metadata::labels(&spec.get("selector"), &mut report);
    affinity(&spec, &mut report);
    outside(&spec, &mut report);
    policies(&spec, &mut report);
    if let Some(old) = old {
        address_stays(&spec, old, &mut report);
    }
    report.causes()
}

fn is_headless(spec: &Field<'_, '_>) -> bool {
    spec.text_at(&["clusterIP"]) == "None"
}

fn external_name(spec: &Field<'_, '_>, report: &mut Report) {
    let name = spec.get("externalName");
    if name.text().is_empty() {
        report.required(&name, "");
    } else {
        let plain = name.text().strip_suffix('.').unwrap_or_else(|| name.text());
        report.invalid_all(&name, &text::dns_subdomain(plain));
    }
    let address = spec.get("clusterIP");
    if !["", "None"].contains(&address.text()) {
        report.forbidden(&address, "may not be set when `type` is 'ExternalName'");
    }
}

fn ports(spec: &Field<'_, '_>, report: &mut Report) {
    let (ports, kind) = (spec.get("ports"), spec.text_at(&["type"]));
    if ports.list().is_empty() && !is_headless(spec) && kind != "ExternalName" {
        report.required(&ports, "");
    }
    if ports.list().len() > PORTS_MAX {
        report.too_many(&ports, ports.list().len(), PORTS_MAX);
    }
    let needs_names = ports.list().len() > 1;
    let (mut names, mut taken, mut on_nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        let name = port.get("name");
        if name.text().is_empty() {
            if needs_names {
                report.required(&name, "");
            }
        } else {
            report.invalid_all(&name, &text::dns_label(name.text()));
            if !names.insert(name.text()) {
                report.duplicate(&name);
            }
        }
        let number = port.get("port");
        report_number(&number, report);
        let protocol = port.get("protocol");
        report.required_one_of(&protocol, &PROTOCOLS);
        if !taken.insert((protocol.text(), number.number())) {
            let value = json!({"port": number.value(), "protocol": protocol.text()});
            report.duplicate_as(&port, &value);
        }
        let target = port.get("targetPort");
        match target.value() {
            Some(Value::String(name)) => report.invalid_all(&target, &text::port_name(name)),
            Some(_) => report_number(&target, report),
            None => {}
        }
        let node = port.get("nodePort");
        if let Some(number) = node.number().filter(|number| *number != 0) {
            if !["NodePort", "LoadBalancer"].contains(&kind) {
                report.forbidden(&node, &format!("may not be used when `type` is '{kind}'"));
            } else if !on_nodes.insert((protocol.text(), number)) {
                report.duplicate(&node);
            }
        }
    }
}

fn report_number(at: &Field<'_, '_>, report: &mut Report) {
    for why in text::port_number(at.number().unwrap_or(0)) {
        report.invalid_number(at, &why);
    }
}

fn affinity(spec: &Field<'_, '_>, report: &mut Report) {
    let affinity = spec.get("sessionAffinity");
    report.required_one_of(&affinity, &["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    let client = config.get("clientIP");
    let timeout = client.get("timeoutSeconds");
    if affinity.text() == "ClientIP"
        && timeout.number().is_some_and(|it| !(1..=AFFINITY_S_MAX).contains(&it))
    {
        let why = format!("must be greater than 0 and less than {AFFINITY_S_MAX}");
        report.invalid(&timeout, &why);
    }
    if affinity.text() == "None" && config.is_set() {
        let why = "must not be set when session affinity is None";
        report.forbidden(&config, why);
    }
}

fn outside(spec: &Field<'_, '_>, report: &mut Report) {
    let addresses = spec.get("externalIPs");
    for address in addresses.items() {
        let mut wrong = text::address(address.text());
        if wrong.is_empty() {
            wrong = text::reachable_address(address.text());
        }
        report.invalid_all(&address, &wrong);
    }
    let kind = spec.text_at(&["type"]);
    let ranges = spec.get("loadBalancerSourceRanges");
    if ranges.is_set() && !ranges.list().is_empty() && kind != "LoadBalancer" {
        report.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
    }
    for range in ranges.items() {
        report.invalid_all(&range, &text::network(range.text().trim()));
    }
    let class = spec.get("loadBalancerClass");
    if class.is_set() {
        if kind == "LoadBalancer" {
            report.invalid_all(&class, &text::label_key(class.text()));
        } else {
            report.forbidden(&class, "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

fn policies(spec: &Field<'_, '_>, report: &mut Report) {
    let known = ["Cluster", "Local"];
    let kind = spec.text_at(&["type"]);
    let external = spec.get("externalTrafficPolicy");
    if external.is_set() {
        let is_external = ["NodePort", "LoadBalancer"].contains(&kind)
            || !spec.get("externalIPs").list().is_empty();
        if is_external {
            report.one_of(&external, &known);
        } else {
            let why = "may only be set for externally-accessible services";
            report.invalid(&external, why);
        }
    }
    report.one_of(&spec.get("internalTrafficPolicy"), &known);
    let distribution = spec.get("trafficDistribution");
    let near = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    report.one_of(&distribution, &near);
    let check = spec.get("healthCheckNodePort");
    if check.number().is_some_and(|it| it != 0)
        && (kind != "LoadBalancer" || external.text() != "Local")
    {
        let why =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        report.invalid(&check, why);
    }
    let families = spec.get("ipFamilies");
    for family in families.items() {
        report.one_of(&family, &["IPv4", "IPv6"]);
    }
    let policy = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    report.one_of(&spec.get("ipFamilyPolicy"), &policy);
}

/// Who found a Service at an address finds it there for as long as it has one.
fn address_stays(spec: &Field<'_, '_>, old: &Value, report: &mut Report) {
    let before = object::text(old, &["spec", "clusterIP"]);
    let kinds = [spec.text_at(&["type"]), object::text(old, &["spec", "type"])];
    let address = spec.get("clusterIP");
    let is_given = !before.is_empty() && !address.text().is_empty();
    if is_given && address.text() != before && !kinds.contains(&"ExternalName") {
        let all = spec.get("clusterIPs");
        let value = json!([address.text()]);
        report.invalid_as(&all.item(0), &value, "may not change once set");
    }
}

fn default_slice(slice: &mut Value) {
    for port in children(map(slice, &[]), "ports") {
        set_text(port, "protocol", "TCP");
        set_default(port, "name", || json!(""));
    }
}

fn slice(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let kind = root.get("addressType");
    report.required_one_of(&kind, &["FQDN", "IPv4", "IPv6"]);
    if let Some(old) = old {
        report.immutable(&kind, old.get("addressType"));
    }
    let endpoints = root.get("endpoints");
    if endpoints.list().len() > ENDPOINTS_MAX {
        report.too_many(&endpoints, endpoints.list().len(), ENDPOINTS_MAX);
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.get("addresses");
        if addresses.list().is_empty() {
            report.required(&addresses, "must contain at least 1 address");
        }
        for address in addresses.items() {
            let wrong = match kind.text() {
                "FQDN" => text::domain_name(address.text()),
                family => {
                    let mut wrong = text::address(address.text());
                    if wrong.is_empty() && address.text().contains(':') != (family == "IPv6") {
                        wrong = vec![format!("must be an {family} address")];
                    }
                    if wrong.is_empty() {
                        wrong = text::reachable_address(address.text());
                    }
                    wrong
                }
            };
            report.invalid_all(&address, &wrong);
        }
    }
    let (ports, mut names) = (root.get("ports"), BTreeSet::new());
    for port in ports.items() {
        let name = port.get("name");
        if !name.text().is_empty() {
            report.invalid_all(&name, &text::dns_label(name.text()));
        }
        if !names.insert(name.text()) {
            report.duplicate(&name);
        }
        report.one_of(&port.get("protocol"), &PROTOCOLS);
    }
    report.causes()
}

fn default_endpoints(object: &mut Value) {
    for subset in children(map(object, &[]), "subsets") {
        for port in children(subset, "ports") {
            set_text(port, "protocol", "TCP");
        }
    }
}

fn endpoints(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let subsets = root.get("subsets");
    for subset in subsets.items() {
        for field in ["addresses", "notReadyAddresses"] {
            let addresses = subset.get(field);
            for address in addresses.items() {
                let ip = address.get("ip");
                let mut wrong = text::address(ip.text());
                if wrong.is_empty() {
                    wrong = text::reachable_address(ip.text());
                }
                report.invalid_all(&ip, &wrong);
            }
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            report_number(&port.get("port"), &mut report);
            report.one_of(&port.get("protocol"), &PROTOCOLS);
        }
    }
    report.causes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> Value {
        let mut service = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        (SERVICE.default)(&mut service);
        service
    }

    fn words(new: &Value, old: Option<&Value>) -> Vec<String> {
        let causes = (SERVICE.validate)(new, old);
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn defaults_are_those_of_upstream() {
        let service = service(&json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
        let spec = &service["spec"];
        assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
        assert_eq!(spec["externalTrafficPolicy"], "Cluster");
        assert_eq!(spec["internalTrafficPolicy"], "Cluster");
        assert_eq!(spec["allocateLoadBalancerNodePorts"], true);
        assert_eq!(words(&service, None), Vec::<String>::new());
    }

    #[test]
    fn each_rule_refuses_what_breaks_it() {
        let port = |port: Value| json!({"ports": [port]});
        let cases = [
            (json!({}), "spec.ports: Required value"),
            (
                port(json!({"port": 0, "targetPort": 1})),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                port(json!({"port": 80, "nodePort": 30_000})),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]}),
                "spec.ports[1].name: Required value",
            ),
            (
                json!({"ports": [{"port": 80}], "type": "Other"}),
                "spec.type: Unsupported value: \"Other\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ),
            (
                json!({"ports": [{"port": 80}], "trafficDistribution": "Far"}),
                "spec.trafficDistribution: Unsupported value: \"Far\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(words(&service(&spec), None), [expected], "{spec}");
        }
        assert_eq!(words(&service(&json!({"clusterIP": "None"})), None), Vec::<String>::new());
    }

    #[test]
    fn an_address_stays() {
        let old = service(&json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}));
        let mut new = old.clone();
        new["spec"]["clusterIP"] = json!("10.96.0.10");
        let expected =
            "spec.clusterIPs[0]: Invalid value: [\"10.96.0.10\"]: may not change once set";
        assert_eq!(words(&new, Some(&old)), [expected]);
    }
}
