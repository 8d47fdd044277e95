//! The maps. Sizes given here are defaults; the loader may set others.

use aya_ebpf::{
    bindings::bpf_fib_lookup,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use dataplane_common::{
    Config, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Hook, Peer, PeerKey, gate,
    names,
    reason::{COUNTERS_MAX, REASONS_MAX},
};

#[map]
pub(super) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(super) static LIVE: Array<u32> = Array::with_max_entries(EndpointId::INDEX_MAX, 0);
#[map]
pub(super) static GATE: Array<u64> = Array::with_max_entries(gate::WORDS, 0);
#[map]
pub(super) static ENDPOINTS4: Array<Endpoint<4>> = Array::with_max_entries(names::ENDPOINTS_MAX, 0);
#[map]
pub(super) static ENDPOINTS6: Array<Endpoint<16>> =
    Array::with_max_entries(names::ENDPOINTS_MAX, 0);
#[map]
pub(super) static FRONTENDS4: HashMap<FrontendKey<4>, Frontend> =
    HashMap::with_max_entries(names::FRONTENDS_MAX, 0);
#[map]
pub(super) static FRONTENDS6: HashMap<FrontendKey<16>, Frontend> =
    HashMap::with_max_entries(names::FRONTENDS_MAX, 0);
#[map]
pub(super) static NODE_ADDRESSES4: HashMap<[u8; 4], u32> =
    HashMap::with_max_entries(names::NODE_ADDRESSES_MAX, 0);
#[map]
pub(super) static NODE_ADDRESSES6: HashMap<[u8; 16], u32> =
    HashMap::with_max_entries(names::NODE_ADDRESSES_MAX, 0);
#[map]
pub(super) static FLOWS4: LruHashMap<FlowKey<4>, Flow<4>> =
    LruHashMap::with_max_entries(names::FLOWS_MAX, 0);
#[map]
pub(super) static FLOWS6: LruHashMap<FlowKey<16>, Flow<16>> =
    LruHashMap::with_max_entries(names::FLOWS_MAX, 0);
#[map]
pub(super) static PEERS: LruHashMap<PeerKey, Peer> =
    LruHashMap::with_max_entries(names::PEERS_MAX, 0);
#[map]
pub(super) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// Where a flow is put together before it is inserted: the 512-byte stack has no room for it.
#[map]
pub(super) static DRAFT4: PerCpuArray<Flow<4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(super) static DRAFT6: PerCpuArray<Flow<16>> = PerCpuArray::with_max_entries(1, 0);

/// The parameters of a route lookup, for the same reason.
#[map]
pub(super) static DRAFT_ROUTE: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);

/// A word that a program writes and reads back (see `Packet::forget`).
#[map]
pub(super) static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Count one packet or call.
#[inline(always)]
pub(super) fn count(hook: Hook, reason: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(hook as u32 * REASONS_MAX + reason) {
        // SAFETY: the pointer is to this CPU's own counter, aligned and alive for the whole
        // program run; programs are not preempted by themselves on one CPU.
        unsafe { *counter += 1 };
    }
}
