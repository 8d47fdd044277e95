//! Who has a frontend's address: the oldest Service that asks for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::types::Protocol;

/// Address, port and protocol; the unspecified address stands for every address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimKey {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// Who comes first: by age, then by name, so that the order of arrival decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) created: u32,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) id: u32,
}

/// Two Services ask for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dispute {
    pub(super) winner: u32,
    pub(super) loser: u32,
}

/// The owner of each frontend address. Those that more than one asks for are few.
#[derive(Debug, Default)]
pub(super) struct Claims {
    owners: Owners,
    disputed: BTreeMap<ClaimKey, BTreeSet<Rank>>,
}

/// By family: every Service is in here, and an IPv4 key takes half the room of a [`ClaimKey`].
#[derive(Debug, Default)]
struct Owners {
    v4: BTreeMap<([u8; 4], u16, Protocol), u32>,
    v6: BTreeMap<([u8; 16], u16, Protocol), u32>,
}

impl Owners {
    fn get(&self, key: &ClaimKey) -> Option<u32> {
        let ClaimKey { address, port, protocol } = *key;
        match address {
            IpAddr::V4(v4) => self.v4.get(&(v4.octets(), port, protocol)).copied(),
            IpAddr::V6(v6) => self.v6.get(&(v6.octets(), port, protocol)).copied(),
        }
    }

    fn insert(&mut self, key: ClaimKey, id: u32) -> Option<u32> {
        let ClaimKey { address, port, protocol } = key;
        match address {
            IpAddr::V4(v4) => self.v4.insert((v4.octets(), port, protocol), id),
            IpAddr::V6(v6) => self.v6.insert((v6.octets(), port, protocol), id),
        }
    }

    fn remove(&mut self, key: ClaimKey) {
        let ClaimKey { address, port, protocol } = key;
        match address {
            IpAddr::V4(v4) => self.v4.remove(&(v4.octets(), port, protocol)),
            IpAddr::V6(v6) => self.v6.remove(&(v6.octets(), port, protocol)),
        };
    }

    fn has_address(&self, address: IpAddr) -> bool {
        let (first, last) = ((0, Protocol::Tcp), (u16::MAX, Protocol::Udp));
        match address {
            IpAddr::V4(v4) => {
                let of = |(port, protocol)| (v4.octets(), port, protocol);
                self.v4.range(of(first)..=of(last)).next().is_some()
            }
            IpAddr::V6(v6) => {
                let of = |(port, protocol)| (v6.octets(), port, protocol);
                self.v6.range(of(first)..=of(last)).next().is_some()
            }
        }
    }
}

impl Claims {
    pub(super) fn owner(&self, key: &ClaimKey) -> Option<u32> {
        self.owners.get(key)
    }

    /// Whether any Service has this address, on whatever port.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.owners.has_address(address)
    }

    /// Asks for a frontend address; says with whom it is disputed.
    pub(super) fn claim(
        &mut self,
        key: ClaimKey,
        rank: Rank,
        rank_of: impl Fn(u32) -> Rank,
    ) -> Option<Dispute> {
        let id = rank.id;
        let Some(owner) = self.owners.get(&key) else {
            self.owners.insert(key, id);
            return None;
        };
        if owner == id {
            return None;
        }
        let ranks = self.disputed.entry(key).or_insert_with(|| BTreeSet::from([rank_of(owner)]));
        ranks.insert(rank);
        let winner = ranks.first().map_or(owner, |first| first.id);
        self.owners.insert(key, winner);
        Some(Dispute { winner, loser: if winner == id { owner } else { id } })
    }

    /// Gives a frontend address up; says who has it now, if that is somebody else.
    pub(super) fn release(&mut self, key: ClaimKey, rank: &Rank) -> Option<u32> {
        let Some(ranks) = self.disputed.get_mut(&key) else {
            self.owners.remove(key);
            return None;
        };
        ranks.remove(rank);
        let first = ranks.first().map(|first| first.id);
        if ranks.len() < 2 {
            self.disputed.remove(&key);
        }
        let heir = first?;
        let before = self.owners.insert(key, heir);
        (before != Some(heir)).then_some(heir)
    }

    /// Every Service that asks for what an older one has.
    pub(super) fn disputes(&self) -> impl Iterator<Item = (ClaimKey, Dispute)> {
        self.disputed.iter().flat_map(|(key, ranks)| {
            let winner = ranks.first().map(|first| first.id);
            ranks
                .iter()
                .skip(1)
                .filter_map(move |rank| Some((*key, Dispute { winner: winner?, loser: rank.id })))
        })
    }
}
