//! Reads an `EndpointSlice`.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{
    Reading, SERVICE_NAME_LABEL, is_not_ours, note, read_address, read_port, read_protocol,
};
use crate::model::{
    names::Names,
    problem::{Cause, Report},
    spec::{Addresses, Condition, SlicePort, SliceSpec},
};

/// What the table keeps of a slice, and the name of its Service.
pub(in crate::model) fn read_slice<'object>(
    object: &'object EndpointSlice,
    node: &str,
    names: &mut Names,
    report: &mut Report,
) -> Reading<(&'object str, SliceSpec)> {
    let labels = object.metadata.labels.as_ref();
    if is_not_ours(labels) || object.address_type == "FQDN" {
        return Reading::Ignored;
    }
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL));
    let Some(service) = service.filter(|name| !name.is_empty()) else {
        report.add(format!("metadata.labels[{SERVICE_NAME_LABEL}]"), Cause::NoServiceLabel);
        return Reading::Unusable;
    };
    let ports = read_ports(object, names, report);
    let endpoints = object.endpoints.as_deref().unwrap_or_default();
    let given = endpoints.iter().enumerate();
    let addresses = match object.address_type.as_str() {
        "IPv4" => Addresses::V4(
            given.filter_map(|(index, from)| read_v4(index, from, node, report)).collect(),
        ),
        "IPv6" => Addresses::V6(
            given.filter_map(|(index, from)| read_v6(index, from, node, report)).collect(),
        ),
        other => {
            report.add("addressType", Cause::UnknownFamily(other.into()));
            return Reading::Unusable;
        }
    };
    let ports_given = object.ports.as_deref().unwrap_or_default();
    let all_bad = |given: usize, read: usize| given > 0 && read == 0;
    if all_bad(ports_given.len(), ports.len()) || all_bad(endpoints.len(), addresses.iter().count())
    {
        return Reading::Unusable;
    }
    Reading::Usable((service, SliceSpec { ports: ports.into(), addresses }))
}

fn read_ports(object: &EndpointSlice, names: &mut Names, report: &mut Report) -> Vec<SlicePort> {
    let given = object.ports.as_deref().unwrap_or_default();
    let mut ports: Vec<SlicePort> = Vec::with_capacity(given.len());
    for (index, from) in given.iter().enumerate() {
        let path = |field: &str| format!("ports[{index}].{field}");
        let number = from.port.ok_or(Cause::PortMissing).and_then(read_port);
        let port = note(report, || path("port"), number);
        let protocol = note(report, || path("protocol"), read_protocol(from.protocol.as_deref()));
        let (Some(port), Some(protocol)) = (port, protocol) else { continue };
        let name: Arc<str> = names.get(from.name.as_deref().unwrap_or_default());
        if ports.iter().any(|other| other.name == name) {
            report.add(path("name"), Cause::PortNameTwice(name));
            continue;
        }
        ports.push(SlicePort { name, port, protocol });
    }
    ports
}

fn read_v4(
    index: usize,
    from: &Endpoint,
    node: &str,
    report: &mut Report,
) -> Option<([u8; 4], Condition)> {
    match read_first(index, from, report)? {
        IpAddr::V4(v4) => Some((v4.octets(), condition(from, node))),
        address @ IpAddr::V6(_) => {
            other_family(index, address, "IPv4", report);
            None
        }
    }
}

fn read_v6(
    index: usize,
    from: &Endpoint,
    node: &str,
    report: &mut Report,
) -> Option<([u8; 16], Condition)> {
    match read_first(index, from, report)? {
        IpAddr::V6(v6) => Some((v6.octets(), condition(from, node))),
        address @ IpAddr::V4(_) => {
            other_family(index, address, "IPv6", report);
            None
        }
    }
}

/// The first address: the API says that consumers use no other.
fn read_first(index: usize, from: &Endpoint, report: &mut Report) -> Option<IpAddr> {
    let path = || format!("endpoints[{index}].addresses");
    let first = from.addresses.first().ok_or(Cause::Empty);
    note(report, path, first.and_then(|text| read_address(text)))
}

fn other_family(index: usize, address: IpAddr, expected: &str, report: &mut Report) {
    let cause = Cause::OtherFamily { address, expected: expected.into() };
    report.add(format!("endpoints[{index}].addresses"), cause);
}

fn condition(from: &Endpoint, node: &str) -> Condition {
    let conditions = from.conditions.as_ref();
    let ready = conditions.and_then(|given| given.ready).unwrap_or(true);
    let terminating = conditions.and_then(|given| given.terminating).unwrap_or(false);
    Condition::new(ready, terminating, from.node_name.as_deref() == Some(node))
}
