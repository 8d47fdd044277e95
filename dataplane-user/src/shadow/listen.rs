//! Hears of new connections, and compares each.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Counts, Finding,
    compare::{compare, is_to_node, packet},
};
use crate::{
    backend::Node,
    conntrack::{Entry, place::Places},
    ebpf::{Program, simulate::simulate},
    netlink::{
        Error, Received, Socket,
        netfilter::{self, subsystem},
    },
};

/// Multicast group of connections that are new.
const GROUP_NEW: u32 = 1;
const NEW: u8 = 0;
/// How long it takes at most until a listener notices that it shall end.
const PATIENCE: Duration = Duration::from_millis(250);
/// After a change of the table nobody knows for so long which one netfilter had.
const SETTLE: Duration = Duration::from_secs(1);
/// Differences of each kind that are logged.
const LOGGED_MAX: u64 = 5;

/// What eBPF would have, kept up by the loop.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) program: Program,
    pub(super) node: Node,
    pub(super) changed: Instant,
}

/// A thread that compares until it is dropped.
#[derive(Debug)]
pub(super) struct Listener(Arc<AtomicBool>);

impl Listener {
    /// Listens in this network namespace.
    pub(super) fn start(image: Arc<Mutex<Image>>, counts: Counts) -> Result<Self, Error> {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
        socket.join(GROUP_NEW)?;
        let places = Places::open()?;
        let ended = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&ended);
        let mut comparing = Comparing { image, counts, places };
        thread::spawn(move || {
            while !watched.load(Ordering::Relaxed) {
                match socket.event(PATIENCE) {
                    Ok(Some(event)) => comparing.take(&event),
                    Ok(None) => {}
                    // More came than fits: some are not compared, which changes no count that is shown.
                    Err(error) if error.errno() == Some(libc::ENOBUFS) => {}
                    Err(error) => {
                        let error = crate::ebpf::attach::chain(&error);
                        tracing::warn!(error, "new connections are no longer compared");
                        return;
                    }
                }
            }
        });
        Ok(Self(ended))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Comparing {
    image: Arc<Mutex<Image>>,
    counts: Counts,
    places: Places,
}

impl Comparing {
    fn take(&mut self, event: &Received) {
        let body = netfilter::parse(event, subsystem::CTNETLINK, NEW);
        let Some(entry) = body.and_then(|(_, body)| Entry::parse(body)) else { return };
        // A panic elsewhere does not make the program wrong.
        let image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        self.places.set_node(&image.node);
        let Ok(scope) = self.places.scope(entry.original.source.ip()) else { return };
        let Some(packet) = packet(&entry, scope) else { return };
        let route = simulate(&image.program, &packet, is_to_node(&packet, &image.node));
        let mut finding = compare(&route, &entry, &packet, &image.node);
        if finding.is_difference() && image.changed.elapsed() < SETTLE {
            finding = Finding::Unsure;
        }
        drop(image);
        let before = self.counts.add(finding);
        if finding.is_difference() && before < LOGGED_MAX {
            let (from, to) = (entry.original.source, entry.original.destination);
            let (endpoint, seen) = (entry.reply.source, entry.reply.destination);
            let kind = finding.name();
            tracing::warn!(
                kind, %from, %to, %endpoint, %seen, ?scope, ?route,
                "eBPF would have decided otherwise"
            );
        }
    }
}
