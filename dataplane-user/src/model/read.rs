//! The border: Kubernetes objects become what the table keeps, or problems.

mod pod;
mod policy;
mod service;
mod slice;

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(super) use self::{
    pod::read_pod,
    service::read_service,
    slice::{SliceWords, read_slice},
};
use super::{
    problem::{Cause, Report},
    types::Protocol,
};

/// Objects with this label are served by somebody else.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Objects with this label are not served by a proxy.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The label by which a slice names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What became of an object.
#[derive(Debug)]
pub(super) enum Reading<T> {
    /// Nothing of it concerns this table.
    Ignored,
    /// It is meant for the table, but nothing of it can be used.
    Unusable,
    /// What the table keeps of it.
    Usable(T),
}

fn is_not_ours(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.is_some_and(|labels| {
        labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL)
    })
}

fn read_port(value: i32) -> Result<u16, Cause> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(Cause::NotAPort(value)),
    }
}

fn read_protocol(value: Option<&str>) -> Result<Protocol, Cause> {
    match value {
        None | Some("TCP" | "") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Cause::UnknownProtocol(other.into())),
    }
}

/// Seconds since 1970; 0 when the object does not say.
fn created(meta: &ObjectMeta) -> u32 {
    let created = meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    u32::try_from(created).unwrap_or(0)
}

/// An address that one host can have in a cluster network.
fn read_address(value: &str) -> Result<IpAddr, Cause> {
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    };
    value
        .parse()
        .ok()
        .filter(|address: &IpAddr| {
            !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
        })
        .filter(usable)
        .ok_or_else(|| Cause::NotAnAddress(value.into()))
}

/// The value, or a problem with this field.
fn note<T>(
    report: &mut Report,
    field: impl FnOnce() -> String,
    result: Result<T, Cause>,
) -> Option<T> {
    result.map_err(|cause| report.add(field(), cause)).ok()
}
