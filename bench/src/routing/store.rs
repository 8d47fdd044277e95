//! `results.json`: written whole after each step, read again when a run goes on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use super::results::Measure;
use super::results::{FORMAT, Missing, Position, Results, Route, Series};

/// Where the results of a run in this folder are.
pub fn path(out: &Path) -> PathBuf {
    out.join("results.json")
}

/// The results in this folder, if there are any.
pub fn read(out: &Path) -> anyhow::Result<Option<Results>> {
    let path = path(out);
    if !path.exists() {
        return Ok(None);
    }
    let shown = path.display();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {shown}"))?;
    let results: Results = serde_json::from_str(&text)
        .with_context(|| format!("{shown} holds no results; move it away or give another --out"))?;
    ensure!(
        results.format == FORMAT,
        "{shown} has format {}, and this program writes format {FORMAT}; give another --out",
        results.format
    );
    Ok(Some(results))
}

/// Writes the results so that a reader sees these or the last ones, whole.
pub fn write(out: &Path, results: &Results) -> anyhow::Result<()> {
    let (path, new) = (path(out), out.join("results.json.new"));
    let text = serde_json::to_string(results).context("cannot write the results as JSON")?;
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
}

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What was measured.
    pub measure: Measure,
    /// Through which mode.
    pub route: Route,
    /// With how many services.
    pub services: u32,
    /// To which of them.
    pub position: Position,
    /// `ipv4`, `ipv6` or `both`.
    pub family: String,
    /// `tcp`, `udp` or `sctp`.
    pub transport: String,
}

/// Adds one round to its series.
pub fn add(results: &mut Results, key: &Key, samples: Vec<f64>, evidence: &str) {
    let found = results.series.iter_mut().find(|series| key_of(series) == *key);
    if let Some(series) = found {
        series.rounds.push(samples);
        if !evidence.is_empty() {
            evidence.clone_into(&mut series.evidence);
        }
        return;
    }
    results.series.push(Series {
        measure: key.measure,
        route: key.route,
        services: key.services,
        position: key.position,
        family: key.family.clone(),
        transport: key.transport.clone(),
        rounds: vec![samples],
        evidence: evidence.to_owned(),
    });
}

/// Says once what is missing.
pub fn miss(results: &mut Results, missing: Missing) {
    let about = |missing: &Missing| (missing.route, missing.services, missing.measure);
    if !results.missing.iter().any(|known| about(known) == about(&missing)) {
        results.missing.push(missing);
    }
}

fn key_of(series: &Series) -> Key {
    Key {
        measure: series.measure,
        route: series.route,
        services: series.services,
        position: series.position,
        family: series.family.clone(),
        transport: series.transport.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_one_setting_come_together_and_a_file_of_another_format_is_refused() {
        let key = Key {
            measure: Measure::ConnectLatency,
            route: Route::Nftables,
            services: 10,
            position: Position::First,
            family: "ipv4".into(),
            transport: "tcp".into(),
        };
        let mut results = Results { format: FORMAT, ..Results::default() };
        add(&mut results, &key, vec![1.0], "counted");
        add(&mut results, &key, vec![2.0, 3.0], "");
        add(&mut results, &Key { services: 100, ..key }, vec![4.0], "");
        assert_eq!(results.series.len(), 2);
        assert_eq!(results.series[0].rounds, [vec![1.0], vec![2.0, 3.0]]);
        assert_eq!(results.series[0].evidence, "counted");
        let out = std::env::temp_dir().join(format!("hashplane-results-{}", std::process::id()));
        fs::create_dir_all(&out).unwrap();
        write(&out, &results).unwrap();
        assert_eq!(read(&out).unwrap().unwrap().series.len(), 2);
        write(&out, &Results { format: FORMAT + 1, ..results }).unwrap();
        let refused = read(&out).unwrap_err().to_string();
        assert!(refused.contains("give another --out"), "{refused}");
        fs::remove_dir_all(&out).unwrap();
    }
}
