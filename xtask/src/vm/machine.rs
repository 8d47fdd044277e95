//! The machine itself: qemu without KVM, the host's files read-only, one program, its end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{initramfs, kernel::Kernel};
use crate::{
    run, say,
    tally::{self, End, Tally},
};

const QEMU: &str = "qemu-system-x86_64";
const CPUS: &str = "2";
const MEMORY: &str = "4G";
/// What the machine's last line begins with.
const LAST_LINE: &str = "vm: run.sh ended with ";
/// Exit codes of qemu that `inside.sh` asks for; 0 and 1 mean that something else ended it.
const SUCCEEDED: i32 = 33;
/// Loaded before the tests: what the kernel does not load by itself when it is first used.
const LOADED: [&str; 12] = [
    "dummy",
    "sctp",
    "sctp_diag",
    "udp_diag",
    "tcp_diag",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_sh",
    "ip_vs_mh",
    "ip_vs_lc",
    "nf_conntrack_netlink",
];
/// The environment variable that tells tests how many times longer everything may take here.
const SLOWNESS: &str = "HASHPLANE_TEST_SLOWNESS";
/// Its value unless somebody sets another.
const SLOWNESS_USUAL: &str = "8";

/// What to run in the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// The folder to run it in.
    pub(super) folder: PathBuf,
    /// The program and its arguments.
    pub(super) words: Vec<String>,
    /// Environment variables.
    pub(super) variables: Vec<(String, String)>,
}

/// Runs `job`, shows what it prints and counts it; fails aloud when the machine does not end well.
pub(super) fn run(kernel: &Kernel, job: &Job, bound: Duration) -> Result<(bool, Tally)> {
    let files = Files::new(kernel, job, false)?;
    let ended = Mutex::new(None);
    let show = |line: &str| match line.trim_end().strip_prefix(LAST_LINE) {
        Some(code) => *ended.lock().unwrap_or_else(PoisonError::into_inner) = code.parse().ok(),
        None => say::line(line),
    };
    let mut qemu = files.qemu();
    qemu.stdin(Stdio::null());
    let (end, mut tally) = tally::watch(qemu, Some(bound), &show)?;
    let ended: Option<i32> = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    let verdict = verdict(end, ended, &files.console());
    if let Err(error) = &verdict {
        say::failure(error);
        tally.failed = tally.failed.max(1);
    }
    Ok((verdict.is_ok(), tally))
}

/// Connects the terminal to `job`, which may be a shell.
pub(super) fn interact(kernel: &Kernel, job: &Job) -> Result<()> {
    let files = Files::new(kernel, job, true)?;
    let status = files.qemu().status().with_context(|| format!("cannot start {QEMU}"))?;
    if status.code().is_some_and(|code| code > 1) {
        return Ok(());
    }
    bail!("the machine ended by itself\n{}", files.console())
}

/// Whether the machine ended as it should, from how qemu ended, what `run.sh` ended with, and what
/// the kernel said.
fn verdict(end: End, run: Option<i32>, console: &str) -> Result<()> {
    let oops = complaint(console);
    let status: ExitStatus = match end {
        End::TookTooLong(bound) => {
            bail!("the machine was killed after {} s{oops}", bound.as_secs())
        }
        End::Exited(status) => status,
    };
    match run {
        Some(0) if status.code() == Some(SUCCEEDED) => Ok(()),
        Some(0) => bail!("the tests ended well, but qemu with {status}{oops}"),
        Some(code) => bail!("the program in the machine ended with {code}{oops}"),
        None => {
            let oops = if oops.is_empty() { format!("\n{}", tail(console)) } else { oops };
            bail!("the machine ended without a result, qemu with {status}{oops}")
        }
    }
}

/// What the kernel complained about, as words behind a sentence.
fn complaint(console: &str) -> String {
    let from = console.lines().position(|line| {
        ["kernel BUG", "Kernel panic", "BUG:", "Oops:", "WARNING:", "boot failed:"]
            .iter()
            .any(|word| line.contains(word))
    });
    let Some(from) = from else { return String::new() };
    let lines: Vec<&str> = console.lines().skip(from).take(30).collect();
    format!("; its kernel said:\n    {}", lines.join("\n    "))
}

fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// What one run needs on the disk; removed at its end.
struct Files {
    folder: PathBuf,
    kernel: Kernel,
}

impl Files {
    fn new(kernel: &Kernel, job: &Job, interactive: bool) -> Result<Self> {
        let folder = super::folder().join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let files = Self { folder, kernel: kernel.clone() };
        let inside = inside(&kernel.modules, interactive);
        let script = script(job);
        let scripts = [
            ("init", include_str!("boot.sh")),
            ("inside.sh", inside.as_str()),
            ("run.sh", script.as_str()),
        ];
        let archive = initramfs::build(&initramfs::busybox(), &kernel.modules, &scripts)?;
        fs::write(files.folder.join("initramfs"), archive).context("cannot write an initramfs")?;
        Ok(files)
    }

    /// The command that boots; its output is that of the job.
    fn qemu(&self) -> Command {
        // The machine must not outlive this process, whatever ends it.
        let mut command = run::command("setpriv", &["--pdeathsig", "KILL", QEMU]);
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35"]);
        // KVM is not there on the machines that this runs on, or hangs.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", CPUS, "-m", MEMORY]);
        command.arg("-kernel").arg(&self.kernel.image);
        command.arg("-initrd").arg(self.folder.join("initramfs"));
        command.args(["-append", "console=ttyS0 quiet mitigations=off oops=panic panic=-1"]);
        let console = self.folder.join("console").display().to_string();
        command.args(["-serial", &format!("file:{console}")]);
        command.args(["-chardev", "stdio,id=tests,signal=off", "-serial", "chardev:tests"]);
        let share = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap";
        command.args(["-virtfs", share]);
        if let Some(path) = snapshots() {
            let share = "mount_tag=snapshots,security_model=none";
            command.args(["-virtfs", &format!("local,path={path},{share}")]);
        }
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        command
    }

    /// What the kernel and the scripts printed.
    fn console(&self) -> String {
        let bytes = fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A leftover is small, and the next run does not read it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The folder that the tests may write to, if they are asked to.
fn snapshots() -> Option<String> {
    std::env::var_os("UPDATE_SNAPSHOTS")?;
    Some(run::workspace().join("tests/tests/snapshots").display().to_string())
}

fn inside(modules: &Path, interactive: bool) -> String {
    let parent = modules.parent().unwrap_or(modules).display().to_string();
    include_str!("inside.sh")
        .replace("@MODULES@", &parent)
        .replace("@SNAPSHOTS@", &snapshots().unwrap_or_default())
        .replace("@LOADED@", &LOADED.join(" "))
        .replace("@INTERACTIVE@", &interactive.to_string())
}

/// The shell script that runs `job`.
fn script(job: &Job) -> String {
    let slowness = std::env::var(SLOWNESS).unwrap_or_else(|_unset| SLOWNESS_USUAL.to_owned());
    let slowness = (SLOWNESS.to_owned(), slowness);
    let variables = job.variables.iter().chain([&slowness]);
    let mut lines: Vec<String> =
        variables.map(|(name, value)| format!("export {name}={}", quoted(value))).collect();
    lines.push(format!("cd {} || exit 1", quoted(&job.folder.to_string_lossy())));
    let words: Vec<String> = job.words.iter().map(|word| quoted(word)).collect();
    lines.push(format!("exec {}\n", words.join(" ")));
    lines.join("\n")
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn exited(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn only_a_result_with_the_exit_code_that_belongs_to_it_is_success() {
        assert!(verdict(exited(33), Some(0), "").is_ok());
        assert!(verdict(exited(0), Some(0), "").is_err());
        assert!(verdict(exited(33), None, "").is_err());
        assert!(verdict(exited(35), Some(101), "").is_err());
        let end = End::TookTooLong(Duration::from_mins(1));
        let error = verdict(end, None, "").unwrap_err().to_string();
        assert_eq!(error, "the machine was killed after 60 s");
    }

    #[test]
    fn a_panic_of_the_kernel_is_told() {
        let console = "[ 1.0] fine\n[ 2.0] Kernel panic - not syncing: broken\n[ 2.1] CPU: 0\n";
        let error = verdict(exited(0), None, console).unwrap_err().to_string();
        assert!(error.contains("its kernel said:\n    [ 2.0] Kernel panic"), "{error}");
        assert!(!error.contains("said:\n    [ 1.0]"), "{error}");
    }

    #[test]
    fn the_shell_takes_words_as_they_are() {
        let job = Job {
            folder: "/a b".into(),
            words: vec!["echo".to_owned(), "it's".to_owned()],
            variables: vec![("X".to_owned(), "$y".to_owned())],
        };
        let text = script(&job);
        assert!(text.starts_with("export X='$y'\n"), "{text}");
        assert!(text.ends_with("cd '/a b' || exit 1\nexec 'echo' 'it'\\''s'\n"), "{text}");
    }
}
