//! Results for a terminal: a table per measure, differences beside the machine's noise.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    results::{Measure, Position, Results, Route},
    stats::{self, Row, Setting},
};

/// What a measure is called.
pub const fn title(measure: Measure) -> &'static str {
    match measure {
        Measure::ConnectLatency => "Connect latency",
        Measure::FirstDatagramLatency => "First datagram and its answer",
        Measure::ShortConnections => "Short connections",
        Measure::ConnectionCpu => "CPU time per short connection",
        Measure::Requests => "Requests on established connections",
        Measure::Throughput => "Throughput",
        Measure::Packets => "Packets forwarded through a node port",
        Measure::PacketCost => "Cost of a forwarded packet",
        Measure::ColdProgramming => "All services programmed from nothing",
        Measure::Change => "From an event to the first packet that follows it",
        Measure::DaemonMemory => "Memory of the daemon",
        Measure::KernelMemory => "Memory of the kernel",
        Measure::CpuLeft => "CPU left at a fixed load",
    }
}

/// A number of services as people write it.
pub fn size(services: u32) -> String {
    match services {
        0 => "as it is".into(),
        it if it >= 1_000 && it.is_multiple_of(1_000) => format!("{}k", it / 1_000),
        it => it.to_string(),
    }
}

/// A number with three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        it if it >= 1e6 => format!("{:.2}M", value / 1e6),
        it if it >= 1e4 => format!("{:.1}k", value / 1e3),
        it if it >= 100.0 => format!("{value:.0}"),
        it if it >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(super) const fn position(position: Position) -> &'static str {
    match position {
        Position::First => "first",
        Position::Middle => "middle",
        Position::Last => "last",
        Position::Random => "random",
        Position::All => "",
    }
}

/// Rows that belong into one table.
pub fn groups(rows: &[Row]) -> Vec<(Setting, Vec<&Row>)> {
    let mut groups: Vec<(Setting, Vec<&Row>)> = Vec::new();
    for row in rows {
        let same = |(of, _): &(Setting, Vec<&Row>)| {
            of.measure == row.0.measure
                && of.family == row.0.family
                && of.transport == row.0.transport
        };
        match groups.iter_mut().find(|group| same(group)) {
            Some((_, list)) => list.push(row),
            None => groups.push((row.0.clone(), vec![row])),
        }
    }
    for (_, list) in &mut groups {
        list.sort_by_key(|(of, _)| (of.services, of.position));
    }
    groups
}

/// The head of a group.
pub fn head(setting: &Setting) -> String {
    let what: Vec<&str> = [setting.family.as_str(), setting.transport.as_str()]
        .into_iter()
        .filter(|word| *word != "both" && !word.is_empty())
        .collect();
    let unit = setting.measure.unit();
    let better = if setting.measure.more_is_better() { "more" } else { "less" };
    format!("{} ({}), {unit}, {better} is better", title(setting.measure), what.join(", "))
}

/// Everything as text of this width at most.
pub fn text(results: &Results, width: usize) -> String {
    let rows = stats::rows(results);
    let mut text = String::new();
    for (setting, list) in groups(&rows) {
        let _: std::fmt::Result = writeln!(text, "{}", head(&setting));
        text.push_str(&one(&list, width));
        text.push('\n');
    }
    for missing in &results.missing {
        let size = missing.services.map(|it| format!(" with {} services", size(it)));
        let measure = missing.measure.map(|it| format!(", {}", title(it).to_lowercase()));
        let _: std::fmt::Result = writeln!(
            text,
            "not measured: {}{}{}: {}",
            missing.route.name(),
            size.unwrap_or_default(),
            measure.unwrap_or_default(),
            missing.why
        );
    }
    text
}

fn one(list: &[&Row], width: usize) -> String {
    let routes: BTreeSet<Route> = list
        .iter()
        .flat_map(|(_, routes)| routes.iter().map(|(route, _)| *route))
        .filter(|route| *route != Route::DirectAgain)
        .collect();
    let mut lines = vec![vec!["services".to_owned()]];
    if let Some(first) = lines.first_mut() {
        first.extend(routes.iter().map(|route| route.name().to_owned()));
        first.push("noise".into());
    }
    for (setting, cells) in list {
        let mut line = vec![format!("{} {}", size(setting.services), position(setting.position))];
        let direct = stats::of(cells, Route::Direct);
        for route in &routes {
            line.push(match stats::of(cells, *route) {
                None => "-".into(),
                Some(summary) => {
                    let change = direct
                        .filter(|_| *route != Route::Direct)
                        .and_then(|direct| stats::change(direct.median, summary.median));
                    let change = change.map(|it| format!(" {:+.0}%", it * 100.0));
                    format!("{}{}", number(summary.median), change.unwrap_or_default())
                }
            });
        }
        let noise = stats::noise(cells);
        line.push(noise.map_or_else(|| "-".into(), |it| format!("±{:.0}%", it * 100.0)));
        lines.push(line);
    }
    aligned(&lines, width)
}

fn aligned(lines: &[Vec<String>], width: usize) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let long = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| long(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let pad = width - cell.chars().count();
            if row.is_empty() {
                row = format!("  {cell}{}", " ".repeat(pad));
            } else {
                let _: std::fmt::Result = write!(row, "  {}{cell}", " ".repeat(pad));
            }
        }
        let cut: String = row.trim_end().chars().take(width.max(20)).collect();
        text.push_str(&cut);
        text.push('\n');
    }
    text
}
