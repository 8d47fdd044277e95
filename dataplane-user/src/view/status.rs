//! What is attached, how full the maps are, what was counted.

use std::{collections::BTreeMap, fmt::Write as _};

use dataplane_common::{Hook, Reason, names, reason};

use super::{read, table::align};
use crate::ebpf::{
    attach::parse_pin_name,
    maps::{MapError, MapWriter},
    pin::{self, Pins},
};

/// One pinned program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ProgramRow {
    /// Name of the program.
    pub program: String,
    /// Name of the device, `#index` for one that is gone, `cgroup` for socket hooks.
    pub target: String,
    /// `tcx`, `driver` or `cgroup`.
    pub mode: String,
}

/// How full one map is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MapRow {
    /// Name of the map.
    pub map: String,
    /// Entries in use.
    pub used: u64,
    /// Entries it can hold.
    pub capacity: u32,
}

/// What one hook counted under one reason.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CounterRow {
    /// Name of the hook.
    pub hook: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// Packets, or calls of sockets.
    pub count: u64,
}

/// An instance as it stands in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Name of the instance.
    pub instance: String,
    /// Whether its daemon answers.
    pub daemon: bool,
    /// Pinned programs.
    pub programs: Vec<ProgramRow>,
    /// How full the maps are.
    pub maps: Vec<MapRow>,
    /// What was counted; zeros are left out.
    pub counters: Vec<CounterRow>,
    /// What the daemon says of itself, if it answers.
    pub report: Option<serde_json::Value>,
}

/// Every program of `pins`, by name.
pub fn programs(pins: &Pins) -> Result<Vec<ProgramRow>, pin::Error> {
    let interfaces = interfaces();
    let rows = pins.link_names()?.into_iter().filter_map(|name| {
        let (place, mode) = parse_pin_name(&name)?;
        let target = match place.ifindex {
            None => "cgroup".to_owned(),
            Some(index) => interfaces.get(&index).cloned().unwrap_or_else(|| format!("#{index}")),
        };
        Some(ProgramRow { program: place.program.to_owned(), target, mode: mode.name().to_owned() })
    });
    Ok(rows.collect())
}

/// Names of this network namespace's devices by index.
fn interfaces() -> BTreeMap<u32, String> {
    let Ok(found) = nix::net::if_::if_nameindex() else { return BTreeMap::new() };
    let name = |interface: &nix::net::if_::Interface| {
        (interface.index(), interface.name().to_string_lossy().into_owned())
    };
    found.iter().map(name).collect()
}

/// How full the maps are.
pub fn maps(maps: &mut impl MapWriter) -> Result<Vec<MapRow>, MapError> {
    let fill = read::fill(maps)?;
    let row = |(map, (used, capacity)): (&str, _)| MapRow { map: map.to_owned(), used, capacity };
    Ok(fill.into_iter().map(row).collect())
}

/// Counters by hook and reason that are not zero. `cell` reads the sum over all processors.
pub fn counters<E>(mut cell: impl FnMut(u32) -> Result<u64, E>) -> Result<Vec<CounterRow>, E> {
    let mut rows = Vec::new();
    for hook in Hook::ALL {
        for reason in Reason::ALL {
            let count = cell(reason::counter(hook, *reason))?;
            if count != 0 {
                rows.push(CounterRow { hook: hook.name(), reason: reason.name(), count });
            }
        }
    }
    Ok(rows)
}

/// The counters of `pins`.
pub fn live_counters(pins: &Pins) -> Result<Vec<CounterRow>, MapError> {
    let failed = |source| MapError::Open { map: names::COUNTERS, source };
    let data = aya::maps::MapData::from_pin(pins.map(names::COUNTERS)).map_err(failed)?;
    let map = aya::maps::Map::PerCpuArray(data);
    let array: aya::maps::PerCpuArray<_, u64> = map.try_into().map_err(failed)?;
    counters(|index| Ok(array.get(&index, 0).map_err(failed)?.iter().sum()))
}

impl Status {
    /// Tables for people.
    pub fn to_text(&self) -> String {
        let daemon = if self.daemon { "running" } else { "not running" };
        let mut text = format!("instance {}, daemon {daemon}\n", self.instance);
        if let Some(report) = &self.report {
            text.push_str(&report_text(report));
            text.push_str(&limits_text(&report["limits"]));
        }
        if self.programs.is_empty() && self.maps.is_empty() {
            return text;
        }
        let rows: Vec<_> = self
            .programs
            .iter()
            .map(|row| [row.program.clone(), row.target.clone(), row.mode.clone()])
            .collect();
        text.push('\n');
        text.push_str(&align(&["PROGRAM", "WHERE", "MODE"], &rows));
        let rows: Vec<_> = self
            .maps
            .iter()
            .map(|row| {
                #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
                let percent = 100.0 * row.used as f64 / f64::from(row.capacity.max(1));
                [
                    row.map.clone(),
                    row.used.to_string(),
                    row.capacity.to_string(),
                    format!("{percent:.1}%"),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&align(&["MAP", "USED", "CAPACITY", "FILL"], &rows));
        let rows: Vec<_> = self
            .counters
            .iter()
            .map(|row| [row.hook.to_owned(), row.reason.to_owned(), row.count.to_string()])
            .collect();
        text.push('\n');
        text.push_str(&align(&["HOOK", "REASON", "COUNT"], &rows));
        text
    }
}

fn report_text(report: &serde_json::Value) -> String {
    let mut text = String::new();
    let keys = [
        "mode",
        "source",
        "source_connected",
        "in_sync",
        "pending",
        "problems",
        "left_out",
        "drifted",
        "limited",
        "last_error",
        "node_leaves",
        "health_check_listeners",
        "health_check_failures",
    ];
    for key in keys {
        if let Some(value) = report.get(key) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _infallible = writeln!(text, "{}: {value}", key.replace('_', " "));
        }
    }
    text
}

/// Services with less than they ask for, and what is missing.
fn limits_text(limits: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let rows: Vec<[String; 2]> = limits
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|row| {
            let missing = row["missing"].as_array().map_or(&[] as &[_], Vec::as_slice);
            missing.iter().map(move |what| [text(&row["service"]), text(what)])
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        format!("\n{}", align(&["SERVICE", "MISSING"], &rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_zero_are_left_out() {
        let wanted = reason::counter(Hook::NicXdp, Reason::Established);
        let rows = counters::<()>(|index| Ok(if index == wanted { 5 } else { 0 })).unwrap();
        let expected = CounterRow { hook: "nic_xdp", reason: "established", count: 5 };
        assert_eq!(rows, [expected]);
    }

    #[test]
    fn a_status_reads_well() {
        let status = Status {
            instance: "default".into(),
            daemon: true,
            programs: vec![ProgramRow {
                program: "nic_xdp".into(),
                target: "eth0".into(),
                mode: "driver".into(),
            }],
            maps: vec![MapRow { map: "FLOWS4".into(), used: 2, capacity: 1000 }],
            counters: Vec::new(),
            report: Some(serde_json::json!({
                "source": "manifests", "in_sync": true,
                "limits": [{"service": "shop/web", "missing": ["this", "that"]}],
            })),
        };
        let expected = "instance default, daemon running\nsource: manifests\nin sync: true\n\n\
                        SERVICE   MISSING\nshop/web  this\nshop/web  that\n\n\
                        PROGRAM  WHERE  MODE\nnic_xdp  eth0   driver\n\n\
                        MAP     USED  CAPACITY  FILL\nFLOWS4  2     1000      0.2%\n\n\
                        HOOK  REASON  COUNT\n";
        assert_eq!(status.to_text(), expected);
    }
}
