//! Entries that may differ from the kernel's, in words and by service port.

use dataplane_common::{FrontendKey, names};

use super::{
    half::{Half, address},
    owners::is_marker,
    program::Program,
};
use crate::{backend::Drift, model::PortKey};

impl Program {
    /// Some of what [`Program::pending`] counts.
    pub fn drift(&self, max: usize) -> Vec<Drift> {
        let shared = &self.shared;
        let live = shared.live_dirty.iter().map(|edit| entry(names::LIVE, edit.index));
        let gate = shared.gate.dirty.iter().map(|word| entry(names::GATE, *word));
        let of_ports = self.v4.drift().chain(self.v6.drift());
        of_ports.chain(live).chain(gate).take(max).collect()
    }
}

fn entry(map: &str, index: u32) -> Drift {
    Drift { key: None, what: format!("entry {index} of {map}") }
}

impl<const N: usize> Half<N> {
    fn drift(&self) -> impl Iterator<Item = Drift> {
        let frontends = self.frontends_dirty.iter().map(|key| Drift {
            key: self.owner_of(key),
            what: if is_marker(key) {
                format!("cluster IP {}", address(key.addr()))
            } else {
                format!("frontend {} port {}", address(key.addr()), key.port())
            },
        });
        let blocks = self.blocks_dirty.iter().map(|block| {
            let has_it = |port: &&super::half::Port<N>| port.shape.block == *block;
            let port = self.ports.iter().flatten().find(has_it);
            Drift {
                key: port.and_then(|port| port.key.clone()),
                what: format!("{} endpoints from slot {} on", block.len, block.base),
            }
        });
        let sources = self
            .sources
            .dirty
            .iter()
            .map(|_| Drift { key: None, what: "a source range".to_owned() });
        frontends.chain(blocks).chain(sources)
    }

    fn owner_of(&self, key: &FrontendKey<N>) -> Option<PortKey> {
        self.port(self.frontends.get(key)?.slot)?.key.clone()
    }
}
