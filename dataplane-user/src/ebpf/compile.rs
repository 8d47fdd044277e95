//! From desired service ports to a program: one port's change, or the whole table. Pure.

use super::{
    change::{change, drop_port},
    half::{Half, Port},
    program::{Program, Shared},
    wanted::claims,
};
pub use crate::backend::{CapacityError, Desired};
use crate::model::{Family, PortKey, PortState};

impl Program {
    /// Makes the program right for one service port; `None` when it is gone. Costs O(change).
    ///
    /// An error is also kept in [`Program::left_out`] and tried again by [`Program::retry`].
    pub fn change(
        &mut self,
        key: &PortKey,
        state: Option<&PortState>,
    ) -> Result<(), CapacityError> {
        let result = match key.family {
            Family::V4 => change(&mut self.v4, &mut self.shared, key, state),
            Family::V6 => change(&mut self.v6, &mut self.shared, key, state),
        };
        match &result {
            Ok(()) => self.left_out.remove(key),
            Err(error) => self.left_out.insert(key.clone(), error.clone()),
        };
        result
    }

    /// Makes the program right for the whole table. What it held before (also without names, as
    /// found in the maps) only decides which numbers, identities and blocks are kept, and who
    /// stays when there is no room for all.
    pub fn compile(&mut self, desired: &dyn Desired) {
        let mut fresh = Vec::new();
        let mut wanted = Vec::new();
        // Into empty maps there is nothing to find again, and every state is asked for once.
        let empty = self.v4.ports.is_empty() && self.v6.ports.is_empty();
        for key in desired.keys() {
            if empty {
                fresh.push(key);
                continue;
            }
            let Some(state) = desired.port(&key) else { continue };
            let known = match key.family {
                Family::V4 => adopt(&mut self.v4, &key, &state),
                Family::V6 => adopt(&mut self.v6, &key, &state),
            };
            if known { wanted.push((key, state)) } else { fresh.push(key) }
        }
        let left: Vec<PortKey> = self.left_out.keys().cloned().collect();
        for key in left.iter().filter(|key| desired.port(key).is_none()) {
            self.left_out.remove(key);
        }
        drop_others(&mut self.v4, &mut self.shared, &wanted);
        drop_others(&mut self.v6, &mut self.shared, &wanted);
        for (key, state) in &wanted {
            // The error is kept in `left_out`.
            let _ = self.change(key, Some(state));
        }
        drop(wanted);
        let of = |family| fresh.iter().filter(|key| key.family == family).count();
        self.v4.expect(of(Family::V4));
        self.v6.expect(of(Family::V6));
        for key in fresh {
            let _ = self.change(&key, desired.port(&key).as_ref());
        }
    }

    /// Tries again those who found no room. Says how many found it now.
    pub fn retry(&mut self, desired: &dyn Desired) -> usize {
        let before = self.left_out.len();
        for key in self.left_out.keys().cloned().collect::<Vec<_>>() {
            let room = match key.family {
                Family::V4 => self.v4.frontends_room() > 0 || self.v4.find(&key).is_some(),
                Family::V6 => self.v6.frontends_room() > 0 || self.v6.find(&key).is_some(),
            };
            if room {
                let _ = self.change(&key, desired.port(&key).as_ref());
            }
        }
        before - self.left_out.len()
    }
}

/// Finds the port by name, or names the one found in the maps under one of its frontends.
fn adopt<const N: usize>(half: &mut Half<N>, key: &PortKey, state: &PortState) -> bool {
    if half.find(key).is_some() {
        return true;
    }
    let nameless = claims(state).into_iter().find_map(|claim| {
        let owner = half.frontends.get(&claim.key)?;
        half.port(owner.slot)?.key.is_none().then_some(owner.slot)
    });
    if let Some(slot) = nameless {
        half.name(slot, key);
    }
    nameless.is_some()
}

/// Drops every port that is not in `wanted`, which is sorted.
fn drop_others<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    wanted: &[(PortKey, PortState)],
) {
    let is_wanted = |port: &Port<N>| {
        port.key.as_ref().is_some_and(|key| wanted.binary_search_by(|(k, _)| k.cmp(key)).is_ok())
    };
    let others: Vec<u32> = (0u32..)
        .zip(&half.ports)
        .filter(|(_, port)| port.as_ref().is_some_and(|port| !is_wanted(port)))
        .map(|(slot, _)| slot)
        .collect();
    for slot in others {
        drop_port(half, shared, slot);
    }
}
