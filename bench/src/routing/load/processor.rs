//! What the processors of the machine did, from `/proc/stat`.

use std::fs;

use anyhow::Context as _;

/// Ticks of all processors together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    busy: u64,
    idle: u64,
}

/// Ticks per second that the kernel shows to programs (`USER_HZ`, include/asm-generic/param.h).
const USER_HZ: f64 = 100.0;

impl Ticks {
    /// Since the machine was started.
    pub fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text).context("/proc/stat does not begin with `cpu` and its ticks")
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, ..] = ticks[..] else { return None };
        Some(Self { busy: user + nice + system + irq + softirq, idle: idle + iowait })
    }

    /// Seconds that processors have worked since `earlier`.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a benchmark")]
    pub fn busy_seconds_since(self, earlier: Self) -> f64 {
        self.busy.saturating_sub(earlier.busy) as f64 / USER_HZ
    }

    /// Share of the time since `earlier` in which processors had nothing to do, in percent.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a benchmark")]
    pub fn idle_percent_since(self, earlier: Self) -> f64 {
        let idle = self.idle.saturating_sub(earlier.idle) as f64;
        let busy = self.busy.saturating_sub(earlier.busy) as f64;
        if idle + busy > 0.0 { 100.0 * idle / (idle + busy) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_disks_is_idle_and_interrupts_are_work() {
        let before = Ticks::parse("cpu  100 0 100 1000 50 10 40 0 0 0\ncpu0 1 2 3\n").unwrap();
        let after = Ticks::parse("cpu  150 0 120 1060 60 20 60 0 0 0\n").unwrap();
        assert!((after.busy_seconds_since(before) - 1.0).abs() < 1e-9);
        assert!((after.idle_percent_since(before) - 100.0 * 70.0 / 170.0).abs() < 1e-9);
        assert_eq!(Ticks::parse("intr 1 2\n"), None);
    }
}
