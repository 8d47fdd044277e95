//! Which backend `--mode auto` picks, as a function of what was found.

use super::{Answer, Feature, Probes};
use crate::backend::Mode;

/// The pick, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Choice {
    /// The backend; `None` where none can run.
    pub mode: Option<Mode>,
    /// Why this one, in a sentence.
    pub why: String,
    /// Why none of the others, in the order in which they would be picked.
    pub others: Vec<Other>,
}

/// A backend that was not picked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Other {
    /// Which one.
    pub mode: Mode,
    /// Whether it could run.
    pub can_run: bool,
    /// Why it was not picked, in a sentence.
    pub why: String,
}

/// The first backend, in the order of [`Mode::ALL`], that has all it needs.
pub fn choose(probes: &Probes) -> Choice {
    let lacking: Vec<(Mode, Vec<String>)> =
        Mode::ALL.into_iter().map(|mode| (mode, lacks(probes, mode))).collect();
    let picked = lacking.iter().find(|(_, lacks)| lacks.is_empty()).map(|(mode, _)| *mode);
    let why = match picked {
        Some(mode) => format!("{mode} is the first of {} that has what it needs", in_order()),
        None => format!("none of {} has what it needs", in_order()),
    };
    let others =
        lacking.into_iter().filter(|(mode, _)| Some(*mode) != picked).map(|(mode, lacks)| Other {
            mode,
            can_run: lacks.is_empty(),
            why: why_not(mode, picked, &lacks),
        });
    Choice { mode: picked, why, others: others.collect() }
}

/// What a mode needs and does not have, in words; nothing if it can run.
pub fn lacks(probes: &Probes, mode: Mode) -> Vec<String> {
    let groups = Feature::needed(mode).iter();
    let lacking = groups.filter(|group| !group.iter().any(|feature| probes.has(*feature)));
    let (tried, untried): (Vec<_>, Vec<_>) =
        lacking.partition(|group| group.iter().any(|feature| is_missing(probes, *feature)));
    // What was not tried was not, because of something else that is missing: that says enough.
    let named = if tried.is_empty() { untried } else { tried };
    named.into_iter().map(|group| words(probes, group)).collect()
}

fn is_missing(probes: &Probes, feature: Feature) -> bool {
    matches!(probes.answer(feature), Some(Answer::Missing(_)))
}

fn words(probes: &Probes, group: &[Feature]) -> String {
    let one = |feature: &Feature| match probes.answer(*feature) {
        Some(Answer::Missing(why) | Answer::Untried(why)) if !why.is_empty() => {
            format!("{} ({why})", feature.name())
        }
        Some(_) | None => feature.name().to_owned(),
    };
    group.iter().map(one).collect::<Vec<_>>().join(" or ")
}

fn why_not(mode: Mode, picked: Option<Mode>, lacks: &[String]) -> String {
    match (lacks, picked) {
        ([], Some(picked)) => format!("{mode} could run too, and comes after {picked}"),
        ([], None) => format!("{mode} could run"),
        (lacks, _) => format!("{mode} lacks {}", lacks.join(", ")),
    }
}

fn in_order() -> String {
    Mode::ALL.map(Mode::name).join(", ")
}
