//! Which backend serves this node, and how it is made.

use super::Settings;
use crate::{
    backend::{Backend, Mode},
    conntrack::Tended,
    iptables::Iptables,
    ipvs::Ipvs,
    nftables::Nftables,
    probe,
    shadow::Shadowed,
};

/// What `--mode` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// The best that this node can do.
    #[default]
    Auto,
    /// This one, or nothing.
    Only(Mode),
}

/// Why no backend serves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing works here.
    #[error("no mode works on this node: {0}")]
    Nothing(String),
}

/// The mode that is wished for; for [`Wish::Auto`] the node is probed, and the log says what was found.
pub fn choose(wish: Wish) -> Result<Mode, Error> {
    if let Wish::Only(mode) = wish {
        return Ok(mode);
    }
    let probes = probe::run();
    let choice = probe::choose(&probes);
    for line in probe::table::text(&probe::table::rows(&probes)).lines() {
        tracing::info!("{line}");
    }
    let words = probe::table::choice(&choice);
    tracing::info!("{}", words.trim_end());
    choice.mode.ok_or(Error::Nothing(words))
}

/// A backend that needs nothing but the kernel's rules; nothing for eBPF, whose programs come first.
pub fn rules(mode: Mode, settings: &Settings) -> Option<Box<dyn Backend>> {
    let (instance, bit) = (&settings.instance, settings.masquerade_bit);
    let rules: Box<dyn Backend> = match mode {
        Mode::Iptables => Box::new(Tended::new(
            Iptables::new(instance, settings.iptables).with_masquerade_bit(bit),
        )),
        Mode::Ipvs => Box::new(Tended::new(Ipvs::with_masquerade_bit(instance, bit))),
        Mode::Nftables => Box::new(Tended::new(Nftables::new(instance).with_masquerade_bit(bit))),
        Mode::Ebpf => return None,
    };
    Some(match &settings.shadow {
        Some(counts) => Box::new(Shadowed::new(rules, counts.clone())),
        None => rules,
    })
}
