//! The machine that a run is on, and its clock.

use std::{fs, path::Path, process::Command, thread};

use super::results::Machine;

/// What there is to say about this machine.
pub fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = read("/proc/cpuinfo");
    let processor = field(&processors, "model name").unwrap_or_else(|| "unknown".to_owned());
    let hypervisor = processors.lines().any(|line| {
        line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
    });
    let virtual_by = match (processor.contains("QEMU TCG"), hypervisor) {
        (true, _) => "tcg",
        (false, true) => "hypervisor",
        (false, false) => "",
    };
    let load = read("/proc/loadavg");
    Machine {
        host: read("/proc/sys/kernel/hostname"),
        kernel: read("/proc/sys/kernel/osrelease"),
        virtual_by: virtual_by.to_owned(),
        processor,
        cores: thread::available_parallelism()
            .map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        memory_mib: memory_kib("MemTotal") / 1024,
        versions: versions(),
        load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
    }
}

/// Memory that programs may still have, in MiB.
pub fn memory_available_mib() -> u64 {
    memory_kib("MemAvailable") / 1024
}

/// Now, as RFC 3339 in UTC.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A program of this name in a folder of `PATH`.
pub fn on_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn memory_kib(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, name)
        .and_then(|value| value.trim_end_matches("kB").trim().parse().ok())
        .unwrap_or_default()
}

fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn versions() -> Vec<(String, String)> {
    let mut versions = vec![("hashplane".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    for tool in ["iptables", "kube-proxy"] {
        if let Some(said) = on_path(tool).and_then(|path| version(&path)) {
            versions.push((tool.to_owned(), said));
        }
    }
    versions
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}
