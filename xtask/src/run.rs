//! Commands of other programs: run them quietly or with their output, and say what failed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// How much of a failed command's output is shown.
const LAST_LINES: usize = 15;

/// The folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace")
}

/// The folder that cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// A command that runs in the workspace's folder.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace()).args(arguments);
    // What `cargo run` sets for this program is not meant for the programs that it starts, and
    // would make build scripts run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text == "CARGO_MANIFEST_DIR" || text == "CARGO" {
            command.env_remove(&name);
        }
    }
    command
}

/// The command as a person would type it.
pub(crate) fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with its output shown.
pub(crate) fn loud(mut command: Command) -> Result<()> {
    let typed = typed(&command);
    let status = command.status().with_context(|| format!("cannot start `{typed}`"))?;
    if !status.success() {
        bail!("`{typed}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and shows its last lines only if it fails; `advice` says how to go on then.
pub(crate) fn quiet(mut command: Command, advice: &str) -> Result<()> {
    let typed = typed(&command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{typed}`; {advice}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let shown = last_lines(&String::from_utf8_lossy(&text));
        bail!(
            "`{typed}` ended with {}; its last lines:\n{shown}\nto go on: {advice}",
            output.status
        );
    }
    Ok(())
}

/// What a command prints, or `None` if it is missing or fails.
pub(crate) fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = command(program, arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// The test program in cargo's messages, one JSON object a line.
pub(crate) fn built_program(messages: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        // Programs that tests call are built, and named, beside them.
        let (_, profile) = line.split_once("\"profile\":{")?;
        let (profile, _) = profile.split_once('}')?;
        profile.contains("\"test\":true").then_some(())?;
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    })
}

/// Whether a program is on `PATH`.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    answer("id", &["-u"]).is_some_and(|id| id.trim() == "0")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines[from..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_shows_its_last_lines_and_how_to_go_on() {
        let command = command("sh", &["-c", "seq 1 40; echo broken >&2; exit 3"]);
        let error = quiet(command, "mend it").unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("    40\n    broken\n"), "{error}");
        assert!(!error.contains("    26\n"), "{error}");
        assert!(error.ends_with("to go on: mend it"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = quiet(command("no-such-program", &["now"]), "install it").unwrap_err();
        assert_eq!(error.to_string(), "cannot start `no-such-program now`; install it");
    }

    #[test]
    fn the_test_program_is_the_one_that_cargo_names_as_a_test() {
        let line = |test: bool, program: &str| {
            format!(
                "{{\"target\":{{\"test\":true}},\"profile\":{{\"test\":{test}}},\"executable\":{program}}}\n"
            )
        };
        let messages = [line(true, "\"/t/it-1\""), line(false, "\"/t/demo\""), line(true, "null")];
        let messages = format!("{}{{}}\n", messages.concat());
        assert_eq!(built_program(&messages), Some(PathBuf::from("/t/it-1")));
    }
}
