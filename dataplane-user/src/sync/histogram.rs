//! Durations in buckets, as Prometheus counts them.

use std::time::Duration;

/// Upper bounds of the buckets in microseconds: 0.1 ms to 52 s, each twice the one before.
pub const BOUNDS_US: [u64; 20] = {
    let mut bounds = [100; 20];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 2;
        at += 1;
    }
    bounds
};

/// How often a duration fell into which bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BOUNDS_US.len()],
    count: u64,
    sum_us: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        if let Some(at) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[at] += 1;
        }
    }

    /// How many durations were counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their sum in microseconds.
    pub const fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// For each bound in microseconds, how many durations were not longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        BOUNDS_US.iter().zip(&self.buckets).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((*bound, *sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_counts_in_every_bucket_it_fits() {
        let mut histogram = Histogram::default();
        for us in [50, 100, 101, 99_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let counts: Vec<u64> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[19]), (2, 3, 3));
        assert_eq!((histogram.count(), histogram.sum_us()), (4, 99_000_251));
    }
}
