//! What differs between the kernel and a program: elements and chains that come, change or go.

use std::collections::BTreeMap;

use super::expression::Name;

/// One of our sets, in the order in which elements come: those that others lead to first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SetId {
    /// The chains of treatments, for frontends of one address.
    Plans,
    /// The chains of treatments, for frontends of every address of the node.
    NodePlans,
    /// View and index → endpoint.
    Endpoints,
    /// Endpoints of views, for service ports with affinity.
    Members,
    /// Every endpoint, as source and destination.
    Hairpins,
    /// Clients that service ports serve.
    SourceRanges,
    /// Addresses with frontends on every address of the node.
    NodeAddresses,
    /// Devices by which pods send.
    PodLinks,
    /// The loopback network.
    Loopback,
    /// Frontends whose Service has source ranges.
    Ranged,
    /// Frontends.
    Services,
    /// Addresses whose other ports are refused.
    ClusterIps,
}

impl SetId {
    /// All of them, in order.
    pub(super) const ALL: [Self; 12] = [
        Self::Plans,
        Self::NodePlans,
        Self::Endpoints,
        Self::Members,
        Self::Hairpins,
        Self::SourceRanges,
        Self::NodeAddresses,
        Self::PodLinks,
        Self::Loopback,
        Self::Ranged,
        Self::Services,
        Self::ClusterIps,
    ];

    /// Its name in the kernel.
    pub(super) const fn name(self) -> &'static str {
        use super::layout;
        match self {
            Self::Plans => layout::PLANS,
            Self::NodePlans => layout::NODE_PLANS,
            Self::Endpoints => layout::ENDPOINTS,
            Self::Members => layout::MEMBERS,
            Self::Hairpins => layout::HAIRPINS,
            Self::SourceRanges => layout::SOURCE_RANGES,
            Self::NodeAddresses => layout::NODE_ADDRESSES,
            Self::PodLinks => layout::POD_LINKS,
            Self::Loopback => layout::LOOPBACK,
            Self::Ranged => layout::RANGED,
            Self::Services => layout::SERVICES,
            Self::ClusterIps => layout::CLUSTER_IPS,
        }
    }

    /// Whether its elements are chosen by others: they go before what those lead to.
    pub(super) const fn leads(self) -> bool {
        match self {
            Self::Ranged | Self::Services | Self::ClusterIps => true,
            Self::Plans
            | Self::NodePlans
            | Self::Endpoints
            | Self::Members
            | Self::Hairpins
            | Self::SourceRanges
            | Self::NodeAddresses
            | Self::PodLinks
            | Self::Loopback => false,
        }
    }
}

/// What an element holds: the bytes of its data, or nothing. Verdicts follow from their keys.
pub(super) type Value = Vec<u8>;

/// An element that may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    /// What the kernel holds.
    pub before: Option<Value>,
    /// What it should hold.
    pub after: Option<Value>,
}

/// Everything that may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edits {
    /// By set and key. The key of a range is its first key and its last one.
    pub(super) elements: BTreeMap<(SetId, Vec<u8>), Edit>,
    /// By name: whether the kernel has the chain, and whether it should.
    pub(super) chains: BTreeMap<Name, (bool, bool)>,
}

impl Edits {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.elements.len() + self.chains.len()
    }

    /// An element changes from `before` to `after`.
    pub(super) fn element(
        &mut self,
        set: SetId,
        key: Vec<u8>,
        before: Option<Value>,
        after: Option<Value>,
    ) {
        use std::collections::btree_map::Entry;
        match self.elements.entry((set, key)) {
            Entry::Vacant(entry) => {
                if before != after {
                    entry.insert(Edit { before, after });
                }
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().after = after;
                if entry.get().before == entry.get().after {
                    entry.remove();
                }
            }
        }
    }

    /// A chain comes or goes.
    pub(super) fn chain(&mut self, name: &Name, is_there: bool) {
        let entry = self.chains.entry(name.clone()).or_insert((!is_there, is_there));
        entry.1 = is_there;
        if entry.0 == entry.1 {
            self.chains.remove(name);
        }
    }
}
