//! Reads a Pod: its host ports, which CNI plug-ins serve where there is no other way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec as Spec, PodStatus};

use super::{Reading, created, note, read_address, read_port, read_protocol};
use crate::model::{
    names::Names,
    problem::{Cause, Report},
    spec::{HostPort, PodSpec},
};

/// What the table keeps of a Pod: nothing unless it runs on this node with a network of its own.
pub(in crate::model) fn read_pod(
    object: &Pod,
    node: &str,
    names: &mut Names,
    report: &mut Report,
) -> Reading<PodSpec> {
    let (Some(spec), Some(status)) = (&object.spec, &object.status) else {
        return Reading::Ignored;
    };
    let is_here = spec.node_name.as_deref() == Some(node);
    let runs = status.phase.as_deref() == Some("Running");
    if !is_here || !runs || spec.host_network == Some(true) {
        return Reading::Ignored;
    }
    let given = ports(spec).filter(|(_, port)| port.host_port.is_some_and(|port| port != 0));
    let mut ports: Vec<HostPort> = Vec::new();
    for (path, from) in given {
        let Some(port) = read_host_port(&path, from, names, report) else { continue };
        let (number, protocol) = (port.port, port.protocol);
        let same = |other: &HostPort| other.overlaps(&port);
        if ports.iter().any(same) {
            report.add(format!("{path}.hostPort"), Cause::PortTwice { port: number, protocol });
        } else if ports.iter().any(|other| other.name == port.name) {
            report.add(format!("{path}.name"), Cause::PortNameTwice(port.name));
        } else {
            ports.push(port);
        }
    }
    if ports.is_empty() {
        return if report.problems.is_empty() { Reading::Ignored } else { Reading::Unusable };
    }
    let (address4, address6) = read_addresses(status, report);
    if address4.is_none() && address6.is_none() {
        return if report.problems.is_empty() { Reading::Ignored } else { Reading::Unusable };
    }
    let created = created(&object.metadata);
    Reading::Usable(PodSpec { address4, address6, created, ports: ports.into() })
}

/// The ports of every container that runs as long as the Pod does, and where they stand.
fn ports(spec: &Spec) -> impl Iterator<Item = (String, &ContainerPort)> {
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().enumerate();
    let sidecars = sidecars.filter(move |(_, container)| stays(container));
    let containers = spec.containers.iter().enumerate();
    containers
        .map(|(at, container)| (format!("spec.containers[{at}]"), container))
        .chain(sidecars.map(|(at, container)| (format!("spec.initContainers[{at}]"), container)))
        .flat_map(|(path, container)| {
            let ports = container.ports.iter().flatten().enumerate();
            ports.map(move |(at, port)| (format!("{path}.ports[{at}]"), port))
        })
}

fn read_host_port(
    path: &str,
    from: &ContainerPort,
    names: &mut Names,
    report: &mut Report,
) -> Option<HostPort> {
    let at = |field: &str| format!("{path}.{field}");
    let host_port = note(report, || at("hostPort"), read_port(from.host_port?));
    let container_port = note(report, || at("containerPort"), read_port(from.container_port));
    let protocol = note(report, || at("protocol"), read_protocol(from.protocol.as_deref()));
    let host_ip = match from.host_ip.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(note(report, || at("hostIP"), read_host_ip(text))?),
    };
    let (host_port, container_port, protocol) = (host_port?, container_port?, protocol?);
    // A name with a slash is none that a port can have, so these collide with no other.
    let name = match (from.name.as_deref().filter(|name| !name.is_empty()), host_ip) {
        (Some(name), _) => names.get(name),
        (None, None) => names.get(&format!("{host_port}/{protocol}")),
        (None, Some(address)) => names.get(&format!("{address}:{host_port}/{protocol}")),
    };
    Some(HostPort { name, ip: host_ip, port: host_port, container_port, protocol })
}

/// An address of a node: unspecified and loopback addresses are allowed.
fn read_host_ip(text: &str) -> Result<IpAddr, Cause> {
    match text.parse() {
        Ok(address @ IpAddr::V4(v4)) if v4.is_unspecified() || v4.is_loopback() => Ok(address),
        Ok(address @ IpAddr::V6(v6)) if v6.is_unspecified() || v6.is_loopback() => Ok(address),
        Ok(_) | Err(_) => read_address(text),
    }
}

/// The addresses of a Pod, the first of each family.
fn read_addresses(status: &PodStatus, report: &mut Report) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let listed = status.pod_ips.iter().flatten().enumerate();
    let listed = listed.map(|(at, from)| (format!("status.podIPs[{at}].ip"), from.ip.as_str()));
    let one = status.pod_ip.as_deref().map(|text| ("status.podIP".to_owned(), text));
    let is_listed = status.pod_ips.iter().flatten().next().is_some();
    let (mut v4, mut v6) = (None, None);
    for (field, text) in listed.chain(one.filter(|_| !is_listed)) {
        match note(report, || field, read_address(text)) {
            Some(IpAddr::V4(address)) => v4 = v4.or(Some(address)),
            Some(IpAddr::V6(address)) => v6 = v6.or(Some(address)),
            None => {}
        }
    }
    (v4, v6)
}
