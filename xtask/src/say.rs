//! The only place that prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a tool for a terminal")]

/// One line about what happens now.
pub(crate) fn step(line: &str) {
    println!("==> {line}");
}

/// One line as it is.
pub(crate) fn line(line: &str) {
    println!("{line}");
}

/// One line of a child's standard error.
pub(crate) fn error_line(line: &str) {
    eprintln!("{line}");
}

/// What failed and why, each cause on a line of its own.
pub(crate) fn failure(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}
