//! Follows the node's devices: every event makes us look again at everything.

use std::time::Duration;

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection, sys::SocketAddr,
};
use tokio::{sync::watch, task::JoinHandle, time};

use super::{
    Devices, Error, Selection,
    classify::{check, classify},
    observe::observe,
};

/// Events that come together are answered once.
const SETTLE: Duration = Duration::from_millis(20);
/// Looks again without an event: what an overrun socket or a missed message would hide.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After a failure of netlink.
const RETRY: Duration = Duration::from_secs(1);

type Events = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// The node's devices, followed until it is dropped.
#[derive(Debug)]
pub struct Watch {
    devices: watch::Receiver<Devices>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Looks once, fails if something asked for by name is missing, and keeps looking.
    pub async fn start(selection: Selection) -> Result<Self, Error> {
        let mut netlink = Netlink::open()?;
        let seen = observe(&netlink.handle).await?;
        check(&seen, &selection)?;
        let (sender, devices) = watch::channel(classify(&seen, &selection));
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = follow(&mut netlink, &selection, &sender).await {
                    tracing::warn!(%error, "lost sight of the node's devices, trying again");
                    time::sleep(RETRY).await;
                }
                match Netlink::open() {
                    Ok(opened) => netlink = opened,
                    Err(error) => tracing::warn!(%error, "cannot watch the node's devices"),
                }
            }
        });
        Ok(Self { devices, task })
    }

    /// The newest devices and their changes.
    pub fn devices(&self) -> watch::Receiver<Devices> {
        self.devices.clone()
    }
}

struct Netlink {
    handle: Handle,
    events: Events,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Netlink {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Netlink {
    fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        // Two sockets: a flood of events must not push the answers of a dump out of the queue.
        let (listener, _, events) = new_multicast_connection(&groups).map_err(Error::Socket)?;
        let (dumper, handle, _) = new_connection().map_err(Error::Socket)?;
        Ok(Self { handle, events, tasks: [tokio::spawn(listener), tokio::spawn(dumper)] })
    }
}

/// Returns when the stream of events ends.
async fn follow(
    netlink: &mut Netlink,
    selection: &Selection,
    sender: &watch::Sender<Devices>,
) -> Result<(), Error> {
    loop {
        let devices = classify(&observe(&netlink.handle).await?, selection);
        sender.send_if_modified(|known| {
            let changed = *known != devices;
            if changed {
                *known = devices;
            }
            changed
        });
        let deadline = time::sleep(LOOK_AGAIN);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                event = netlink.events.next() => match event {
                    Some((message, _)) if matters(&message.payload) => break,
                    Some(_) => {}
                    None => return Ok(()),
                },
                () = &mut deadline => break,
            }
        }
        time::sleep(SETTLE).await;
        while netlink.events.try_recv().is_ok() {}
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has many messages; we need these")]
fn matters(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match payload {
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => true,
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_) => true,
            // Routes to pods come and go by the thousand; only default routes choose a NIC.
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                super::observe::is_default(route)
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests;
