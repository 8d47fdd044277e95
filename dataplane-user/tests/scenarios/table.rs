//! A service table as text.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use dataplane_user::model::{
    Family, FrontendAddress, FrontendKind, Placement, PortOwner, PortState, ServiceTable,
    TrafficPolicy, Views,
};

/// Service ports and their rules, frontends and endpoints; then problems.
pub(crate) fn tell(table: &ServiceTable) -> String {
    let mut text = String::new();
    for key in table.keys() {
        let state = table.port(&key).unwrap();
        let kind = match key.owner {
            PortOwner::Service => "Service",
            PortOwner::Pod => "Pod",
        };
        let family = match key.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let port = if key.port.is_empty() { String::new() } else { format!(" port {}", key.port) };
        writeln!(text, "{kind} {}/{}{port}, {family}", key.namespace, key.service).unwrap();
        for line in rules(&state) {
            writeln!(text, "  {line}").unwrap();
        }
        for frontend in &state.frontends {
            let kind = kind_name(frontend.kind);
            let address = address(frontend.address, frontend.port);
            writeln!(text, "  at {address}/{} ({kind})", frontend.protocol).unwrap();
        }
        for endpoint in &state.endpoints {
            let at = SocketAddr::new(endpoint.address, endpoint.port);
            let place = match endpoint.placement {
                Placement::Host => "this node itself",
                Placement::Local => "on this node",
                Placement::Remote => "elsewhere",
            };
            let views = match endpoint.views {
                Views::Cluster => "policy Cluster",
                Views::Both => "any policy",
                Views::Local => "policy Local",
            };
            writeln!(text, "  to {at} {place}, for {views}").unwrap();
        }
        if state.endpoints.is_empty() {
            text.push_str("  to nobody\n");
        }
    }
    if text.is_empty() {
        text.push_str("nothing\n");
    }
    for problem in table.problems() {
        writeln!(text, "problem: {problem}").unwrap();
    }
    text
}

/// What is not as it is by default.
fn rules(state: &PortState) -> Vec<String> {
    let policies =
        [("internalTrafficPolicy", state.internal), ("externalTrafficPolicy", state.external)];
    let local = policies.into_iter().filter(|(_, policy)| *policy == TrafficPolicy::Local);
    let mut rules: Vec<String> = local.map(|(name, _)| format!("{name} Local")).collect();
    if state.endpoints.is_empty() && state.any_endpoint {
        rules.push("other nodes have endpoints".to_owned());
    }
    if let Some(seconds) = state.affinity_s {
        rules.push(format!("clients stay with their endpoint for {seconds} s"));
    }
    if let Some(ranges) = &state.source_ranges {
        let ranges: Vec<String> =
            ranges.iter().map(|range| format!("{}/{}", range.address, range.prefix_len)).collect();
        let who = if ranges.is_empty() { "nobody".to_owned() } else { ranges.join(", ") };
        rules.push(format!("load balancer addresses are for {who}"));
    }
    rules
}

fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "cluster IP",
        FrontendKind::NodePort => "node port",
        FrontendKind::LoadBalancer => "load balancer",
        FrontendKind::ExternalIp => "external IP",
        FrontendKind::HostPort => "host port",
    }
}

fn address(address: FrontendAddress, port: u16) -> String {
    match address {
        FrontendAddress::Ip(ip) => SocketAddr::new(ip, port).to_string(),
        FrontendAddress::NodeAddresses => format!("every node address:{port}"),
    }
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub(crate) fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}
