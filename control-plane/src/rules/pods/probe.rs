//! How containers are asked whether they work, and what runs when they start and stop.

use serde_json::{Value, json};

use super::spec::Context;
use crate::rules::{
    field::{Field, Report},
    text,
};

/// A probe; which one, its name says.
pub(super) fn probe(probe: &Field<'_, '_>, report: &mut Report) {
    if !probe.is_set() {
        return;
    }
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], None, report);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        report.not_negative(&probe.get(field));
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.number().is_some_and(|seconds| seconds <= 0) {
        report.invalid(&grace, "must be greater than 0");
    }
    if probe.key() == "readinessProbe" {
        if grace.is_set() {
            report.invalid(&grace, "must not be set for readinessProbes");
        }
    } else if probe.get("successThreshold").number() != Some(1) {
        report.invalid_number(&probe.get("successThreshold"), "must be 1");
    }
}

/// What runs when a container has started, and before it stops.
pub(super) fn lifecycle(lifecycle: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    for field in ["postStart", "preStop"] {
        let hook = lifecycle.get(field);
        if hook.is_set() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], context.grace_s, report);
        }
    }
    let signal = lifecycle.get("stopSignal");
    if signal.is_set() && !signal.text().starts_with("SIG") {
        report.not_supported(&signal, &["SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM"]);
    }
}

/// Exactly one way to do it.
fn handler(at: &Field<'_, '_>, kinds: &[&str], grace_s: Option<i64>, report: &mut Report) {
    let mut has_one = false;
    for kind in kinds {
        let action = at.get(kind);
        if !action.is_set() {
            continue;
        }
        if has_one {
            report.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        has_one = true;
        match *kind {
            "exec" => {
                let command = action.get("command");
                if command.list().is_empty() {
                    report.required(&command, "");
                }
            }
            "httpGet" => http_get(&action, report),
            "sleep" => sleep(&action, grace_s, report),
            _ => port(&action.get("port"), report),
        }
    }
    if !has_one {
        report.required(at, "must specify a handler type");
    }
}

fn http_get(action: &Field<'_, '_>, report: &mut Report) {
    if action.text_at(&["path"]).is_empty() {
        report.required(&action.get("path"), "");
    }
    port(&action.get("port"), report);
    let scheme = action.get("scheme");
    if !["HTTP", "HTTPS"].contains(&scheme.text()) {
        report.not_supported(&scheme, &["HTTP", "HTTPS"]);
    }
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.text_at(&["name"]);
        for why in text::header_name(name) {
            report.invalid_as(&headers, &json!(name), &why);
        }
    }
}

fn sleep(action: &Field<'_, '_>, grace_s: Option<i64>, report: &mut Report) {
    let seconds = action.get("seconds").number().unwrap_or(0);
    if let Some(grace_s) = grace_s.filter(|grace_s| !(0..=*grace_s).contains(&seconds)) {
        let why =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_s})");
        report.invalid_as(action, &json!(seconds), &why);
    }
}

/// The number or the name of a port.
pub(in crate::rules) fn port(port: &Field<'_, '_>, report: &mut Report) {
    match port.value() {
        Some(Value::String(name)) => report.invalid_all(port, &text::port_name(name)),
        _ => {
            for why in text::port_number(port.number().unwrap_or(0)) {
                report.invalid_number(port, &why);
            }
        }
    }
}
