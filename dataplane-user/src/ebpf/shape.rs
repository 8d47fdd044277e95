//! How the endpoints of a service port lie in its block, and what a frontend's value says of it.

use dataplane_common::{Frontend, Live, Slots};

use super::blocks::Block;

/// The block of a service port, and which parts of it the views are. Endpoints of the cluster-wide
/// view alone come first, then those of both, then those of the local view alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    /// All endpoints.
    pub(crate) block: Block,
    /// How many, from the first one on, are in the cluster-wide view.
    pub(crate) cluster: u32,
    /// How many, from the first one on, are not in the local view.
    pub(crate) local: u32,
}

impl Shape {
    /// That of a port without endpoints.
    pub(crate) const EMPTY: Self = Self { block: Block::EMPTY, cluster: 0, local: 0 };

    /// The slots of a view; none are none of any block's.
    pub(crate) fn slots(&self, is_local: bool) -> Slots {
        let Block { base, len } = self.block;
        let (base, count) =
            if is_local { (base + self.local, len - self.local) } else { (base, self.cluster) };
        if count == 0 { Slots::default() } else { Slots { base, count } }
    }

    /// The views of the endpoint at this place of the block: bits of [`Live`].
    pub(crate) const fn views(&self, at: u32) -> u32 {
        let cluster = if at < self.cluster { Live::CLUSTER } else { 0 };
        cluster | if at >= self.local { Live::LOCAL } else { 0 }
    }

    /// The value of a frontend with these bits.
    pub(crate) fn value(&self, service: u32, flags: u32, affinity_s: u32) -> Frontend {
        Frontend {
            inside: self.slots(flags & Frontend::LOCAL_INSIDE != 0),
            outside: self.slots(flags & Frontend::LOCAL_OUTSIDE != 0),
            flags,
            service,
            affinity_s: if flags & Frontend::AFFINITY != 0 { affinity_s } else { 0 },
            pad: 0,
        }
    }
}
