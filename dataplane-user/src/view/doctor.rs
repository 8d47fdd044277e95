//! What `hashplane doctor` tells: what this node can do, what runs, and what is not as it should be.

use std::fmt::Write as _;

use super::table::align;
use crate::{
    backend::Mode,
    leftovers::Leftover,
    probe::{
        Choice,
        table::{self, Row},
    },
};

/// So many differing entries are shown; the rest is counted.
pub const DRIFT_SHOWN_MAX: usize = 50;

/// An entry in which the kernel and the table differ.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct DriftRow {
    /// `namespace/service:port`; `-` for what belongs to no service.
    pub service: String,
    /// What differs, in words.
    pub what: String,
}

/// What the daemon found when it compared the kernel with its table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Drift {
    /// How many entries differ.
    pub total: usize,
    /// Some of them, at most [`DRIFT_SHOWN_MAX`].
    pub rows: Vec<DriftRow>,
}

/// What the daemon says of its mode and its rules.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Running {
    /// The mode that serves; `None` while nothing has been programmed.
    pub mode: Option<Mode>,
    /// Why this one.
    pub why: String,
    /// The kernel against the table; `None` while nothing has been programmed.
    pub drift: Option<Drift>,
}

/// Everything. Field names are stable: `-o json` prints them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Doctor {
    /// Name of the instance.
    pub instance: String,
    /// What the daemon says, if one runs.
    pub running: Option<Running>,
    /// What was tried, and what follows.
    pub features: Vec<Row>,
    /// What `--mode auto` picks.
    pub choice: Choice,
    /// What kube-proxy or another mode has left behind.
    pub leftovers: Vec<Leftover>,
    /// What could not be looked at.
    pub failures: Vec<String>,
}

impl Doctor {
    /// Whether everything is as it should be.
    pub fn is_well(&self) -> bool {
        let drift = self.running.as_ref().and_then(|running| running.drift.as_ref());
        self.failures.is_empty()
            && self.leftovers.is_empty()
            && self.choice.mode.is_some()
            && drift.is_none_or(|drift| drift.total == 0)
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = table::text(&self.features);
        text.push('\n');
        text.push_str(&table::choice(&self.choice));
        text.push('\n');
        text.push_str(&self.running_text());
        if self.leftovers.is_empty() {
            text.push_str("no leftovers of kube-proxy or of other modes\n");
        } else {
            text.push_str(
                "leftovers, which `hashplane cleanup` removes (`--kube-proxy` for its own):\n",
            );
        }
        for leftover in &self.leftovers {
            let _infallible = writeln!(text, "  {leftover}");
        }
        for failure in &self.failures {
            let _infallible = writeln!(text, "failed: {failure}");
        }
        text
    }

    fn running_text(&self) -> String {
        let Some(running) = &self.running else {
            return format!(
                "no daemon of instance {} runs here: what the kernel should hold is not known\n",
                self.instance
            );
        };
        let mode = running.mode.map_or("no mode", Mode::name);
        let mut text = format!("{mode} runs: {}\n", running.why);
        match &running.drift {
            None => text.push_str("what the kernel should hold is not known yet\n"),
            Some(drift) if drift.total == 0 => {
                text.push_str("the kernel holds what the table says\n");
            }
            Some(drift) => {
                let _infallible = writeln!(
                    text,
                    "{} entries in the kernel are not what the table says:",
                    drift.total
                );
                let rows: Vec<_> =
                    drift.rows.iter().map(|row| [row.service.clone(), row.what.clone()]).collect();
                text.push_str(&align(&["SERVICE", "WHAT DIFFERS"], &rows));
                let rest = drift.total.saturating_sub(drift.rows.len());
                if rest > 0 {
                    let _infallible = writeln!(text, "and {rest} more");
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Answer, Feature, Probes, choose};

    fn healthy() -> Doctor {
        let probes: Probes = Feature::ALL.iter().map(|feature| (*feature, Answer::yes())).collect();
        Doctor {
            instance: "default".into(),
            running: None,
            features: table::rows(&probes),
            choice: choose(&probes),
            leftovers: Vec::new(),
            failures: Vec::new(),
        }
    }

    #[test]
    fn without_a_daemon_it_says_so_and_is_well() {
        let doctor = healthy();
        assert!(doctor.is_well());
        assert!(doctor.to_text().contains("no daemon of instance default runs here"));
    }

    #[test]
    fn entries_that_differ_are_named_by_service_and_counted() {
        let rows = vec![DriftRow {
            service: "shop/web:http".into(),
            what: "frontend 10.96.0.1:80 is missing".into(),
        }];
        let running = |total| Running {
            mode: Some(Mode::Nftables),
            why: "--mode nftables".into(),
            drift: Some(Drift { total, rows: rows.clone() }),
        };
        let mut doctor = healthy();
        doctor.running = Some(running(3));
        assert!(!doctor.is_well());
        let expected = "nftables runs: --mode nftables\n\
                        3 entries in the kernel are not what the table says:\n\
                        SERVICE        WHAT DIFFERS\n\
                        shop/web:http  frontend 10.96.0.1:80 is missing\n\
                        and 2 more\n";
        assert!(doctor.to_text().contains(expected), "{}", doctor.to_text());
    }

    #[test]
    fn leftovers_and_failures_are_no_health() {
        let mut doctor = healthy();
        doctor.failures.push("cannot list".into());
        assert!(!doctor.is_well());
        doctor.failures.clear();
        doctor.leftovers.push(Leftover { of: "kube-proxy".into(), what: "a table".into() });
        assert!(!doctor.is_well());
        assert!(doctor.to_text().contains("  kube-proxy: a table\n"));
    }
}
