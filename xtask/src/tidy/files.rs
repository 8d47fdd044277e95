//! First lines and sizes of Rust files.

use super::{File, Finding};

/// Above this a file is too much to read; aim for fewer than 400 lines.
const LINES_MAX: usize = 500;

pub(super) fn check(file: &File) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if !says_what_it_is_for(&file.text) {
        let rule = "the first line must be `//!` and a sentence that says what the file is for: \
                    if you cannot write it, split the file";
        findings.push(Finding::new(file, 1, rule));
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        let rule = format!(
            "{lines} lines, more than {LINES_MAX}: nobody reads such a file from top to bottom"
        );
        findings.push(Finding::new(file, LINES_MAX, rule));
    }
    findings
}

fn says_what_it_is_for(text: &str) -> bool {
    let paragraph: Vec<&str> =
        text.lines().map_while(|line| line.strip_prefix("//! ")).map(str::trim).collect();
    paragraph.last().is_some_and(|last| last.ends_with(['.', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&File::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_file_must_open_with_a_sentence() {
        assert_eq!(lines("a/src/b.rs", "use std::fs;\n"), [1]);
        assert_eq!(lines("a/src/b.rs", "//! no end\nuse std::fs;\n"), [1]);
        assert_eq!(lines("a/src/b.rs", "//! Two\n//! lines.\n//!\n//! More\nfn f() {}\n"), [0; 0]);
    }

    #[test]
    fn a_file_of_501_lines_is_too_long() {
        let text = |lines: usize| format!("//! Long.\n{}", "\n".repeat(lines - 1));
        assert_eq!(lines("a/src/b.rs", &text(501)), [500]);
        assert_eq!(lines("a/src/b.rs", &text(500)), [0; 0]);
    }
}
