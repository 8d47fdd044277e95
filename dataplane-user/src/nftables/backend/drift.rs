//! Elements that are not as the program says, in words and by service port.

use super::{
    super::{
        edits::{Edit, SetId},
        half::{Half, address, read_frontend},
        image::{Difference, Image},
        object::Table,
    },
    Nftables,
};
use crate::{
    backend::Drift,
    model::{Family, PortKey},
};

impl Nftables {
    /// How what was read differs from the program: how many entries, and some of them.
    pub(super) fn differences(&self, max: usize) -> (usize, Vec<Drift>) {
        let Some(seen) = &self.seen else { return (self.program.pending(), Vec::new()) };
        let (total4, mut some) = of(&self.program.v4, seen.v4.as_ref(), &self.v4, max);
        let (total6, more) = of(&self.program.v6, seen.v6.as_ref(), &self.v6, max - some.len());
        some.extend(more);
        (total4 + total6, some)
    }
}

fn of<const N: usize>(
    half: &Half<N>,
    seen: Option<&Image>,
    table: &Table,
    max: usize,
) -> (usize, Vec<Drift>) {
    let whole = |what: String| vec![Drift { key: None, what }];
    let family = match table.family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let name = format!("table {} of {}", table.name, family);
    let Some(image) = seen else {
        return (half.len() + half.chains.len(), whole(format!("{name} is missing")));
    };
    match image.difference(half) {
        Difference::Shape(places) => {
            (places, whole(format!("chains or sets of {name} are not ours any more")))
        }
        Difference::Edits(edits) => {
            let element = |((set, key), edit): (&(SetId, Vec<u8>), &Edit)| {
                let state = match (&edit.before, &edit.after) {
                    (None, _) => "is missing",
                    (Some(_), Some(_)) => "was changed",
                    (Some(_), None) => "should not be there",
                };
                let (key, what) = half.named(*set, key);
                Drift { key, what: format!("{what} {state}") }
            };
            let some = edits.elements.iter().map(element).take(max).collect();
            (edits.count(), some)
        }
    }
}

impl<const N: usize> Half<N> {
    /// Whose element it is, and what it says.
    fn named(&self, set: SetId, key: &[u8]) -> (Option<PortKey>, String) {
        let port = |slot: u32| self.port(slot).map(|port| port.key.clone());
        match set {
            SetId::Services | SetId::Ranged => {
                let Some(frontend) = read_frontend::<N>(key) else { return plain(set) };
                let owner = self.frontends.get(&frontend).and_then(|entry| port(entry.slot));
                let address = address(frontend.addr());
                let address = address.map_or_else(String::new, |address| format!(" {address}"));
                let what = format!("frontend{address} port {}", frontend.port());
                (owner, format!("{what} in {}", set.name()))
            }
            SetId::Endpoints | SetId::Members => {
                let number = key.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
                let owner = number.and_then(Self::slot_of).and_then(|(slot, _)| port(slot));
                (owner, format!("an endpoint in {}", set.name()))
            }
            SetId::Plans
            | SetId::NodePlans
            | SetId::Hairpins
            | SetId::SourceRanges
            | SetId::NodeAddresses
            | SetId::PodLinks
            | SetId::Loopback
            | SetId::ClusterIps => plain(set),
        }
    }
}

fn plain(set: SetId) -> (Option<PortKey>, String) {
    (None, format!("an element of {}", set.name()))
}
