//! Which endpoint of a frontend a flow gets.

use dataplane_common::{
    Affinity, AffinityKey, Endpoint, EndpointId, Flow, Frontend, Live, Reason, Slots, Tuple, gate,
};

use crate::{address::Ip, tables::Tables};

const NS_PER_S: u64 = 1_000_000_000;

/// Where a client is, seen from this node.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A pod of this node, or one of its own processes.
    Inside = 0,
    /// Anywhere else; pods of other nodes too.
    Outside = 1,
}

/// What a frontend means to the clients of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Their endpoints.
    pub slots: Slots,
    /// The frontend's flags, with those of the scope in the places of `*_INSIDE`.
    flags: u32,
}

impl View {
    /// What `frontend` means to clients of this scope.
    #[inline(always)]
    pub const fn of(frontend: &Frontend, scope: Scope) -> Self {
        let slots = match scope {
            Scope::Inside => frontend.inside,
            Scope::Outside => frontend.outside,
        };
        // Each bit for outside stands next to that for inside.
        Self { slots, flags: frontend.flags >> scope as u32 }
    }

    /// Whether the source of their packets becomes the node's address.
    #[inline(always)]
    pub const fn masquerades(&self) -> bool {
        self.flags & Frontend::MASQUERADE_INSIDE != 0
    }

    /// Whether packets are dropped where there is no slot, not refused.
    #[inline(always)]
    pub const fn drops(&self) -> bool {
        self.flags & Frontend::DROP_INSIDE != 0
    }

    /// Where endpoints must take new flows: one bit of [`Live`].
    ///
    /// Without a branch, since the verifier would walk all that follows twice.
    #[inline(always)]
    pub const fn live(&self) -> u32 {
        Live::CLUSTER + ((self.flags / Frontend::LOCAL_INSIDE) & 1)
    }
}

/// Who wants an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Client<const N: usize> {
    /// Its address, if that is known; without, no source range has it.
    pub addr: Option<[u8; N]>,
    /// What it is known by to session affinity, as in [`AffinityKey`].
    pub identity: [u8; 16],
    /// A number that selects among equal endpoints.
    pub number: u32,
}

/// The endpoint of a new flow.
///
/// Laid out for the kernel, which takes 8 bytes of its stack at a time only where they are aligned:
/// the compiler copies an endpoint's last 8 bytes as one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen<const N: usize> {
    /// The endpoint's port, in the machine's order.
    pub port: u16,
    /// The endpoint's flags.
    pub endpoint_flags: u16,
    /// The endpoint's identity.
    pub id: EndpointId,
    /// The endpoint's address.
    pub addr: [u8; N],
    /// Flags of [`Flow`]: the view, and whether session affinity chose.
    pub flags: u32,
}

impl<const N: usize> Chosen<N> {
    #[inline(always)]
    const fn new(endpoint: &Endpoint<N>, flags: u32) -> Self {
        Self {
            port: endpoint.port(),
            endpoint_flags: endpoint.flags(),
            id: endpoint.id(),
            addr: endpoint.addr(),
            flags,
        }
    }
}

/// Why a client gets no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is none, and the client is told so.
    Refuse,
    /// The client is told nothing.
    Drop(Reason),
}

/// The endpoint of a new flow: source ranges, then the view, then session affinity, then the number.
#[inline(always)]
pub fn choose<T, const N: usize>(
    tables: &mut T,
    frontend: &Frontend,
    view: &View,
    client: &Client<N>,
) -> Result<Chosen<N>, Denied>
where
    T: Tables<N>,
    [u8; N]: Ip,
{
    if frontend.flags & Frontend::SOURCE_RANGES != 0
        && !client.addr.is_some_and(|addr| tables.is_allowed(frontend.service, &addr))
    {
        return Err(Denied::Drop(Reason::SourceNotAllowed));
    }
    let Some(slot) = slot(&view.slots, client.number) else {
        return Err(if view.drops() {
            Denied::Drop(Reason::NoLocalEndpoint)
        } else {
            Denied::Refuse
        });
    };
    if frontend.flags & Frontend::AFFINITY != 0 {
        return stay(tables, frontend, view, client, slot);
    }
    let endpoint = tables.endpoint(slot).ok_or(Denied::Drop(Reason::NoSuchEndpoint))?;
    Ok(Chosen::new(&endpoint, view.live() << Flow::<N>::VIEWS_SHIFT))
}

/// The endpoint that the client had last time while that serves it, else that in `slot` from now on.
#[inline(always)]
fn stay<T, const N: usize>(
    tables: &mut T,
    frontend: &Frontend,
    view: &View,
    client: &Client<N>,
    slot: u32,
) -> Result<Chosen<N>, Denied>
where
    T: Tables<N>,
    [u8; N]: Ip,
{
    let flags = view.live() << Flow::<N>::VIEWS_SHIFT;
    let key = AffinityKey { client: client.identity, service: frontend.service, pad: 0 };
    let now_ns = tables.now_ns();
    if let Some(last) = tables.affinity(&key)
        && now_ns.saturating_sub(last.last_ns) <= u64::from(frontend.affinity_s) * NS_PER_S
        && tables.is_live(EndpointId::from_bits(last.endpoint), view.live())
        && let Some(addr) = Ip::narrowed(&last.addr)
    {
        tables.refresh(&key, now_ns);
        return Ok(Chosen {
            port: u16::from_be_bytes(last.port),
            endpoint_flags: last.flags,
            id: EndpointId::from_bits(last.endpoint),
            addr,
            flags: flags | Flow::<N>::AFFINE,
        });
    }
    let endpoint = tables.endpoint(slot).ok_or(Denied::Drop(Reason::NoSuchEndpoint))?;
    let next = Affinity {
        last_ns: now_ns,
        addr: endpoint.addr().widened(),
        port: endpoint.port().to_be_bytes(),
        flags: endpoint.flags(),
        endpoint: endpoint.id().to_bits(),
    };
    tables.stay(&key, &next);
    Ok(Chosen::new(&endpoint, flags))
}

/// Hash of both ends: the same flow always gets the same number, on every node.
#[inline(always)]
pub const fn hash<const N: usize>(tuple: &Tuple<N>, protocol: u8) -> u32 {
    let [a, b] = tuple.src_port;
    let [c, d] = tuple.dst_port;
    let ports = u32::from_be_bytes([a, b, c, d]);
    let ends = gate::hash(&tuple.src) ^ gate::hash(&tuple.dst).rotate_left(16);
    mix(ends ^ mix(ports.wrapping_add(protocol as u32)))
}

/// Slot of the endpoint that `hash` selects among these, or `None` when there are none.
///
/// The upper half of a product instead of a remainder: no division, and no bias worth the name.
#[inline(always)]
pub const fn slot(slots: &Slots, hash: u32) -> Option<u32> {
    if slots.count == 0 {
        return None;
    }
    let within = (hash as u64 * slots.count as u64) >> 32;
    Some(slots.base.wrapping_add(within as u32))
}

/// Spread every bit of `word` over all others (the finaliser of Murmur hash 3, 32 bits).
#[inline(always)]
pub const fn mix(word: u32) -> u32 {
    let word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    let word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_over_all_endpoints_within_five_percent_of_their_share() {
        let slots = Slots { base: 100, count: 7 };
        let mut hits = [0u32; 7];
        for client in 0..20_000u16 {
            let tuple = Tuple {
                src: [10, 244, client.to_be_bytes()[0] & 3, client.to_be_bytes()[1]],
                dst: [10, 96, 0, 1],
                src_port: (32_768 + client).to_be_bytes(),
                dst_port: 80u16.to_be_bytes(),
            };
            let slot = slot(&slots, hash(&tuple, 6)).unwrap();
            hits[usize::try_from(slot - 100).unwrap()] += 1;
        }
        for count in hits {
            let share = f64::from(count) / (20_000.0 / 7.0);
            assert!((0.95..1.05).contains(&share), "{hits:?}");
        }
    }

    #[test]
    fn a_frontend_without_endpoints_selects_none() {
        let slots = Slots { base: 5, count: 0 };
        assert_eq!(slot(&slots, u32::MAX), None);
    }

    #[test]
    fn the_greatest_hash_selects_the_last_endpoint() {
        let slots = Slots { base: 5, count: 3 };
        assert_eq!(slot(&slots, u32::MAX), Some(7));
        assert_eq!(slot(&slots, 0), Some(5));
    }
}
