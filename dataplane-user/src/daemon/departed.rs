//! Looks after the node's own connected UDP sockets whose endpoint has left.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dataplane_common::{Live, Peer, PeerKey, names};
use tokio::sync::mpsc;

use crate::{
    ebpf::{
        maps::{KernelMaps, MapWriter as _},
        program::Departed,
        sockets::{SocketError, destroy_udp},
    },
    model::Protocol,
};

/// The maps that say which sockets were translated; nothing where no socket is.
#[derive(Clone, Debug, Default)]
pub struct SocketMaps(Arc<Mutex<Option<KernelMaps>>>);

impl SocketMaps {
    /// From now on these.
    pub fn set(&self, maps: Option<KernelMaps>) {
        *self.lock() = maps;
    }

    fn lock(&self) -> MutexGuard<'_, Option<KernelMaps>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Destroys the node's own connected UDP sockets whose endpoint has left, batch by batch.
pub async fn destroy_sockets(
    maps: SocketMaps,
    mut batches: mpsc::UnboundedReceiver<Vec<Departed>>,
) {
    while let Some(departed) = batches.recv().await {
        let result = tokio::task::block_in_place(|| match maps.lock().as_mut() {
            Some(maps) => destroy_batch(maps, &departed),
            None => Ok(0),
        });
        match result {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "destroyed UDP sockets whose endpoint has left"),
            Err(error) => {
                let error = crate::ebpf::attach::chain(&error);
                tracing::warn!(error, "UDP sockets may still be connected to endpoints that left");
            }
        }
    }
}

fn destroy_batch(maps: &mut KernelMaps, departed: &[Departed]) -> Result<usize, SocketError> {
    let udp = departed.iter().filter(|endpoint| endpoint.protocol == Protocol::Udp);
    let mut left: BTreeMap<u32, u32> = BTreeMap::new();
    for endpoint in udp.clone() {
        *left.entry(endpoint.id).or_default() |= endpoint.views;
    }
    let peers: BTreeSet<SocketAddr> =
        udp.map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port)).collect();
    if peers.is_empty() {
        return Ok(0);
    }
    let maps = RefCell::new(maps);
    destroy_udp(&peers, |cookie, peer| {
        let key = PeerKey {
            cookie,
            addr: match peer.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            },
            port: peer.port().to_be_bytes(),
            protocol: dataplane_common::UDP,
            direction: 1,
            pad: [0; 4],
        };
        let shown = maps.borrow_mut().lookup::<PeerKey, Peer>(names::PEERS, &key);
        let Some(shown) = shown.ok().flatten() else { return false };
        // A socket that chose it in a view that it did not leave keeps it.
        let views = left.get(&shown.endpoint).copied().unwrap_or(0);
        views & u32::from(shown.views) != 0 || views == Live::CLUSTER | Live::LOCAL
    })
}
