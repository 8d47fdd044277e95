//! `cargo xtask bench --compare COMMIT`: what this tree costs beside another commit, measured in turns.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{run, say, setup};

/// Runs of each build, in turns.
const ROUNDS: usize = 5;
/// A median counts as changed if it lies beyond everything the other build showed, by this share.
const CHANGE_MIN: f64 = 0.03;

/// The samples of each row, one per round.
type Rows = BTreeMap<String, (String, Vec<f64>)>;

/// Builds both and compares them; an error if something became slower and `fails` is set.
pub(crate) fn run(commit: &str, fails: bool) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    let names =
        ["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")].map(str::to_owned);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some(sha) = run::answer("git", &names) else {
        bail!("--compare {commit}: there is no such commit");
    };
    let sha = sha.trim();
    let tree = run::target_dir().join("compare").join(sha.get(..12).unwrap_or(sha));
    if !tree.exists() {
        say::step(&format!("checking out {commit} into {}", tree.display()));
        let path = tree.to_string_lossy().into_owned();
        let advice = "`git worktree prune` forgets folders that are gone";
        run::quiet(run::command("git", &["worktree", "add", "--detach", &path, sha]), advice)?;
    }
    say::step("building both, optimised");
    let (theirs, ours) = (build(&tree)?, build(run::workspace())?);
    let (mut before, mut after) = (Rows::new(), Rows::new());
    for round in 0..ROUNDS {
        say::step(&format!("round {} of {ROUNDS}", round + 1));
        measure(&theirs, &mut before)?;
        measure(&ours, &mut after)?;
    }
    let slower = show(&before, &after);
    if slower > 0 && fails {
        bail!("{slower} figures are worse than at {commit}, beyond what either build varies by");
    }
    Ok(())
}

/// The optimised binary of a tree, which it builds in its own folder.
fn build(tree: &Path) -> Result<PathBuf> {
    let target = if tree == run::workspace() { run::target_dir() } else { tree.join("target") };
    let build = ["build", "--quiet", "--release", "--package", "hashplane", "--package", "bench"];
    let mut build = run::command("cargo", &build);
    build.current_dir(tree).env("CARGO_TARGET_DIR", &target);
    run::loud(build)?;
    Ok(target.join("release/hashplane"))
}

/// One run of the measurements that take no lab.
fn measure(binary: &Path, rows: &mut Rows) -> Result<()> {
    let file = run::target_dir().join("compare").join("rows.json");
    let path = file.to_string_lossy().into_owned();
    let runs: [&[&str]; 2] = [
        &["bench", "packets", "--json", &path],
        &["bench", "churn", "--modes", "ebpf", "--services", "1000,10000", "--json", &path],
    ];
    for arguments in runs {
        run::quiet(run::command(&binary.to_string_lossy(), arguments), "run it by itself")?;
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {path}"))?;
        let found: Vec<serde_json::Value> =
            serde_json::from_str(&text).with_context(|| format!("{path} holds no rows"))?;
        for row in found {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            if let Some(median) = row["median"].as_f64() {
                let entry = rows.entry(text("name")).or_insert_with(|| (text("unit"), Vec::new()));
                entry.1.push(median);
            }
        }
    }
    Ok(())
}

/// Shortest, median and longest.
fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Better,
    Worse,
}

/// All figures are costs: less is better.
fn judge(before: &[f64], after: &[f64]) -> Verdict {
    let ((low, old, high), (least, new, most)) = (spread(before), spread(after));
    if new > old * (1.0 + CHANGE_MIN) && least > high {
        Verdict::Worse
    } else if new < old * (1.0 - CHANGE_MIN) && most < low {
        Verdict::Better
    } else {
        Verdict::Same
    }
}

/// Prints the comparison; how many figures are worse.
fn show(before: &Rows, after: &Rows) -> usize {
    say::line(&format!("{:<26} {:>12} {:>12} {:>8}  verdict", "", "before", "now", "change"));
    let mut slower = 0;
    for (name, (unit, old)) in before {
        let Some((_, new)) = after.get(name) else {
            say::line(&format!("{name:<26} is gone"));
            continue;
        };
        let verdict = judge(old, new);
        slower += usize::from(verdict == Verdict::Worse);
        let word = match verdict {
            Verdict::Same => "within the noise",
            Verdict::Better => "better",
            Verdict::Worse => "worse",
        };
        let ((_, old, _), (_, new, _)) = (spread(old), spread(new));
        let change = (new / old - 1.0) * 100.0;
        say::line(&format!("{name:<26} {old:>12.1} {new:>12.1} {change:>+7.1} %  {word} ({unit})"));
    }
    for name in after.keys().filter(|name| !before.contains_key(*name)) {
        say::line(&format!("{name:<26} is new"));
    }
    slower
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_beyond_everything_the_other_build_showed_has_changed() {
        let old = [100.0, 101.0, 99.0, 100.0, 102.0];
        assert_eq!(judge(&old, &[104.0, 105.0, 106.0, 105.0, 104.0]), Verdict::Worse);
        assert_eq!(judge(&old, &[101.0, 110.0, 110.0, 110.0, 110.0]), Verdict::Same);
        assert_eq!(judge(&old, &[103.0, 102.5, 102.5, 103.0, 102.5]), Verdict::Same);
        assert_eq!(judge(&old, &[90.0, 91.0, 90.0, 92.0, 90.0]), Verdict::Better);
    }
}
