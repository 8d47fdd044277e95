//! Every raw sample, one per line.

use std::fmt::Write as _;

use super::results::Results;

/// Columns: measure, unit, route, services, position, family, transport, round, sample.
pub fn text(results: &Results) -> String {
    let mut text =
        "measure,unit,route,services,position,family,transport,round,sample\n".to_owned();
    for series in &results.series {
        let word = |value: &dyn erased::Word| value.word();
        let head = [
            word(&series.measure),
            series.measure.unit().to_owned(),
            series.route.name().to_owned(),
            series.services.to_string(),
            word(&series.position),
            series.family.clone(),
            series.transport.clone(),
        ]
        .join(",");
        for (round, samples) in series.rounds.iter().enumerate() {
            for sample in samples {
                let _: std::fmt::Result = writeln!(text, "{head},{round},{sample}");
            }
        }
    }
    text
}

mod erased {
    use serde::Serialize;

    /// A value that JSON writes as one word.
    pub(super) trait Word {
        fn word(&self) -> String;
    }

    impl<T: Serialize> Word for T {
        fn word(&self) -> String {
            let value = serde_json::to_value(self).unwrap_or_default();
            value.as_str().unwrap_or_default().to_owned()
        }
    }
}
