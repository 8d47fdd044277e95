//! How much memory the maps take, and whether this process may have it.

use std::{fs, path::Path};

use super::Answer;
use crate::ebpf::load::{Layout, MapSizes, layouts};

/// What the kernel keeps beside key and value of an entry of a hash map (`struct htab_elem` and its
/// share of the buckets).
const HASH_OVERHEAD: u64 = 64;

/// Whether maps of these sizes fit.
pub(super) fn maps(sizes: &MapSizes) -> Answer {
    let needed = layouts(sizes).iter().map(bytes).sum();
    let available = available(Path::new("/proc/meminfo"), Path::new("/proc/self/cgroup"));
    fits(needed, available)
}

fn fits(needed: u64, available: Option<u64>) -> Answer {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match available {
        None => {
            Answer::Found(format!("{} MiB at most; how much is free is not known", mib(needed)))
        }
        Some(free) if free >= needed => {
            Answer::Found(format!("{} MiB at most, of {} MiB", mib(needed), mib(free)))
        }
        Some(free) => {
            Answer::Missing(format!("{} MiB are needed, {} MiB are free", mib(needed), mib(free)))
        }
    }
}

/// All maps are taken for hashes, whose entries take the most.
fn bytes(layout: &Layout) -> u64 {
    let entry = u64::from(layout.key.next_multiple_of(8) + layout.value.next_multiple_of(8));
    u64::from(layout.entries) * (entry + HASH_OVERHEAD)
}

/// What the machine has left, and what this process's cgroup has left, whichever is less.
fn available(meminfo: &Path, cgroup: &Path) -> Option<u64> {
    let text = fs::read_to_string(meminfo).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    Some(cgroup_left(cgroup).map_or(machine, |left| left.min(machine)))
}

fn cgroup_left(own: &Path) -> Option<u64> {
    let text = fs::read_to_string(own).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = crate::ebpf::attach::cgroup2_root().ok()?.join(path);
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // `max` is no number: there is no limit then.
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_do_not_fit_are_missing_with_both_numbers() {
        let said = fits(300 << 20, Some(200 << 20));
        assert_eq!(said, Answer::Missing("300 MiB are needed, 200 MiB are free".into()));
        assert!(fits(300 << 20, Some(300 << 20)).is_found());
        assert!(fits(300 << 20, None).is_found());
    }

    #[test]
    fn larger_maps_need_more() {
        let sum = |sizes: &MapSizes| layouts(sizes).iter().map(bytes).sum::<u64>();
        let sizes = MapSizes::default();
        let more = MapSizes { flows: sizes.flows * 2, ..sizes };
        assert!(sum(&more) > sum(&sizes));
    }
}
