//! Two runs side by side: what changed beyond noise.

use std::fmt::Write as _;

use super::{
    results::{Results, Route},
    stats::{self, Setting, Summary},
    table,
};

/// A difference between two runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where.
    pub setting: Setting,
    /// Of which route.
    pub route: Route,
    /// The first run.
    pub before: Summary,
    /// The second.
    pub after: Summary,
    /// From the first to the second, as a share.
    pub change: f64,
    /// Whether it is for the better.
    pub is_better: bool,
}

/// Everything that both runs have, and what of it differs by more than noise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// How many pairs both runs have.
    pub compared: usize,
    /// Those that differ, the worst first.
    pub differences: Vec<Difference>,
}

/// Compares. A difference counts if the intervals of both medians do not meet, and if it is larger
/// than what direct connections differ by in either run.
pub fn compare(before: &Results, after: &Results) -> Comparison {
    let (old, new) = (stats::rows(before), stats::rows(after));
    let mut comparison = Comparison::default();
    for (setting, routes) in &new {
        let Some((_, old_routes)) = old.iter().find(|(of, _)| of == setting) else { continue };
        let noise = [stats::noise(routes), stats::noise(old_routes)];
        let noise = noise.into_iter().flatten().fold(0.0, f64::max);
        for (route, after) in routes {
            let Some(before) = stats::of(old_routes, *route) else { continue };
            if *route == Route::DirectAgain {
                continue;
            }
            comparison.compared += 1;
            let Some(change) = stats::change(before.median, after.median) else { continue };
            let apart = after.low > before.high || after.high < before.low;
            if apart && change.abs() > noise {
                comparison.differences.push(Difference {
                    setting: setting.clone(),
                    route: *route,
                    before,
                    after: *after,
                    change,
                    is_better: (change > 0.0) == setting.measure.more_is_better(),
                });
            }
        }
    }
    let badness = |it: &Difference| if it.is_better { -it.change.abs() } else { it.change.abs() };
    comparison.differences.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
    comparison
}

impl Comparison {
    /// The largest change for the worse, as a share; 0 if there is none.
    pub fn worst(&self) -> f64 {
        let worse = self.differences.iter().filter(|it| !it.is_better);
        worse.map(|it| it.change.abs()).fold(0.0, f64::max)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for it in &self.differences {
            let word = if it.is_better { "better" } else { "worse" };
            let _: std::fmt::Result = writeln!(
                text,
                "{word:6} {:+6.1} %  {} → {} {}  {}, {} services {}, {} {}, {}",
                it.change * 100.0,
                table::number(it.before.median),
                table::number(it.after.median),
                it.setting.measure.unit(),
                table::title(it.setting.measure).to_lowercase(),
                table::size(it.setting.services),
                table::position(it.setting.position),
                it.setting.family,
                it.setting.transport,
                it.route.name(),
            );
        }
        let _: std::fmt::Result = writeln!(
            text,
            "{} of {} pairs differ by more than noise",
            self.differences.len(),
            self.compared
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::results::{Measure, Position, Series};

    fn results(pairs: &[(Route, [f64; 3])]) -> Results {
        let series = |(route, rounds): &(Route, [f64; 3])| Series {
            measure: Measure::ConnectLatency,
            route: *route,
            services: 10,
            position: Position::First,
            family: "ipv4".into(),
            transport: "tcp".into(),
            rounds: rounds.iter().map(|it| vec![*it]).collect(),
            evidence: String::new(),
        };
        Results { series: pairs.iter().map(series).collect(), ..Results::default() }
    }

    #[test]
    fn only_what_is_beyond_noise_counts() {
        let quiet = [(Route::Direct, [10.0, 10.1, 9.9]), (Route::DirectAgain, [10.0, 10.1, 10.0])];
        let before = results(&[&quiet[..], &[(Route::Nftables, [20.0, 21.0, 20.5])]].concat());
        let worse = results(&[&quiet[..], &[(Route::Nftables, [30.0, 31.0, 29.0])]].concat());
        let found = compare(&before, &worse);
        assert_eq!((found.compared, found.differences.len()), (2, 1));
        assert!(!found.differences[0].is_better && (found.worst() - 0.463).abs() < 0.01);
        assert!(compare(&worse, &before).differences[0].is_better);
        let same = results(&[&quiet[..], &[(Route::Nftables, [20.9, 22.0, 21.0])]].concat());
        assert!(compare(&before, &same).differences.is_empty(), "the intervals meet");
        let loud = [(Route::Direct, [10.0, 10.1, 9.9]), (Route::DirectAgain, [20.0, 20.1, 19.0])];
        let loud = results(&[&loud[..], &[(Route::Nftables, [30.0, 31.0, 29.0])]].concat());
        assert!(compare(&before, &loud).differences.is_empty(), "direct differs by more");
    }
}
