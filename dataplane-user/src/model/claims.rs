//! Who has a frontend's address: the oldest Service that asks for it, else the oldest Pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::types::{Family, Protocol};

/// A Service or a Pod by its number, in four bytes, since every frontend has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant(u32);

/// Whose number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimantId {
    Service(u32),
    Pod(u32),
}

impl Claimant {
    /// Pods have this bit. So many objects do not fit in memory.
    const POD: u32 = 1 << 31;

    pub(super) fn service(id: u32) -> Self {
        Self(id & !Self::POD)
    }

    pub(super) fn pod(id: u32) -> Self {
        Self(id | Self::POD)
    }

    pub(super) fn id(self) -> ClaimantId {
        if self.0 & Self::POD == 0 {
            ClaimantId::Service(self.0)
        } else {
            ClaimantId::Pod(self.0 & !Self::POD)
        }
    }
}

/// Address, port and protocol; the unspecified address stands for every address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimKey {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

impl ClaimKey {
    pub(super) fn family(&self) -> Family {
        Family::of(self.address)
    }
}

/// Who comes first: Services, then by age, then by name, so that the order of arrival decides
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) is_pod: bool,
    pub(super) created: u32,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) id: Claimant,
}

/// Two objects ask for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dispute {
    pub(super) winner: Claimant,
    pub(super) loser: Claimant,
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
    v4: BTreeMap<([u8; 4], u16, Protocol), Claimant>,
    v6: BTreeMap<([u8; 16], u16, Protocol), Claimant>,
}

impl Owners {
    fn get(&self, key: &ClaimKey) -> Option<Claimant> {
        let ClaimKey { address, port, protocol } = *key;
        match address {
            IpAddr::V4(v4) => self.v4.get(&(v4.octets(), port, protocol)).copied(),
            IpAddr::V6(v6) => self.v6.get(&(v6.octets(), port, protocol)).copied(),
        }
    }

    fn insert(&mut self, key: ClaimKey, id: Claimant) -> Option<Claimant> {
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

    fn of_address(&self, address: IpAddr) -> Vec<Claimant> {
        let (first, last) = ((0, Protocol::Tcp), (u16::MAX, Protocol::Sctp));
        match address {
            IpAddr::V4(v4) => {
                let of = |(port, protocol)| (v4.octets(), port, protocol);
                self.v4.range(of(first)..=of(last)).map(|(_, id)| *id).collect()
            }
            IpAddr::V6(v6) => {
                let of = |(port, protocol)| (v6.octets(), port, protocol);
                self.v6.range(of(first)..=of(last)).map(|(_, id)| *id).collect()
            }
        }
    }
}

impl Claims {
    pub(super) fn owner(&self, key: &ClaimKey) -> Option<Claimant> {
        self.owners.get(key)
    }

    /// Who has an address, on whatever port.
    pub(super) fn owners_of(&self, address: IpAddr) -> Vec<Claimant> {
        self.owners.of_address(address)
    }

    /// Asks for a frontend address; says with whom it is disputed.
    pub(super) fn claim(
        &mut self,
        key: ClaimKey,
        rank: Rank,
        rank_of: impl Fn(Claimant) -> Rank,
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
    pub(super) fn release(&mut self, key: ClaimKey, rank: &Rank) -> Option<Claimant> {
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

    /// Everybody who asks for what comes to another.
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
