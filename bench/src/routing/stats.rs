//! What samples say: medians, percentiles, how sure they are, and what is noise.

use super::results::{Measure, Position, Results, Route, Series};

/// A setting in which routes are compared with each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    /// What was measured.
    pub measure: Measure,
    /// `ipv4`, `ipv6`, `both`.
    pub family: String,
    /// `tcp`, `udp`, `sctp`.
    pub transport: String,
    /// Where the service under test stood.
    pub position: Position,
    /// How many services there were.
    pub services: u32,
}

impl Setting {
    /// That of a series.
    pub fn of(series: &Series) -> Self {
        Self {
            measure: series.measure,
            family: series.family.clone(),
            transport: series.transport.clone(),
            position: series.position,
            services: series.services,
        }
    }
}

/// What the samples of one series say, in the unit of its measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Samples.
    pub count: usize,
    /// The median of all samples.
    pub median: f64,
    /// The median lies between these: the lowest and the highest round's median, and with six rounds
    /// or more the 95 % interval by order statistics.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// Percentiles: 50, 90, 99 and 99.9.
    pub percentiles: [f64; 4],
}

/// The percentiles of [`Summary::percentiles`].
pub const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// Fewer rounds than these say no more than from where to where they go.
const ROUNDS_MIN: usize = 6;

/// The percentile of sorted samples by the nearest rank; 0 of none.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among samples"
    )]
    let rank = (percent / 100.0 * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// The median of sorted samples; 0 of none.
pub fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len().is_multiple_of(2)) {
        (Some(upper), true) => {
            f64::midpoint(sorted.get(middle - 1).copied().unwrap_or(*upper), *upper)
        }
        (Some(middle), false) => *middle,
        (None, _) => 0.0,
    }
}

fn sorted(samples: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut samples: Vec<f64> = samples.into_iter().filter(|sample| sample.is_finite()).collect();
    samples.sort_by(f64::total_cmp);
    samples
}

/// Where the median of what these were drawn from lies with 95 %.
fn interval(sorted: &[f64]) -> (f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a number of rounds")]
    let n = sorted.len() as f64;
    let half = 0.98 * n.sqrt();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let low = (n / 2.0 - half).floor().max(0.0) as usize;
    let high = sorted.len().saturating_sub(1 + low);
    let at = |rank: usize| sorted.get(rank).copied().unwrap_or(0.0);
    (at(low), at(high))
}

/// What a series says; nothing if it has no samples.
pub fn summary(series: &Series) -> Option<Summary> {
    let all = sorted(series.rounds.iter().flatten().copied());
    if all.is_empty() {
        return None;
    }
    let rounds = series.rounds.iter().map(|round| sorted(round.iter().copied()));
    let medians = sorted(rounds.filter(|round| !round.is_empty()).map(|round| median(&round)));
    // One round of many samples: its samples are all there is.
    let spread = if medians.len() == 1 { &all } else { &medians };
    let (low, high) = if spread.len() >= ROUNDS_MIN {
        interval(spread)
    } else {
        (percentile(spread, 0.0), percentile(spread, 100.0))
    };
    let middle = median(&all);
    Some(Summary {
        count: all.len(),
        median: middle,
        low: low.min(middle),
        high: high.max(middle),
        percentiles: PERCENTILES.map(|percent| percentile(&all, percent)),
    })
}

/// One row: a setting, and what each route's samples say in it.
pub type Row = (Setting, Vec<(Route, Summary)>);

/// All settings with what was measured in them, in order.
pub fn rows(results: &Results) -> Vec<Row> {
    let mut rows: std::collections::BTreeMap<Setting, Vec<(Route, Summary)>> =
        std::collections::BTreeMap::new();
    for series in &results.series {
        if let Some(summary) = summary(series) {
            rows.entry(Setting::of(series)).or_default().push((series.route, summary));
        }
    }
    for routes in rows.values_mut() {
        routes.sort_by_key(|(route, _)| *route);
    }
    rows.into_iter().collect()
}

/// The summary of a route in a row.
pub fn of(routes: &[(Route, Summary)], route: Route) -> Option<Summary> {
    routes.iter().find(|(of, _)| *of == route).map(|(_, summary)| *summary)
}

/// By how much two measurements of the same thing differ, as a share: the machine's noise.
pub fn noise(routes: &[(Route, Summary)]) -> Option<f64> {
    let (one, other) = (of(routes, Route::Direct)?, of(routes, Route::DirectAgain)?);
    change(one.median, other.median).map(f64::abs)
}

/// From one value to another, as a share of the first.
pub fn change(from: f64, to: f64) -> Option<f64> {
    (from.abs() > f64::EPSILON).then(|| (to - from) / from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(rounds: Vec<Vec<f64>>) -> Series {
        Series {
            measure: Measure::ConnectLatency,
            route: Route::Direct,
            services: 1,
            position: Position::First,
            family: "ipv4".into(),
            transport: "tcp".into(),
            rounds,
            evidence: String::new(),
        }
    }

    #[test]
    fn known_samples_have_known_percentiles() {
        let all: Vec<f64> = (1..=1_000).map(f64::from).collect();
        let summary = summary(&series(vec![all])).expect("samples");
        let whole = summary.percentiles.map(|it| format!("{it:.0}"));
        assert_eq!(whole, ["500", "900", "990", "999"]);
        assert!((summary.median - 500.5).abs() < 1e-9);
        // 1,000 samples: ranks 500 ∓ 31.
        assert!((summary.low - 470.0).abs() < 2.0 && (summary.high - 531.0).abs() < 2.0);
    }

    #[test]
    fn few_rounds_go_from_the_lowest_to_the_highest() {
        let summary = summary(&series(vec![vec![1.0, 2.0, 3.0], vec![10.0], vec![4.0, 6.0]]));
        let summary = summary.expect("samples");
        assert!((summary.low - 2.0).abs() < 1e-9 && (summary.high - 10.0).abs() < 1e-9);
        assert!(super::summary(&series(vec![vec![]])).is_none());
    }

    proptest! {
        #[test]
        fn a_median_is_between_its_bounds_and_percentiles_ascend(
            rounds in prop::collection::vec(prop::collection::vec(0.0..1e6, 0..50), 1..12)
        ) {
            if let Some(summary) = summary(&series(rounds)) {
                prop_assert!(summary.low <= summary.median && summary.median <= summary.high);
                prop_assert!(summary.percentiles.is_sorted());
            }
        }
    }
}
