//! Services and what belongs to them.

use serde_json::{Value, json};

use super::{AGE, Columns, NAME, NONE, age_of, column, labels, or_none, wide};
use crate::object::{self, at, list, number, text};

/// Endpoints that are named; the others are counted.
const SHOWN_MAX: usize = 3;

/// Columns of Services.
pub const SERVICE: Columns = Columns {
    definitions: &[
        NAME,
        column("Type", "string", "How it is reached."),
        column("Cluster-IP", "string", "Its address in the cluster."),
        column("External-IP", "string", "Its addresses outside."),
        column("Port(s)", "string", "Its ports, and those of nodes behind colons."),
        AGE,
        wide("Selector", "string", "Which pods serve it."),
    ],
    row: |object, now| {
        let kind = text(object, &["spec", "type"]);
        let address = match text(object, &["spec", "clusterIP"]) {
            "" => text(object, &["spec", "clusterIPs", "0"]),
            address => address,
        };
        vec![
            json!(object::name(object)),
            json!(if kind.is_empty() { "ClusterIP" } else { kind }),
            json!(or_none(address)),
            json!(external(object)),
            json!(ports(object)),
            age_of(object, now),
            json!(labels(at(object, &["spec", "selector"]))),
        ]
    },
};

fn external(service: &Value) -> String {
    let mut all: Vec<&str> = Vec::new();
    match text(service, &["spec", "type"]) {
        "ExternalName" => return text(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            for ingress in list(service, &["status", "loadBalancer", "ingress"]) {
                let (ip, host) = (text(ingress, &["ip"]), text(ingress, &["hostname"]));
                all.push(if ip.is_empty() { host } else { ip });
            }
            all.extend(list(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str));
            if all.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => all.extend(list(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str)),
    }
    or_none(&all.join(",")).to_owned()
}

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let own = number(port, &["port"]).unwrap_or(0);
        let protocol = match text(port, &["protocol"]) {
            "" => "TCP",
            protocol => protocol,
        };
        match number(port, &["nodePort"]).unwrap_or(0) {
            0 => format!("{own}/{protocol}"),
            node => format!("{own}:{node}/{protocol}"),
        }
    };
    let all: Vec<String> = list(service, &["spec", "ports"]).iter().map(port).collect();
    or_none(&all.join(",")).to_owned()
}

/// The first few, and how many more there are.
fn few(all: &[String], nothing: &str) -> String {
    if all.is_empty() {
        return nothing.to_owned();
    }
    let shown = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(",");
    match all.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// Columns of Endpoints.
pub const ENDPOINTS: Columns = Columns {
    definitions: &[NAME, column("Endpoints", "string", "Addresses that serve."), AGE],
    row: |object, now| {
        let mut all = Vec::new();
        for subset in list(object, &["subsets"]) {
            let ports = list(subset, &["ports"]);
            for address in list(subset, &["addresses"]) {
                let ip = text(address, &["ip"]);
                if ports.is_empty() {
                    all.push(ip.to_owned());
                }
                for port in ports {
                    let port = number(port, &["port"]).unwrap_or(0);
                    let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
                    all.push(format!("{ip}:{port}"));
                }
            }
        }
        vec![json!(object::name(object)), json!(few(&all, NONE)), age_of(object, now)]
    },
};

/// Columns of slices of endpoints.
pub const SLICE: Columns = Columns {
    definitions: &[
        NAME,
        column("AddressType", "string", "Family of its addresses."),
        column("Ports", "string", "Ports of all its endpoints."),
        column("Endpoints", "string", "Addresses."),
        AGE,
    ],
    row: |object, now| {
        let port = |it: &Value| {
            number(it, &["port"]).map_or_else(|| "*".to_owned(), |port| port.to_string())
        };
        let ports: Vec<String> = list(object, &["ports"]).iter().map(port).collect();
        let endpoints = list(object, &["endpoints"]).iter();
        let addresses: Vec<String> = endpoints
            .flat_map(|it| list(it, &["addresses"]))
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect();
        vec![
            json!(object::name(object)),
            json!(text(object, &["addressType"])),
            json!(few(&ports, "<unset>")),
            json!(few(&addresses, "<unset>")),
            age_of(object, now),
        ]
    },
};

/// Columns of addresses of Services.
pub const ADDRESS: Columns = Columns {
    definitions: &[NAME, column("ParentRef", "string", "Who has it."), AGE],
    row: |object, now| {
        let of = |field: &str| text(object, &["spec", "parentRef", field]);
        let parts = [of("group"), of("resource"), of("namespace"), of("name")];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        vec![json!(object::name(object)), json!(parts.join("/")), age_of(object, now)]
    },
};

/// Columns of networks of Services.
pub const NETWORK: Columns = Columns {
    definitions: &[NAME, column("CIDRs", "string", "The networks."), AGE],
    row: |object, now| {
        let all: Vec<&str> =
            list(object, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
        vec![json!(object::name(object)), json!(all.join(",")), age_of(object, now)]
    },
};
