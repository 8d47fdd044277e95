//! Words that must not stand in names, code or text.

use super::{File, Finding, line_of};

/// Parts of names that say nothing about what they name.
const NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "manager", "info"];
/// Names that traits of others prescribe.
const PRESCRIBED: [&str; 1] = ["connect_info"];
/// What begins the definition of a name.
const DEFINES: [&str; 8] = ["fn", "struct", "enum", "mod", "trait", "type", "const", "static"];
/// Code that stands for code to come.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "#[ignore"];
/// Folders of one person's machine.
const MACHINE: [&str; 3] = ["/home/", "/Users/", "/root/"];
/// This file spells what it forbids.
const SELF: &str = "xtask/src/tidy/words.rs";

pub(super) fn check(file: &File) -> Vec<Finding> {
    if file.path == SELF {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = path_name(file).into_iter().collect();
    findings.extend(defined_names(file));
    findings.extend(unfinished(file));
    findings.extend(machine_paths(file));
    findings
}

fn path_name(file: &File) -> Option<Finding> {
    let word = file.path.split(['/', '.', '-', '_']).find(|part| NAMES.contains(part))?;
    Some(Finding::new(file, 1, name_rule(word)))
}

fn defined_names(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for keyword in DEFINES {
        for at in occurrences(&file.code, keyword) {
            let name = file.code[at + keyword.len()..].trim_start();
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            if PRESCRIBED.contains(&&name[..end]) {
                continue;
            }
            let words = words_of(&name[..end]);
            if let Some(word) = words.iter().find(|word| NAMES.contains(&word.as_str())) {
                findings.push(Finding::new(file, line_of(&file.code, at), name_rule(word)));
            }
        }
    }
    findings
}

fn name_rule(word: &str) -> String {
    format!("`{word}` in a name says nothing about what it names: find the word for what it does")
}

/// The words of `snake_case` and `CamelCase`, in lower case.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_lower = false;
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && before_is_lower) {
            words.push(String::new());
        }
        if c != '_'
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        before_is_lower = c.is_lowercase() || c.is_ascii_digit();
    }
    words
}

fn unfinished(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for mark in UNFINISHED {
        for (at, _) in file.code.match_indices(mark) {
            let rule = format!("`{mark}`: code that is not there, or a test that does not run");
            findings.push(Finding::new(file, line_of(&file.code, at), rule));
        }
    }
    findings
}

fn machine_paths(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        if let Some(path) = MACHINE.iter().find(|path| line.contains(*path)) {
            let rule = format!("`{path}` is a folder of one machine: the repository runs anywhere");
            findings.push(Finding::new(file, at + 1, rule));
        }
        // A note about work to do needs an issue, or it is never done.
        if line.contains("TODO") && !line.contains("TODO(#") {
            let rule = "TODO without an issue, `TODO(#12)`: nobody will come back to it";
            findings.push(Finding::new(file, at + 1, rule));
        }
    }
    findings
}

/// Where `word` stands in `code` as a word of its own.
pub(super) fn occurrences<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let (before, after) = (&code[..*at], &code[at + word.len()..]);
        !before.ends_with(part) && !after.starts_with(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut findings = check(&File::new(path, text));
        findings.sort();
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_file_must_not_have_an_empty_name() {
        assert_eq!(lines("cli/src/utils.rs", "//! A.\n"), [1]);
        assert_eq!(lines("cli/src/map_helper.rs", "//! A.\n"), [1]);
        assert_eq!(lines("cli/src/inform.rs", "//! A.\n"), [0; 0]);
    }

    #[test]
    fn a_definition_must_not_have_an_empty_name() {
        let text = "//! A.\nstruct MapManager;\nfn map_info() {}\nmod information {}\n";
        assert_eq!(lines("cli/src/a.rs", text), [2, 3]);
    }

    #[test]
    fn what_others_named_may_be_used() {
        let text = "//! A.\nfn f() { tracing::info!(\"x\"); program.info(); }\n";
        assert_eq!(lines("cli/src/a.rs", text), [0; 0]);
    }

    #[test]
    fn unfinished_code_is_found_and_prose_about_it_is_not() {
        let text = "//! A.\nfn f() { todo!() }\n#[ignore]\nfn g() { unimplemented!() } // todo!\n";
        assert_eq!(lines("cli/src/a.rs", text), [2, 3, 4]);
    }

    #[test]
    fn a_folder_of_one_machine_is_found_in_any_text() {
        assert_eq!(lines("README.md", "a\nsee /home/me/notes\n"), [2]);
    }

    #[test]
    fn a_note_about_work_to_do_needs_an_issue() {
        assert_eq!(lines("cli/src/a.rs", "//! A.\n// TODO: later\n// TODO(#7): then\n"), [2]);
    }
}
