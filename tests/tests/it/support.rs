//! What the tests of real traffic share.

use hashplane_tests::{
    Lab, LabOptions,
    agent::protocol::{Answer, Failure, Why},
};

/// The binary that a lab starts inside of itself.
pub(crate) const TOOL: &str = env!("CARGO_BIN_EXE_demo");

/// A lab with strict reverse-path filters.
pub(crate) fn lab() -> Lab {
    Lab::new(&LabOptions::new(TOOL)).expect("the lab can be built")
}

/// "At once": no retransmission timer (1 s and up) takes part in it.
const AT_ONCE_MS: u64 = 200;

/// Asserts that `answer` is a refusal that came at once.
#[track_caller]
pub(crate) fn assert_refused(answer: Result<Answer, Failure>, what: &str) {
    match answer {
        Err(Failure { why: Why::Refused, elapsed_ms, .. }) if elapsed_ms <= AT_ONCE_MS => {}
        other => panic!("{what}: not refused at once but {other:?}"),
    }
}
