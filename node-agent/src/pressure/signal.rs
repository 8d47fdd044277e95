//! What can be short, and when it is.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::sys::statvfs::statvfs;

use crate::{quantity, settings::Settings};

/// Something of the machine that pods share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`, in bytes.
    Memory,
    /// `nodefs.available`: bytes of the disk that has pods' files, logs and images.
    Disk,
    /// `nodefs.inodesFree` of that disk.
    Inodes,
    /// `pid.available`.
    Processes,
}

impl Signal {
    const ALL: [Self; 4] = [Self::Memory, Self::Disk, Self::Inodes, Self::Processes];

    /// As flags write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Disk => "nodefs.available",
            Self::Inodes => "nodefs.inodesFree",
            Self::Processes => "pid.available",
        }
    }

    /// The resource, as messages of evictions name it.
    pub(super) const fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Processes => "pids",
        }
    }

    pub(super) const fn is_disk(self) -> bool {
        matches!(self, Self::Disk | Self::Inodes)
    }

    /// How much there is, and how much there could be.
    fn read(self, settings: &Settings) -> Option<(u64, u64)> {
        match self {
            Self::Memory => {
                let text = fs::read_to_string("/proc/meminfo").ok()?;
                let kilobytes = |name: &str| -> Option<u64> {
                    let line = text.lines().find_map(|it| it.strip_prefix(name))?;
                    line.trim().trim_end_matches(" kB").trim().parse().ok()
                };
                Some((kilobytes("MemAvailable:")? * 1024, kilobytes("MemTotal:")? * 1024))
            }
            Self::Disk => {
                let disk = statvfs(&settings.data).ok()?;
                let size = disk.fragment_size();
                Some((disk.blocks_available() * size, disk.blocks() * size))
            }
            Self::Inodes => {
                let disk = statvfs(&settings.data).ok()?;
                // Some file systems have no bound.
                (disk.files() > 0).then(|| (disk.files_available(), disk.files()))
            }
            Self::Processes => {
                let most: u64 =
                    fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
                let load = fs::read_to_string("/proc/loadavg").ok()?;
                let now: u64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
                Some((most.saturating_sub(now), most))
            }
        }
    }
}

/// An amount, or a part of what there could be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Amount {
    /// In bytes, or as a count.
    Absolute(u64),
    /// In hundredths.
    Part(u64),
}

impl Amount {
    fn of(&self, capacity: u64) -> u64 {
        match self {
            Self::Absolute(amount) => *amount,
            Self::Part(percent) => {
                u64::try_from(u128::from(capacity) * u128::from(*percent) / 100).unwrap_or(u64::MAX)
            }
        }
    }
}

/// Below which a signal is met: `memory.available<100Mi,nodefs.available<10%`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thresholds(Vec<(Signal, Amount)>);

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all: Vec<(Signal, Amount)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            let bad = |why: &str| format!("{part:?} is no threshold for evictions: {why}");
            let (name, amount) =
                part.split_once('<').ok_or_else(|| bad("expected signal<amount"))?;
            let signal = Signal::ALL.into_iter().find(|it| it.name() == name.trim());
            let signal = signal.ok_or_else(|| {
                let names: Vec<&str> = Signal::ALL.iter().map(|it| it.name()).collect();
                bad(&format!("signals are {}", names.join(", ")))
            })?;
            let amount = amount.trim();
            let amount = if let Some(part) = amount.strip_suffix('%') {
                let percent = part.parse().ok().filter(|it| *it <= 100);
                Amount::Part(percent.ok_or_else(|| bad("expected 0% to 100%"))?)
            } else {
                Amount::Absolute(quantity::whole(amount).ok_or_else(|| bad("no such amount"))?)
            };
            if all.iter().any(|(other, _)| *other == signal) {
                return Err(bad("the signal has a threshold already"));
            }
            all.push((signal, amount));
        }
        Ok(Self(all))
    }
}

/// A signal below its threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) signal: Signal,
    pub(super) threshold: u64,
    pub(super) available: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.signal.name();
        write!(f, "{name} is {}, below {}", self.available, self.threshold)
    }
}

/// What is short now; memory first.
pub(super) fn look(settings: &Settings, thresholds: &Thresholds) -> Vec<Shortage> {
    let met = |(signal, amount): &(Signal, Amount)| {
        let (available, capacity) = signal.read(settings)?;
        let threshold = amount.of(capacity);
        let shortage = Shortage { signal: *signal, threshold, available };
        (available < threshold).then_some(shortage)
    };
    let mut all: Vec<Shortage> = thresholds.0.iter().filter_map(met).collect();
    all.sort_by_key(|it| it.signal);
    all
}

/// How full the disk of a directory is, in hundredths, and its size in bytes.
pub(super) fn fill(directory: &Path) -> Option<(u64, u64)> {
    let disk = statvfs(directory).ok()?;
    let size = disk.blocks() * disk.fragment_size();
    let free = disk.blocks_available() * disk.fragment_size();
    Some((size.saturating_sub(free) * 100 / size.max(1), size))
}

/// Bytes of files below a directory, without those of other file systems: volumes in memory, mounted ones.
pub(super) fn bytes_below(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(own) = fs::symlink_metadata(directory) else { return 0 };
    let mut waiting: Vec<PathBuf> = vec![directory.to_owned()];
    let mut sum = 0;
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != own.dev() {
                continue;
            }
            sum += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_amounts_or_parts() {
        let all: Thresholds = "memory.available<100Mi, nodefs.available<10%".parse().expect("good");
        let amounts: Vec<u64> = all.0.iter().map(|(_, amount)| amount.of(1_000)).collect();
        assert_eq!(amounts, [100 << 20, 100]);
        assert_eq!("".parse(), Ok(Thresholds::default()));
        for bad in [
            "memory.available",
            "nothing<1",
            "memory.available<x",
            "memory.available<101%",
            "memory.available<1,memory.available<2",
        ] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_counted_in_blocks() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("a")).expect("a folder");
        fs::write(folder.path().join("a/b"), vec![1; 100_000]).expect("a file");
        let bytes = bytes_below(folder.path());
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        assert_eq!(bytes_below(&folder.path().join("none")), 0);
    }
}
