//! The library's tables as maps and helpers.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST,
        bpf_fib_lookup as FibLookup,
    },
    helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns},
    maps::lpm_trie::Key,
};
use dataplane_common::{
    Affinity, AffinityKey, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Link,
    SourceKey, Tuple, flow::tick,
};
use dataplane_ebpf::{
    limit,
    tables::{Insert, Node, Origin, Ports, Route, Tables},
};

use super::maps::{self, Draft};

/// Errno of an update whose key is taken.
const EEXIST: i32 = -17;
/// What an insert returns otherwise.
const DONE: i32 = 0;
const FULL: i32 = -12;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

macro_rules! stores {
    ($($store:ident, $len:literal, $flows:ident, $draft:ident;)+) => {$(
        /// Enter the draft: [`DONE`] or an errno.
        ///
        /// A second time if the map was in other hands (`EBUSY`) or had just given away its last free
        /// entry (`ENOMEM`): an LRU map evicts on the way. A function of its own, for the stack.
        #[inline(never)]
        fn $store(flags: u64) -> i32 {
            for _ in 0..2 {
                let Some(draft) = maps::$draft.get_ptr(0) else { return EEXIST };
                // SAFETY: this CPU's own value; the caller has written it and looks away.
                let draft = unsafe { &*draft };
                match maps::$flows.insert(&draft.key, &draft.flow, flags) {
                    Ok(()) => return DONE,
                    Err(EEXIST) => return EEXIST,
                    Err(_) => {}
                }
            }
            FULL
        }
    )+};
}

stores! {
    store4, 4, FLOWS4, DRAFT4;
    store6, 16, FLOWS6, DRAFT6;
}

/// A key on the stack, where the kernel takes 8 bytes at a time only if they are aligned.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// The maps, seen from one program run.
pub(super) struct Maps {
    /// The program's context, for helpers that want one.
    pub(super) context: *mut c_void,
    /// The device the packet came from; 0 for sockets.
    pub(super) ifindex: u32,
    /// Whether this is XDP.
    pub(super) is_xdp: bool,
}

impl Node for Maps {
    #[inline(always)]
    fn ports(&self) -> Option<Ports> {
        Ports::of(maps::CONFIG.get(0)?)
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        tick(self.now_ns())
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and always succeeds.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn gate(&self, word: u32, mask: u64) -> bool {
        maps::GATE.get(word).is_some_and(|bits| bits & mask != 0)
    }

    #[inline(always)]
    fn is_live(&self, id: EndpointId, views: u32) -> bool {
        maps::LIVE.get(id.index()).is_some_and(|live| live.takes(id, views))
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        let key = &Aligned(*key).0;
        // SAFETY: the value is copied out at once; entries are written whole, but for the time.
        unsafe { maps::AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn refresh(&mut self, key: &AffinityKey, now_ns: u64) {
        let key = &Aligned(*key).0;
        if let Some(affinity) = maps::AFFINITY.get_ptr_mut(key) {
            // SAFETY: a map value stays writable until the run ends; one aligned word, and the last
            // writer wins.
            unsafe { (*affinity).last_ns = now_ns };
        }
    }

    #[inline(always)]
    fn stay(&mut self, key: &AffinityKey, affinity: &Affinity) {
        let key = &Aligned(*key).0;
        let Some(draft) = maps::DRAFT_AFFINITY.get_ptr_mut(0) else { return };
        // SAFETY: this CPU's own value; nothing else uses it until the insert below.
        let draft = unsafe { &mut *draft };
        *draft = *affinity;
        let draft: &Affinity = draft;
        // A table that takes no entry costs the client its endpoint next time, not its connection.
        let _ = maps::AFFINITY.insert(key, draft, BPF_ANY.into());
    }

    #[inline(always)]
    fn may_answer(&mut self) -> bool {
        if maps::ANSWERS_UNLIMITED.load() != 0 {
            return true;
        }
        let Some(paid) = maps::ANSWERS.get_ptr_mut(0) else { return false };
        // SAFETY: this CPU's own value, aligned and alive for the whole program run.
        let paid_ns = unsafe { *paid };
        let Some(more_ns) = limit::one_more(paid_ns, self.now_ns()) else { return false };
        // SAFETY: as above.
        unsafe { *paid = more_ns };
        true
    }

    #[inline(always)]
    fn has_stack(&self) -> bool {
        !self.is_xdp
    }

    #[inline(always)]
    fn can_leave_by(&self, route: &Route) -> bool {
        !self.is_xdp || matches!(route, Route::Link(link) if link.ifindex == self.ifindex)
    }
}

/// A word of an endpoint.
///
/// Volatile: otherwise the compiler copies the words two at a time to any place on the stack, and the
/// verifier allows that only where they are aligned.
#[inline(always)]
fn load(word: &u32) -> [u8; 4] {
    // SAFETY: a reference is readable.
    unsafe { core::ptr::from_ref(word).read_volatile() }.to_ne_bytes()
}

macro_rules! tables {
    ($len:literal, $sources:ident, $frontends:ident, $endpoints:ident, $addresses:ident, $flows:ident, $draft:ident, $store:ident, $masquerade:ident, $route:ident, $words:ident) => {
        impl Tables<$len> for Maps {
            type Entry = *mut Flow<$len>;

            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$len>) -> Option<Frontend> {
                let key = Aligned(*key);
                // SAFETY: the value is copied out at once; a racing update leaves old or new bytes
                // of each word, and user space writes a frontend as a whole.
                unsafe { maps::$frontends.get(&key.0) }.copied()
            }

            #[inline(always)]
            fn endpoint(&self, slot: u32) -> Option<Endpoint<$len>> {
                let words = maps::$endpoints.get_ptr(slot)?.cast::<[u32; ($len + 8) / 4]>();
                // SAFETY: an endpoint of this family is so many words, aligned as they are, in a map
                // value that stays readable until the run ends.
                let words = unsafe { &*words };
                let mut addr = [[0; 4]; $len / 4];
                for (number, word) in addr.iter_mut().enumerate() {
                    *word = load(&words[number]);
                }
                let [p0, p1, f0, f1] = load(&words[$len / 4]);
                let id = EndpointId::from_bits(u32::from_ne_bytes(load(&words[$len / 4 + 1])));
                let (port, flags) = (u16::from_be_bytes([p0, p1]), u16::from_ne_bytes([f0, f1]));
                let mut whole = [0; $len];
                whole.copy_from_slice(addr.as_flattened());
                Some(Endpoint::new(whole, port, flags, id))
            }

            #[inline(always)]
            fn is_node_address(&self, addr: &[u8; $len]) -> bool {
                let addr = Aligned(*addr);
                maps::$addresses.get_ptr(&addr.0).is_some()
            }

            #[inline(always)]
            fn is_allowed(&self, service: u32, client: &[u8; $len]) -> bool {
                let key = Aligned(SourceKey::client(service, *client));
                let key = core::ptr::from_ref(&key.0).cast::<Key<[u8; 4 + $len]>>();
                // SAFETY: a `Key` of these bytes is laid out as `SourceKey` is, which lives until the
                // end of this function.
                let key = unsafe { &*key };
                maps::$sources.get(key).is_some()
            }

            #[inline(always)]
            fn masquerade(&self) -> Option<[u8; $len]> {
                let addr = maps::CONFIG.get(0)?.$masquerade;
                (addr != [0; $len]).then_some(addr)
            }

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$len>) -> Option<*mut Flow<$len>> {
                maps::$flows.get_ptr_mut(&$words(key))
            }

            #[inline(always)]
            fn to(&self, entry: *mut Flow<$len>) -> Tuple<$len> {
                // SAFETY: the entry was found in this program run; a map value stays readable until
                // the run ends, even when it is deleted or used again meanwhile.
                unsafe { (*entry).to }
            }

            #[inline(always)]
            fn flags(&self, entry: *mut Flow<$len>) -> u32 {
                // SAFETY: as for `to`.
                unsafe { (*entry).flags }
            }

            #[inline(always)]
            fn endpoint_of(&self, entry: *mut Flow<$len>) -> EndpointId {
                // SAFETY: as for `to`.
                EndpointId::from_bits(unsafe { (*entry).endpoint })
            }

            #[inline(always)]
            fn seen(&self, entry: *mut Flow<$len>) -> u32 {
                // SAFETY: as for `to`.
                unsafe { (*entry).seen }
            }

            #[inline(always)]
            fn link(&self, entry: *mut Flow<$len>, now: u32) -> Option<Link> {
                // SAFETY: as for `to`.
                let fresh = unsafe { (*entry).link_seen } == now;
                // SAFETY: as for `to`.
                fresh.then(|| unsafe { (*entry).link })
            }

            #[inline(always)]
            fn set_seen(&mut self, entry: *mut Flow<$len>, seen: u32) {
                // SAFETY: as for `to`; one aligned word, and the last writer wins.
                unsafe { (*entry).seen = seen };
            }

            #[inline(always)]
            fn add_flags(&mut self, entry: *mut Flow<$len>, flags: u32) {
                // SAFETY: as for `to`; a bit lost to another CPU comes again with the next packet.
                unsafe { (*entry).flags |= flags };
            }

            #[inline(always)]
            fn set_link(&mut self, entry: *mut Flow<$len>, link: Link, seen: u32) {
                // SAFETY: as for `to`; two CPUs write the same route within one tick.
                unsafe { (*entry).link = link };
                // SAFETY: as above.
                unsafe { (*entry).link_seen = seen };
            }

            #[inline(always)]
            fn insert_new(
                &mut self,
                key: &FlowKey<$len>,
                to: &Tuple<$len>,
                origin: &Origin,
            ) -> Insert {
                let Some(draft) = maps::$draft.get_ptr_mut(0) else { return Insert::Full };
                // SAFETY: this CPU's own value; nothing else uses it until the insert below.
                unsafe { *draft = Draft { key: $words(key), flow: origin.flow(to) } };
                match $store(BPF_NOEXIST.into()) {
                    DONE => Insert::Done,
                    EEXIST => Insert::Taken,
                    _ => Insert::Full,
                }
            }

            #[inline(always)]
            fn insert(&mut self, key: &FlowKey<$len>, to: &Tuple<$len>, origin: &Origin) -> bool {
                let Some(draft) = maps::$draft.get_ptr_mut(0) else { return false };
                // SAFETY: as for `insert_new`.
                unsafe { *draft = Draft { key: $words(key), flow: origin.flow(to) } };
                $store(BPF_ANY.into()) == DONE
            }

            #[inline(always)]
            fn remove(&mut self, key: &FlowKey<$len>) {
                // An entry that is gone already is what we want.
                let _ = maps::$flows.remove(key);
            }

            #[inline(always)]
            fn route(&self, src: &[u8; $len], dst: &[u8; $len]) -> Route {
                $route(self, src, dst)
            }
        }
    };
}

tables!(
    4,
    SOURCES4,
    FRONTENDS4,
    ENDPOINTS4,
    NODE_ADDRESSES4,
    FLOWS4,
    DRAFT4,
    store4,
    masquerade4,
    route4,
    words4
);
tables!(
    16,
    SOURCES6,
    FRONTENDS6,
    ENDPOINTS6,
    NODE_ADDRESSES6,
    FLOWS6,
    DRAFT6,
    store6,
    masquerade6,
    route6,
    words6
);

/// A key in whole words on the stack: loads of the kernel's hash that find the bytes of a word in
/// several stores have to wait for all of them.
#[inline(always)]
const fn words4(key: &FlowKey<4>) -> FlowKey<4> {
    let Tuple { src, dst, .. } = key.tuple();
    let ends = u32::from_ne_bytes(src) as u64 | (u32::from_ne_bytes(dst) as u64) << 32;
    // SAFETY: 16 bytes, any of which a key may have; the order is that of its fields.
    unsafe { core::mem::transmute::<[u64; 2], FlowKey<4>>([ends, rest(&key.tuple(), key)]) }
}

/// As [`words4`].
#[inline(always)]
const fn words6(key: &FlowKey<16>) -> FlowKey<16> {
    let Tuple { src, dst, .. } = key.tuple();
    let [src, dst] = [u128::from_ne_bytes(src), u128::from_ne_bytes(dst)];
    let words =
        [src as u64, (src >> 64) as u64, dst as u64, (dst >> 64) as u64, rest(&key.tuple(), key)];
    // SAFETY: 40 bytes; as for `words4`.
    unsafe { core::mem::transmute::<[u64; 5], FlowKey<16>>(words) }
}

/// What follows the addresses: ports, protocol, direction and padding.
#[inline(always)]
const fn rest<const N: usize>(tuple: &Tuple<N>, key: &FlowKey<N>) -> u64 {
    u16::from_ne_bytes(tuple.src_port) as u64
        | (u16::from_ne_bytes(tuple.dst_port) as u64) << 16
        | (key.protocol() as u64) << 32
        | (key.is_reply() as u64) << 40
}

#[inline(always)]
fn route4(maps: &Maps, src: &[u8; 4], dst: &[u8; 4]) -> Route {
    let Some(fib) = draft_route(AF_INET) else { return Route::None };
    fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(*src);
    fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(*dst);
    route(maps, fib)
}

#[inline(always)]
fn route6(maps: &Maps, src: &[u8; 16], dst: &[u8; 16]) -> Route {
    let Some(fib) = draft_route(AF_INET6) else { return Route::None };
    fib.__bindgen_anon_3.ipv6_src = words(src);
    fib.__bindgen_anon_4.ipv6_dst = words(dst);
    route(maps, fib)
}

/// The helper's parameters, empty but for the family.
#[inline(always)]
fn draft_route(family: u8) -> Option<&'static mut FibLookup> {
    let draft = maps::DRAFT_ROUTE.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value; one lookup at a time uses it, and ends before the next begins.
    let fib = unsafe { &mut *draft };
    // SAFETY: the struct is plain integers, for which zero is a value.
    *fib = unsafe { core::mem::zeroed() };
    fib.family = family;
    Some(fib)
}

#[inline(always)]
fn route(maps: &Maps, fib: &mut FibLookup) -> Route {
    fib.ifindex = maps.ifindex;
    let len = size_of::<FibLookup>() as i32;
    // SAFETY: the context is the program's own and `fib` is as long as `len` says.
    let result = unsafe { bpf_fib_lookup(maps.context, fib, len, 0) };
    if result == i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        Route::Link(Link { ifindex: fib.ifindex, dst_mac: fib.dmac, src_mac: fib.smac })
    } else if result == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        Route::Neighbour(fib.ifindex)
    } else {
        Route::None
    }
}

/// An IPv6 address as the helper's four words in network order.
#[inline(always)]
pub(super) const fn words(addr: &[u8; 16]) -> [u32; 4] {
    let (words, _) = addr.as_chunks::<4>();
    [
        u32::from_ne_bytes(words[0]),
        u32::from_ne_bytes(words[1]),
        u32::from_ne_bytes(words[2]),
        u32::from_ne_bytes(words[3]),
    ]
}
