//! The rules of the repository that no compiler knows, each with its reason.

mod code;
mod crates;
mod files;
mod modules;
mod words;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{run, say};

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the workspace's folder.
    path: String,
    /// Counted from 1.
    line: usize,
    /// What is wrong, and why that is a rule.
    rule: String,
}

impl Finding {
    fn new(file: &File, line: usize, rule: impl Into<String>) -> Self {
        Self { path: file.path.clone(), line, rule: rule.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// A text file of the repository.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Path from the workspace's folder, with `/`.
    path: String,
    /// What stands in it.
    text: String,
    /// The same with comments and strings blanked, so that only code is left; empty unless Rust.
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let code = if is_rust(path) { code::only(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        is_rust(&self.path)
    }
}

/// The line, counted from 1, of the byte at `at`.
fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

/// Checks every rule and says what breaks one.
pub(crate) fn run() -> Result<()> {
    let findings = check(&files(run::workspace())?);
    for finding in &findings {
        say::line(&finding.to_string());
    }
    if !findings.is_empty() {
        bail!("{} places break a rule of the repository", findings.len());
    }
    Ok(())
}

fn check(files: &[File]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files
        .iter()
        .flat_map(|file| {
            let rules = [crates::check, files::check, modules::check, words::check];
            rules.into_iter().flat_map(move |rule| rule(file))
        })
        .collect();
    findings.sort();
    findings
}

/// Every text file of ours, by path. What is built or ignored is left out.
fn files(workspace: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![workspace.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A link may lead out of the repository.
            if path.is_symlink() || is_left_out(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if is_text(&path) {
                files.push(read(workspace, &path)?);
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read(workspace: &Path, path: &PathBuf) -> Result<File> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let relative = path.strip_prefix(workspace).unwrap_or(path);
    Ok(File::new(&relative.to_string_lossy().replace('\\', "/"), &text))
}

fn is_left_out(name: &str) -> bool {
    name.starts_with("target") || matches!(name, ".git" | "dist" | "corpus" | "artifacts" | "runs")
}

fn is_text(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let known = ["rs", "toml", "md", "yaml", "yml", "service", "sh", "txt"];
    known.contains(&extension.as_str()) || path.ends_with(".ci/run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_keeps_its_rules() {
        let files = files(run::workspace()).unwrap();
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy.rs"), "files are found");
        let findings: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
    }

    #[test]
    fn a_finding_names_file_line_and_rule() {
        let file = File::new("cli/src/a.rs", "");
        let finding = Finding::new(&file, 7, "too long");
        assert_eq!(finding.to_string(), "cli/src/a.rs:7: too long");
    }
}
