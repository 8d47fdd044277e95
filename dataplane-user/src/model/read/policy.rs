//! Reads a Service: who is served, by whom, and from outside by which addresses.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec as Spec};

use super::{note, read_address, read_port, service::ServiceType};
use crate::model::{
    problem::{Cause, Report},
    spec::{Distribution, RareSpec},
    types::{Cidr, Family, TrafficPolicy},
};

/// Source ranges of Services from before there was a field for them.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const SOURCE_RANGES_FIELD: &str =
    "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]";
/// With `Auto`, hints are up to another controller.
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// The older name of the same.
const TOPOLOGY_AWARE_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT_S: i32 = 10_800;
/// The longest that Kubernetes allows.
const AFFINITY_MAX_S: i32 = 86_400;

const NOT_A_LOAD_BALANCER: Cause = Cause::NoEffect("the type is not LoadBalancer");

/// `internalTrafficPolicy`, and `externalTrafficPolicy` where clients come from outside.
pub(super) fn read_policies(
    spec: &Spec,
    kind: ServiceType,
    report: &mut Report,
) -> (TrafficPolicy, TrafficPolicy) {
    let internal = read_policy(spec.internal_traffic_policy.as_deref());
    let internal = note(report, || "spec.internalTrafficPolicy".into(), internal);
    let field = || "spec.externalTrafficPolicy".into();
    let external = read_policy(spec.external_traffic_policy.as_deref());
    let mut external = note(report, field, external).unwrap_or_default();
    let is_external =
        kind != ServiceType::ClusterIp || spec.external_ips.iter().flatten().next().is_some();
    let is_given = spec.external_traffic_policy.as_deref().is_some_and(|text| !text.is_empty());
    if is_given && !is_external {
        let cause = Cause::NoEffect("the Service has no frontend for clients outside");
        report.add(field(), cause);
        external = TrafficPolicy::Cluster;
    }
    (internal.unwrap_or_default(), external)
}

fn read_policy(value: Option<&str>) -> Result<TrafficPolicy, Cause> {
    match value {
        None | Some("Cluster" | "") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(Cause::UnknownPolicy(other.into())),
    }
}

/// `spec.trafficDistribution`, for endpoints without hints.
pub(super) fn read_distribution(
    object: &Service,
    spec: &Spec,
    report: &mut Report,
) -> Distribution {
    let distribution = match spec.traffic_distribution.as_deref() {
        None | Some("") => Distribution::Anywhere,
        Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
        Some("PreferSameNode") => Distribution::SameNode,
        Some(other) => {
            report.add("spec.trafficDistribution", Cause::UnknownDistribution(other.into()));
            Distribution::Anywhere
        }
    };
    let mode =
        annotation(object, TOPOLOGY_AWARE_HINTS).or_else(|| annotation(object, TOPOLOGY_MODE));
    let is_left_to_another = matches!(mode, Some("Auto" | "auto"));
    if is_left_to_another { Distribution::Anywhere } else { distribution }
}

/// What few Services have; nothing for the others.
pub(super) fn read_rare(
    object: &Service,
    spec: &Spec,
    kind: ServiceType,
    families: [bool; 2],
    report: &mut Report,
) -> Option<RareSpec> {
    let mut rare = RareSpec::default();
    let is_load_balancer = kind == ServiceType::LoadBalancer;
    if is_load_balancer {
        rare.load_balancers = read_load_balancers(object, families, report);
    } else if spec.allocate_load_balancer_node_ports.is_some() {
        report.add("spec.allocateLoadBalancerNodePorts", NOT_A_LOAD_BALANCER);
    }
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        let field = || format!("spec.externalIPs[{index}]");
        let Some(address) = note(report, field, read_external(text, families)) else { continue };
        if !rare.external_ips.contains(&address) {
            rare.external_ips.push(address);
        }
    }
    rare.external_ips.retain(|address| !rare.load_balancers.contains(address));
    rare.source_ranges = read_source_ranges(object, spec, report).filter(|_| is_load_balancer);
    if let (false, Some(field)) = (is_load_balancer, source_ranges_field(object, spec)) {
        report.add(field, NOT_A_LOAD_BALANCER);
    }
    rare.affinity_s = read_affinity(spec, report);
    rare.health_port = read_health_port(spec, kind, report);
    (rare != RareSpec::default()).then_some(rare)
}

/// Addresses at which packets arrive as clients sent them: not those of a proxy.
fn read_load_balancers(object: &Service, families: [bool; 2], report: &mut Report) -> Vec<IpAddr> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, from) in ingress.iter().enumerate() {
        let path = |field: &str| format!("status.loadBalancer.ingress[{index}].{field}");
        let Some(text) = from.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        match from.ip_mode.as_deref() {
            None | Some("VIP" | "") => {}
            Some("Proxy") => continue,
            Some(other) => {
                report.add(path("ipMode"), Cause::UnknownIpMode(other.into()));
                continue;
            }
        }
        let Some(address) = note(report, || path("ip"), read_external(text, families)) else {
            continue;
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn read_external(text: &str, families: [bool; 2]) -> Result<IpAddr, Cause> {
    let address = read_address(text)?;
    let is_ours = families[Family::of(address) as usize];
    if is_ours { Ok(address) } else { Err(Cause::NotAFamilyOfIts(address)) }
}

/// Where the source ranges of a Service are, if it has any.
fn source_ranges_field(object: &Service, spec: &Spec) -> Option<&'static str> {
    if spec.load_balancer_source_ranges.iter().flatten().next().is_some() {
        return Some("spec.loadBalancerSourceRanges");
    }
    let given = annotation(object, SOURCE_RANGES)?;
    (!given.trim().is_empty()).then_some(SOURCE_RANGES_FIELD)
}

/// Whom load balancer frontends serve. Ranges that cannot be read admit nobody: a mistake must not
/// open a Service to everybody.
fn read_source_ranges(object: &Service, spec: &Spec, report: &mut Report) -> Option<Vec<Cidr>> {
    let field = source_ranges_field(object, spec)?;
    let listed: Vec<&str> =
        spec.load_balancer_source_ranges.iter().flatten().map(String::as_str).collect();
    let (given, is_list) = if listed.is_empty() {
        (annotation(object, SOURCE_RANGES)?.split(',').collect(), false)
    } else {
        (listed, true)
    };
    let mut ranges = Vec::with_capacity(given.len());
    for (index, text) in given.into_iter().enumerate() {
        let path = || if is_list { format!("{field}[{index}]") } else { field.to_owned() };
        let range = Cidr::parse(text).ok_or_else(|| Cause::NotARange(text.trim().into()));
        ranges.extend(note(report, path, range));
    }
    ranges.sort_unstable();
    ranges.dedup();
    Some(ranges)
}

fn read_affinity(spec: &Spec, report: &mut Report) -> Option<u32> {
    let config = spec.session_affinity_config.as_ref();
    match spec.session_affinity.as_deref() {
        None | Some("None" | "") => {
            if config.is_some() {
                let cause = Cause::NoEffect("the Service has no session affinity");
                report.add("spec.sessionAffinityConfig", cause);
            }
            return None;
        }
        Some("ClientIP") => {}
        Some(other) => {
            report.add("spec.sessionAffinity", Cause::UnknownAffinity(other.into()));
            return None;
        }
    }
    let given = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let timeout_s = given.unwrap_or(AFFINITY_DEFAULT_S);
    let usable =
        u32::try_from(timeout_s).ok().filter(|_| (1..=AFFINITY_MAX_S).contains(&timeout_s));
    let field = || "spec.sessionAffinityConfig.clientIP.timeoutSeconds".into();
    note(report, field, usable.ok_or(Cause::AffinityOutOfRange(timeout_s)))
}

fn read_health_port(spec: &Spec, kind: ServiceType, report: &mut Report) -> u16 {
    let Some(given) = spec.health_check_node_port.filter(|port| *port != 0) else { return 0 };
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let port = if kind == ServiceType::LoadBalancer && is_local {
        read_port(given)
    } else {
        Err(Cause::NoEffect("only a LoadBalancer with externalTrafficPolicy Local has it"))
    };
    note(report, || "spec.healthCheckNodePort".into(), port).unwrap_or(0)
}

fn annotation<'object>(object: &'object Service, name: &str) -> Option<&'object str> {
    object.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}
