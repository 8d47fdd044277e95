//! One page with everything: plots, tables, what is missing, how it was measured. It needs no network.

mod page;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    csv,
    plot::{Line, Plot},
    results::{Measure, Position, Results, Route},
    stats::{self, PERCENTILES, Row, Setting},
    table,
};

/// Writes `report.html`, `results.csv` and `plots/*.svg` into a folder; gives the page's path.
pub fn write(results: &Results, out: &Path) -> anyhow::Result<PathBuf> {
    let plots = plots(results);
    let put = |path: PathBuf, text: String| {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        anyhow::Ok(path)
    };
    let folder = out.join("plots");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for plot in &plots {
        put(folder.join(format!("{}.svg", plot.name)), plot.file())?;
    }
    put(out.join("results.csv"), csv::text(results))?;
    put(out.join("report.html"), page::html(results, &plots))
}

/// The position that stands for all: by chance, or in the middle.
fn typical(rows: &[&Row]) -> Position {
    let order =
        [Position::Random, Position::Middle, Position::Last, Position::First, Position::All];
    let sizes = |position: Position| rows.iter().filter(|(of, _)| of.position == position).count();
    order.into_iter().max_by_key(|position| sizes(*position)).unwrap_or(Position::All)
}

/// All plots, in the order of the page.
pub fn plots(results: &Results) -> Vec<Plot> {
    let rows = stats::rows(results);
    let mut plots = Vec::new();
    for (setting, list) in table::groups(&rows) {
        let sizes: BTreeSet<u32> = list.iter().map(|(of, _)| of.services).collect();
        if sizes.len() > 1 {
            let position = typical(&list);
            let list: Vec<&&Row> = list.iter().filter(|(of, _)| of.position == position).collect();
            let is_latency = matches!(
                setting.measure,
                Measure::ConnectLatency | Measure::FirstDatagramLatency | Measure::Change
            );
            plots.push(curve(&setting, &list, position, None));
            if is_latency {
                plots.push(curve(&setting, &list, position, Some(2)));
            }
        }
        if let Measure::ConnectLatency = setting.measure
            && let Some(largest) = sizes.last()
        {
            let at = list.iter().filter(|(of, _)| of.services == *largest);
            let typical = typical(&list);
            plots.extend(at.filter(|(of, _)| of.position == typical).map(|row| distribution(row)));
        }
    }
    plots
}

fn routes_of(list: &[&&Row]) -> BTreeSet<Route> {
    let routes = list.iter().flat_map(|(_, routes)| routes.iter().map(|(route, _)| *route));
    routes.filter(|route| *route != Route::DirectAgain).collect()
}

fn word(setting: &Setting) -> String {
    let measure = serde_json::to_value(setting.measure).unwrap_or_default();
    let words = [measure.as_str().unwrap_or_default(), &setting.family, &setting.transport];
    words.join("-")
}

/// Medians, or one of the percentiles, over the number of services.
fn curve(setting: &Setting, list: &[&&Row], position: Position, percentile: Option<usize>) -> Plot {
    let mut lines = Vec::new();
    for route in routes_of(list) {
        let mut points: Vec<(f64, f64, f64, f64)> = Vec::new();
        for (of, routes) in list {
            let Some(summary) = stats::of(routes, route) else { continue };
            let x = f64::from(of.services.max(1));
            let high = percentile.and_then(|at| summary.percentiles.get(at).copied());
            points.push(match high {
                Some(high) => (x, high, high, high),
                None => (x, summary.median, summary.low, summary.high),
            });
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        lines.push(Line { route, points });
    }
    let values = lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let (low, high) = values
        .filter(|it| *it > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(a, b), it| (a.min(it), b.max(it)));
    let sizes: BTreeSet<u32> = list.iter().map(|(of, _)| of.services).collect();
    let what = percentile.and_then(|at| PERCENTILES.get(at)).map(|it| format!(", p{it}"));
    let place = match position {
        Position::All => String::new(),
        Position::Random => ", any service".to_owned(),
        Position::First | Position::Middle | Position::Last => {
            format!(", the {} service", table::position(position))
        }
    };
    let title = format!(
        "{}{} ({} {}{place})",
        table::title(setting.measure),
        what.clone().unwrap_or_default(),
        setting.family,
        setting.transport
    );
    Plot {
        name: format!(
            "{}{}",
            word(setting),
            what.map(|it| it.replace(", ", "-")).unwrap_or_default()
        ),
        title,
        unit: setting.measure.unit().to_owned(),
        ticks: sizes.iter().map(|it| (f64::from((*it).max(1)), table::size(*it))).collect(),
        x: "services".into(),
        log: high / low > 8.0,
        lines,
    }
}

/// Percentiles of one setting: x is how rare a sample is.
fn distribution((setting, routes): &Row) -> Plot {
    let rare = |percent: f64| 100.0 / (100.0 - percent);
    let line = |(route, summary): &(Route, stats::Summary)| Line {
        route: *route,
        points: PERCENTILES
            .iter()
            .zip(summary.percentiles)
            .map(|(percent, value)| (rare(*percent), value, value, value))
            .collect(),
    };
    let shown = routes.iter().filter(|(route, _)| *route != Route::DirectAgain);
    Plot {
        name: format!("{}-distribution", word(setting)),
        title: format!(
            "{} with {} services: percentiles ({} {})",
            table::title(setting.measure),
            table::size(setting.services),
            setting.family,
            setting.transport
        ),
        unit: setting.measure.unit().to_owned(),
        ticks: PERCENTILES.iter().map(|percent| (rare(*percent), format!("p{percent}"))).collect(),
        x: "percentile".into(),
        log: true,
        lines: shown.map(line).collect(),
    }
}
