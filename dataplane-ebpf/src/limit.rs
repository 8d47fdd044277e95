//! How many refusals a CPU sends: answers cost more than questions, and anybody can ask.

/// Answers per second and CPU, in the long run.
pub const PER_S: u64 = 1000;
/// Answers in a row after a silence of a second.
pub const BURST: u64 = 1000;

const INTERVAL_NS: u64 = 1_000_000_000 / PER_S;

/// One more answer at `now_ns`, by a CPU whose answers so far are paid for until `paid_ns`: until
/// when they are paid for with it, or `None` if it would be too many.
///
/// A token bucket in one number (the generic cell rate algorithm, ITU-T I.371, annex A).
#[inline(always)]
pub const fn one_more(paid_ns: u64, now_ns: u64) -> Option<u64> {
    let paid_ns = if paid_ns < now_ns { now_ns } else { paid_ns };
    if paid_ns - now_ns > (BURST - 1) * INTERVAL_NS {
        return None;
    }
    Some(paid_ns + INTERVAL_NS)
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Reason, UDP};

    use super::*;
    use crate::{
        answer,
        host::{Frame, HostTables},
        pipeline::Verdict,
        samples::Sample,
    };

    /// Answers to `count` questions, one each `every_ns`.
    fn answers(paid_ns: &mut u64, from_ns: u64, every_ns: u64, count: u64) -> u64 {
        let mut answered = 0;
        for number in 0..count {
            if let Some(paid) = one_more(*paid_ns, from_ns + number * every_ns) {
                *paid_ns = paid;
                answered += 1;
            }
        }
        answered
    }

    #[test]
    fn a_burst_is_answered_and_then_a_thousand_each_second() {
        let mut paid_ns = 0;
        assert_eq!(answers(&mut paid_ns, 5_000_000_000, 0, 5000), BURST);
        // Ten thousand questions a second, for three seconds.
        assert_eq!(answers(&mut paid_ns, 5_000_000_000, 100_000, 30_000), 3 * PER_S - 1);
        // A second of silence fills the bucket.
        assert_eq!(answers(&mut paid_ns, 9_100_000_000, 0, 5000), BURST);
    }

    #[test]
    fn a_refusal_that_would_be_too_many_is_dropped() {
        let mut tables = HostTables { answers_left: Some(1), ..HostTables::default() };
        let sample = Sample::<4>::new(UDP, &[1]).build();
        let mut refuse = || answer::refuse4(&mut Frame(sample.clone()), &mut tables);
        assert_eq!(refuse(), Verdict::Answer(Reason::Refused));
        assert_eq!(refuse(), Verdict::Drop(Reason::RefusalLimited));
    }

    #[test]
    fn whoever_asks_slowly_is_always_answered() {
        assert_eq!(answers(&mut 0, 1, INTERVAL_NS, 10_000), 10_000);
    }
}
