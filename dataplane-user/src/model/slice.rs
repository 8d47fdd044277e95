//! What the table keeps of an `EndpointSlice`: a few bytes per endpoint, since there are many.

use std::{net::IpAddr, sync::Arc};

use super::{
    spec::Distribution,
    types::{Family, Protocol},
    zones::ZoneId,
};

/// What the table keeps of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceSpec {
    /// Shared, since most slices of a cluster have one of a few lists.
    pub(super) ports: Arc<[SlicePort]>,
    pub(super) addresses: Addresses,
    /// Nothing where every hint names the endpoint's own zone, which is what Kubernetes writes.
    pub(super) zone_hints: Option<Box<ZoneHints>>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SlicePort {
    pub(super) name: Arc<str>,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// The endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    V4(Box<[([u8; 4], Condition, ZoneId)]>),
    V6(Box<[([u8; 16], Condition, ZoneId)]>),
}

/// Hints for zones other than the endpoint's own: number of the endpoint in its slice, and a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ZoneHints(pub(super) Vec<(u32, ZoneId)>);

/// What a slice says of one endpoint, seen from this node and its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) address: IpAddr,
    pub(super) ready: bool,
    /// It leaves, but still answers (KEP-1669).
    pub(super) fallback: bool,
    pub(super) this_node: bool,
    /// Whether its hints name this node; `None` without hints for nodes.
    pub(super) node_hint: Option<bool>,
    /// Whether its hints name this node's zone; `None` without hints for zones.
    pub(super) zone_hint: Option<bool>,
}

impl SliceSpec {
    /// Every endpoint. Those without hints have the ones that the distribution asks for: what the
    /// controller of `EndpointSlices` would write, so that slices of others work too.
    pub(super) fn facts(
        &self,
        own_zone: ZoneId,
        distribution: Distribution,
    ) -> impl Iterator<Item = Facts> {
        (0u32..).zip(self.addresses.iter()).map(move |(index, (address, condition, zone))| {
            let has = |bit| condition.has(bit);
            let this_node = has(Condition::THIS_NODE);
            let mut node_hint =
                has(Condition::NODE_HINTS).then_some(has(Condition::NODE_HINT_THIS));
            let mut zone_hint =
                has(Condition::ZONE_HINTS).then(|| self.is_hinted_to(index, zone, own_zone));
            if node_hint.is_none() && zone_hint.is_none() {
                let (for_zone, for_node) = match distribution {
                    Distribution::Anywhere => (false, false),
                    Distribution::SameZone => (true, false),
                    Distribution::SameNode => (true, true),
                };
                zone_hint = (for_zone && zone != ZoneId::NONE).then_some(zone.is(own_zone));
                node_hint = (for_node && has(Condition::ANY_NODE)).then_some(this_node);
            }
            Facts {
                address,
                ready: has(Condition::READY),
                fallback: has(Condition::SERVING) && has(Condition::TERMINATING),
                this_node,
                node_hint,
                zone_hint,
            }
        })
    }

    /// Whether any endpoint says for which zones it is.
    pub(super) fn has_zone_hints(&self) -> bool {
        self.addresses.iter().any(|(_, condition, _)| condition.has(Condition::ZONE_HINTS))
    }

    fn is_hinted_to(&self, index: u32, zone: ZoneId, own_zone: ZoneId) -> bool {
        let mut named = self
            .zone_hints
            .iter()
            .flat_map(|hints| &hints.0)
            .filter(|(endpoint, _)| *endpoint == index)
            .peekable();
        if named.peek().is_none() {
            return zone.is(own_zone);
        }
        named.any(|(_, zone)| zone.is(own_zone))
    }
}

impl Addresses {
    pub(super) fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, Condition, ZoneId)> {
        let (v4, v6): (&[_], &[_]) = match self {
            Self::V4(v4) => (v4, &[]),
            Self::V6(v6) => (&[], v6),
        };
        let v4 =
            v4.iter().map(|(octets, condition, zone)| (IpAddr::from(*octets), *condition, *zone));
        let v6 =
            v6.iter().map(|(octets, condition, zone)| (IpAddr::from(*octets), *condition, *zone));
        v4.chain(v6)
    }
}

/// What a slice says of one endpoint, in one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition(u8);

impl Condition {
    pub(super) const READY: u8 = 1;
    pub(super) const SERVING: u8 = 1 << 1;
    pub(super) const TERMINATING: u8 = 1 << 2;
    /// It says on which node it is.
    pub(super) const ANY_NODE: u8 = 1 << 3;
    /// It is on this node.
    pub(super) const THIS_NODE: u8 = 1 << 4;
    /// It has hints for nodes.
    pub(super) const NODE_HINTS: u8 = 1 << 5;
    /// One of them is for this node.
    pub(super) const NODE_HINT_THIS: u8 = 1 << 6;
    /// It has hints for zones: those in [`ZoneHints`], or else its own zone.
    pub(super) const ZONE_HINTS: u8 = 1 << 7;

    pub(super) fn with(self, bit: u8, set: bool) -> Self {
        Self(if set { self.0 | bit } else { self.0 })
    }

    pub(super) fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}
