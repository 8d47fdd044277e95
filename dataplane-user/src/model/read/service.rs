//! Reads a Service: addresses and ports.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec as Spec};

use super::{
    Reading, created, is_not_ours, note,
    policy::{read_distribution, read_policies, read_rare},
    read_address, read_port, read_protocol,
};
use crate::model::{
    names::Names,
    problem::{Cause, Report},
    spec::{PortSpec, ServiceSpec},
    types::Family,
};

/// `spec.type` of a Service that has addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceType {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// The addresses of a Service by family, and which families it has.
#[derive(Default)]
struct Clusters {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    families: [bool; 2],
}

pub(in crate::model) fn read_service(
    object: &Service,
    node_ports: &RangeInclusive<u16>,
    names: &mut Names,
    report: &mut Report,
) -> Reading<ServiceSpec> {
    let default = Spec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let headless = spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.iter().flatten().any(|address| address == "None");
    if is_not_ours(object.metadata.labels.as_ref()) || headless || kind == "ExternalName" {
        return Reading::Ignored;
    }
    let kind = match kind {
        "ClusterIP" | "" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        other => {
            report.add("spec.type", Cause::UnknownType(other.into()));
            return Reading::Unusable;
        }
    };
    let clusters = read_clusters(spec, report);
    let ports = read_ports(spec, kind, node_ports, names, report);
    if ports.is_empty() {
        report.add("spec.ports", Cause::NoPorts);
        return Reading::Unusable;
    }
    let rare = read_rare(object, spec, kind, clusters.families, report);
    let (internal, external) = read_policies(spec, kind, report);
    let spec = ServiceSpec {
        cluster4: clusters.v4,
        cluster6: clusters.v6,
        families: clusters.families,
        internal,
        external,
        distribution: read_distribution(object, spec, report),
        created: created(&object.metadata),
        ports: ports.into(),
        rare: rare.map(Box::new),
    };
    let has_frontends =
        |family| spec.ports.iter().any(|port| spec.frontends(port, family).next().is_some());
    // A load balancer may get its first address later.
    let waits = kind == ServiceType::LoadBalancer && spec.families != [false; 2];
    if !waits && !crate::model::spec::FAMILIES.into_iter().any(has_frontends) {
        report.add("spec.clusterIPs", Cause::NoAddress);
        return Reading::Unusable;
    }
    Reading::Usable(spec)
}

fn read_clusters(spec: &Spec, report: &mut Report) -> Clusters {
    let mut clusters = Clusters::default();
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        match family.as_str() {
            "IPv4" => clusters.families[Family::V4 as usize] = true,
            "IPv6" => clusters.families[Family::V6 as usize] = true,
            other => {
                let cause = Cause::UnknownFamily(other.into());
                report.add(format!("spec.ipFamilies[{index}]"), cause);
            }
        }
    }
    let many: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
    let one = if many.is_empty() { spec.cluster_ip.as_ref() } else { None };
    let listed = many.into_iter().enumerate().map(|(index, text)| (Some(index), text));
    let given = listed.chain(one.map(|text| (None, text))).filter(|(_, text)| !text.is_empty());
    let mut any = false;
    for (index, text) in given {
        any = true;
        let field = || match index {
            Some(index) => format!("spec.clusterIPs[{index}]"),
            None => "spec.clusterIP".into(),
        };
        let Some(address) = note(report, field, read_address(text)) else { continue };
        clusters.families[Family::of(address) as usize] = true;
        let taken = match address {
            IpAddr::V4(v4) => clusters.v4.replace(v4).map(|first| clusters.v4 = Some(first)),
            IpAddr::V6(v6) => clusters.v6.replace(v6).map(|first| clusters.v6 = Some(first)),
        };
        if taken.is_some() {
            report.add(field(), Cause::SecondAddress(address));
        }
    }
    // What Kubernetes does with a Service that asks for nothing: one family, IPv4.
    if !any && clusters.families == [false; 2] && spec.ip_families.is_none() {
        clusters.families[Family::V4 as usize] = true;
    }
    clusters
}

fn read_ports(
    spec: &Spec,
    kind: ServiceType,
    node_ports: &RangeInclusive<u16>,
    names: &mut Names,
    report: &mut Report,
) -> Vec<PortSpec> {
    let given = spec.ports.as_deref().unwrap_or_default();
    let mut ports: Vec<PortSpec> = Vec::with_capacity(given.len());
    for (index, from) in given.iter().enumerate() {
        let path = |field: &str| format!("spec.ports[{index}].{field}");
        let port = note(report, || path("port"), read_port(from.port));
        let protocol = note(report, || path("protocol"), read_protocol(from.protocol.as_deref()));
        let (Some(port), Some(protocol)) = (port, protocol) else { continue };
        let name = names.get(from.name.as_deref().unwrap_or_default());
        if ports.iter().any(|other| other.port == port && other.protocol == protocol) {
            report.add(path("port"), Cause::PortTwice { port, protocol });
            continue;
        }
        if ports.iter().any(|other| other.name == name) {
            report.add(path("name"), Cause::PortNameTwice(name));
            continue;
        }
        let read = read_node_port(from, kind, node_ports);
        let mut node_port = note(report, || path("nodePort"), read).unwrap_or(0);
        let same = |other: &PortSpec| other.node_port == node_port && other.protocol == protocol;
        if node_port != 0 && ports.iter().any(same) {
            report.add(path("nodePort"), Cause::PortTwice { port: node_port, protocol });
            node_port = 0;
        }
        ports.push(PortSpec { name, port, node_port, protocol });
    }
    ports
}

/// The node port, or 0 if there is none.
fn read_node_port(
    from: &ServicePort,
    kind: ServiceType,
    range: &RangeInclusive<u16>,
) -> Result<u16, Cause> {
    let Some(given) = from.node_port.filter(|port| *port != 0) else { return Ok(0) };
    if kind == ServiceType::ClusterIp {
        return Err(Cause::NoEffect("the type is ClusterIP"));
    }
    let port = read_port(given)?;
    if range.contains(&port) {
        Ok(port)
    } else {
        Err(Cause::NodePortOutOfRange { port, first: *range.start(), last: *range.end() })
    }
}
