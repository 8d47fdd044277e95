//! Lets packets of 127.0.0.1 leave the node, which node ports on it need: `route_localnet`.

use std::{fs, io};

const PATH: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// Whether it was us who allowed it.
#[derive(Debug, Default)]
pub(super) struct Localnet {
    ours: bool,
    warned: bool,
}

impl Localnet {
    /// Allows it. The rule that keeps others away from 127.0.0.0/8 must be there before.
    pub(super) fn allow(&mut self) {
        let result = fs::read_to_string(PATH).and_then(|now| {
            if now.trim() == "1" {
                return Ok(());
            }
            self.ours = true;
            fs::write(PATH, "1")
        });
        self.warn("node ports will not be on 127.0.0.1", result);
    }

    /// Forbids it again, if it was forbidden before.
    pub(super) fn forbid(&mut self) {
        if std::mem::take(&mut self.ours) {
            let result = fs::write(PATH, "0");
            self.warn("packets of 127.0.0.1 may still leave the node", result);
        }
    }

    /// Everything else works without it: once is enough.
    fn warn(&mut self, so: &str, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!(%error, "cannot set {PATH}, {so}");
        }
    }
}
