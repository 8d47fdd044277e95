//! What kube-proxy, or another mode of ours, has left in the kernel: found, and removed on request.
//!
//! Chains, tables and devices of others are never touched. Nor are the kubelet's own chains.

mod own;
mod rules;
mod servers;
mod tables;
mod xtables;

use std::{collections::BTreeSet, fmt};

use crate::{
    backend::Mode,
    ebpf::{attach, pin::Pins},
    netlink,
    probe::tools,
};

/// Something that is left, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Leftover {
    /// Who left it: `kube-proxy`, or a mode of ours.
    pub of: String,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.what)
    }
}

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Rules of iptables.
    #[error("cannot look after the rules of {family} ({variant})")]
    Rules {
        /// `iptables` or `ip6tables`.
        family: &'static str,
        /// `nf_tables` or `legacy`.
        variant: &'static str,
        /// What the program said.
        #[source]
        source: tools::Error,
    },
    /// Tables of nftables.
    #[error("cannot {what} tables of nftables")]
    Tables {
        /// `list` or `delete`.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: netlink::Error,
    },
    /// Virtual servers and their device.
    #[error("cannot look after the virtual servers of kube-ipvs0")]
    Servers {
        /// What the kernel said.
        #[source]
        source: netlink::Error,
    },
}

/// What was found or removed, and what went wrong; one failure does not stop the rest.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is left, or was removed.
    pub leftovers: Vec<Leftover>,
    /// What could not be looked at or removed.
    pub failed: Vec<Error>,
}

/// Whether to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Find,
    Remove,
}

/// Everything of kube-proxy's modes on this node.
pub fn find_kube_proxy() -> Outcome {
    kube_proxy(Act::Find)
}

/// Removes everything of kube-proxy's modes from this node. Twice is once.
pub fn remove_kube_proxy() -> Outcome {
    kube_proxy(Act::Remove)
}

/// Everything on this node of the instance's modes but the one that serves. It is only found: each
/// backend removes its own.
pub fn find_own(pins: &Pins, serving: Option<Mode>) -> Outcome {
    let mut outcome = Outcome::default();
    own::find(pins, serving, &mut outcome);
    outcome
}

/// Modes of the instance but the one that serves that have something in the kernel.
pub fn own_modes(pins: &Pins, serving: Mode) -> BTreeSet<Mode> {
    let outcome = find_own(pins, Some(serving));
    for error in &outcome.failed {
        tracing::debug!(error = attach::chain(error), "not looked at");
    }
    let is_left = |mode: &Mode| {
        let of = format!("mode {mode}");
        outcome.leftovers.iter().any(|leftover| leftover.of == of)
    };
    Mode::ALL.into_iter().filter(is_left).collect()
}

fn kube_proxy(act: Act) -> Outcome {
    let mut outcome = Outcome::default();
    // Rules first: those of the IPVS mode name its sets and its device.
    xtables::kube_proxy(act, &mut outcome);
    tables::kube_proxy(act, &mut outcome);
    servers::kube_proxy(act, &mut outcome);
    outcome
}

#[cfg(test)]
mod tests;
