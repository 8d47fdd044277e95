//! What was found, as a table for people and as rows for programs.

use std::fmt::Write as _;

use super::{Answer, Choice, Probes};
use crate::view::table::align;

/// One feature; the field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// Its name.
    pub feature: &'static str,
    /// Whether it works; `None` if it could not be tried.
    pub found: Option<bool>,
    /// How it works, or why it does not.
    pub detail: String,
    /// What follows from that.
    pub consequence: &'static str,
}

/// A row per feature.
pub fn rows(probes: &Probes) -> Vec<Row> {
    let row = |(feature, answer): (super::Feature, &Answer)| {
        let found = match answer {
            Answer::Found(_) => Some(true),
            Answer::Missing(_) => Some(false),
            Answer::Untried(_) => None,
        };
        let consequence = feature.consequence(answer.is_found());
        Row { feature: feature.name(), found, detail: answer.detail().to_owned(), consequence }
    };
    probes.iter().map(row).collect()
}

/// The table, one line per feature.
pub fn text(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let found = match row.found {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not tried",
        };
        let detail = if row.detail.is_empty() { "-" } else { &row.detail };
        [row.feature, found, row.consequence, detail].map(str::to_owned)
    };
    align(
        &["FEATURE", "FOUND", "WHAT FOLLOWS", "DETAIL"],
        &rows.iter().map(cells).collect::<Vec<_>>(),
    )
}

/// The choice, one line per backend.
pub fn choice(choice: &Choice) -> String {
    let picked = choice.mode.map_or("none", crate::backend::Mode::name);
    let mut text = format!("auto picks {picked}: {}\n", choice.why);
    for other in &choice.others {
        let _infallible = writeln!(text, "  not {}: {}", other.mode, other.why);
    }
    text
}
