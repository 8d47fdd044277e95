//! Reads an `EndpointSlice`.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{
    Reading, SERVICE_NAME_LABEL, is_not_ours, note, read_address, read_port, read_protocol,
};
use crate::model::{
    names::{Names, Shared},
    problem::{Cause, Report},
    slice::{Addresses, Condition, SlicePort, SliceSpec, ZoneHints},
    zones::{ZoneId, Zones},
};

/// What slices share with each other.
#[derive(Debug)]
pub(in crate::model) struct SliceWords {
    zones: Zones,
    ports: Shared<[SlicePort]>,
}

impl SliceWords {
    pub(in crate::model) fn new() -> Self {
        Self { zones: Zones::default(), ports: Shared::new() }
    }

    /// The number of a zone; none also for a zone beyond the limit.
    pub(in crate::model) fn zone(&mut self, name: Option<&str>) -> ZoneId {
        name.and_then(|name| self.zones.get(name)).unwrap_or(ZoneId::NONE)
    }
}

/// What the table keeps of a slice, and the name of its Service.
pub(in crate::model) fn read_slice<'object>(
    object: &'object EndpointSlice,
    node: &str,
    names: &mut Names,
    words: &mut SliceWords,
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
    let given = object.endpoints.as_deref().unwrap_or_default();
    let mut endpoints = Endpoints { node, words, report, hints: ZoneHints::default(), count: 0 };
    let addresses = match object.address_type.as_str() {
        "IPv4" => Addresses::V4(endpoints.read(given, "IPv4", |address| match address {
            IpAddr::V4(v4) => Some(v4.octets()),
            IpAddr::V6(_) => None,
        })),
        "IPv6" => Addresses::V6(endpoints.read(given, "IPv6", |address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6.octets()),
        })),
        other => {
            report.add("addressType", Cause::UnknownFamily(other.into()));
            return Reading::Unusable;
        }
    };
    let hints = endpoints.hints;
    let all_bad = |given: usize, read: usize| given > 0 && read == 0;
    let ports_given = object.ports.as_deref().unwrap_or_default();
    if all_bad(ports_given.len(), ports.len()) || all_bad(given.len(), addresses.iter().count()) {
        return Reading::Unusable;
    }
    let zone_hints = (!hints.0.is_empty()).then(|| Box::new(hints));
    Reading::Usable((service, SliceSpec { ports: words.ports.get(&ports), addresses, zone_hints }))
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

/// Reads endpoint by endpoint.
struct Endpoints<'a> {
    node: &'a str,
    words: &'a mut SliceWords,
    report: &'a mut Report,
    hints: ZoneHints,
    /// How many were read.
    count: u32,
}

impl Endpoints<'_> {
    fn read<A>(
        &mut self,
        given: &[Endpoint],
        family: &str,
        octets: fn(IpAddr) -> Option<A>,
    ) -> Box<[(A, Condition, ZoneId)]> {
        let one = |(index, from): (usize, &Endpoint)| {
            let path = || format!("endpoints[{index}].addresses");
            // The API says that consumers use no other address than the first.
            let first = from.addresses.first().ok_or(Cause::Empty);
            let first = first.and_then(|text| read_address(text));
            let address = note(self.report, path, first)?;
            let Some(address) = octets(address) else {
                let expected = family.into();
                self.report.add(path(), Cause::OtherFamily { address, expected });
                return None;
            };
            let zone = self.zone(from.zone.as_deref(), || format!("endpoints[{index}].zone"));
            let condition = self.condition(index, from, zone);
            self.count += 1;
            Some((address, condition, zone))
        };
        given.iter().enumerate().filter_map(one).collect()
    }

    /// What else than address and zone a slice says of an endpoint.
    fn condition(&mut self, index: usize, from: &Endpoint, zone: ZoneId) -> Condition {
        let said =
            |of: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
                from.conditions.as_ref().and_then(of)
            };
        let node = from.node_name.as_deref().filter(|name| !name.is_empty());
        let hints = from.hints.as_ref();
        let for_nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
        let for_zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        let path = || format!("endpoints[{index}].hints.forZones");
        let zones: Vec<ZoneId> =
            for_zones.iter().map(|hint| self.zone(Some(&hint.name), path)).collect();
        // Hints for nothing but the endpoint's own zone are the rule, and take no room.
        if zones.iter().any(|hinted| *hinted != zone) {
            self.hints.0.extend(zones.iter().map(|hinted| (self.count, *hinted)));
        }
        Condition::default()
            .with(Condition::READY, said(|said| said.ready).unwrap_or(true))
            .with(Condition::SERVING, said(|said| said.serving).unwrap_or(true))
            .with(Condition::TERMINATING, said(|said| said.terminating).unwrap_or(false))
            .with(Condition::ANY_NODE, node.is_some())
            .with(Condition::THIS_NODE, node == Some(self.node))
            .with(Condition::NODE_HINTS, !for_nodes.is_empty())
            .with(Condition::NODE_HINT_THIS, for_nodes.iter().any(|hint| hint.name == self.node))
            .with(Condition::ZONE_HINTS, !for_zones.is_empty())
    }

    fn zone(&mut self, name: Option<&str>, path: impl FnOnce() -> String) -> ZoneId {
        let known = self.words.zones.get(name.unwrap_or_default()).ok_or(Cause::TooManyZones);
        note(self.report, path, known).unwrap_or(ZoneId::NONE)
    }
}
