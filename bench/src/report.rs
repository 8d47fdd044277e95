//! Rows of figures: for people as a table, for programs as JSON.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context as _;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The unit of `median` and `p99`.
    pub unit: &'static str,
    /// Half of the samples are not above.
    pub median: f64,
    /// 99 of 100 samples are not above.
    pub p99: f64,
    /// How many samples there were.
    pub n: usize,
}

/// The samples of a figure, in the order in which they were taken.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Raw {
    /// What was measured.
    pub name: String,
    /// The unit of the samples.
    pub unit: &'static str,
    /// The samples.
    pub samples: Vec<f64>,
}

impl Raw {
    /// The figure that these samples make.
    pub fn row(&self) -> Row {
        summarise(&self.name, self.unit, self.samples.clone())
    }
}

/// Median and 99th percentile of samples; of none, both are NaN, which JSON shows as null.
pub fn summarise(name: &str, unit: &'static str, mut samples: Vec<f64>) -> Row {
    samples.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (samples.len() * percent).div_ceil(100).max(1) - 1;
        samples.get(rank).copied().unwrap_or(f64::NAN)
    };
    Row { name: name.to_owned(), unit, median: at(50), p99: at(99), n: samples.len() }
}

/// The rows as an aligned table.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<24} {:>12} {:>12} {:>7}  unit\n", "", "median", "p99", "n");
    for Row { name, unit, median, p99, n } in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<24} {median:>12.1} {p99:>12.1} {n:>7}  {unit}");
    }
    text
}

/// Writes the rows as a JSON array.
pub fn write_json(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(rows).context("cannot write rows as JSON")?;
    fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Writes every sample of every figure as a JSON array of {name, unit, samples}.
pub fn write_raw(path: &Path, raw: &[Raw]) -> anyhow::Result<()> {
    let json = serde_json::to_string(raw).context("cannot write samples as JSON")?;
    fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Kernel, processor and number of cores, in one line.
pub fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, model)| model.trim())
        .collect();
    let model = models.first().copied().unwrap_or("an unknown processor");
    format!("Linux {}, {} × {model}", kernel.trim(), models.len().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_p99_are_samples_that_occurred() {
        let row = summarise("x", "ns", (1..=200).rev().map(f64::from).collect());
        assert_eq!((row.median, row.p99, row.n), (100.0, 198.0, 200));
    }

    #[test]
    fn a_single_sample_is_its_own_median() {
        let row = summarise("x", "ns", vec![7.0]);
        assert_eq!((row.median, row.p99), (7.0, 7.0));
    }
}
