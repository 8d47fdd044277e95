//! The programs' log records in words: they carry numbers, since text costs the verifier dearly.

use dataplane_common::{Hook, Reason};
use log::{Log, Metadata, Record};

/// Passes records on, with the names of hook and reason.
#[derive(Debug)]
pub(super) struct Records;

impl Log for Records {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        if let Some((hook, reason)) = named(&text) {
            tracing::debug!(hook, reason, "packet or socket call");
        } else {
            tracing::debug!("{text}");
        }
    }

    fn flush(&self) {}
}

/// The names in `hook 4: reason 9`.
fn named(text: &str) -> Option<(&'static str, &'static str)> {
    let (hook, reason) = text.strip_prefix("hook ")?.split_once(": reason ")?;
    let (hook, reason): (usize, usize) = (hook.parse().ok()?, reason.parse().ok()?);
    Some((Hook::ALL.get(hook)?.name(), Reason::ALL.get(reason)?.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names() {
        let text = format!("hook {}: reason {}", Hook::NicXdp as u32, Reason::Refused as u32);
        assert_eq!(named(&text), Some(("nic_xdp", "refused")));
        for other in ["hook 99: reason 1", "hook 1: reason 99", "hook 1", "", "hook x: reason y"] {
            assert_eq!(named(other), None, "{other}");
        }
    }
}
