//! Tells load balancers whether this node has endpoints of a Service (`healthCheckNodePort`).

mod answer;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
    time,
};

use crate::{daemon::Shared, model::HealthCheck};

/// Connections that wait to be accepted, per listener.
const BACKLOG: u32 = 128;
/// Between two attempts to listen, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the listeners follow.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Which Services are asked about, and what the answers are.
    pub checks: watch::Receiver<Vec<HealthCheck>>,
    /// Where to listen.
    pub addresses: watch::Receiver<Addresses>,
    /// Whether the proxy is healthy; also where the listeners are reported.
    pub shared: Shared,
}

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// On all addresses of the families of `list`, those that come later included.
    pub every: bool,
    /// Addresses of this node.
    pub list: BTreeSet<IpAddr>,
}

impl Addresses {
    fn listen_on(&self) -> BTreeSet<IpAddr> {
        if !self.every {
            return self.list.clone();
        }
        let unspecified = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        self.list.iter().map(unspecified).collect()
    }
}

/// Keeps one listener for each port and address until nobody names either any more.
pub async fn run(mut inputs: Inputs) {
    let mut listeners = Listeners::default();
    let mut pause = RETRY.0;
    loop {
        let checks = inputs.checks.borrow_and_update().clone();
        let addresses = inputs.addresses.borrow_and_update().listen_on();
        listeners.follow(&wanted(&checks, &addresses), &inputs);
        let changed = tokio::select! {
            changed = inputs.checks.changed() => changed,
            changed = inputs.addresses.changed() => changed,
            () = time::sleep(pause), if !listeners.failures.is_empty() => {
                pause = RETRY.1.min(pause * 2);
                continue;
            }
        };
        if changed.is_err() {
            return;
        }
        pause = RETRY.0;
    }
}

/// Every listener, and for which check it is. A port that two Services name is the first one's.
fn wanted<'a>(
    checks: &'a [HealthCheck],
    addresses: &BTreeSet<IpAddr>,
) -> BTreeMap<SocketAddr, &'a HealthCheck> {
    let mut wanted = BTreeMap::new();
    for check in checks {
        for address in addresses {
            wanted.entry(SocketAddr::new(*address, check.port)).or_insert(check);
        }
    }
    wanted
}

#[derive(Debug, Default)]
struct Listeners {
    tasks: BTreeMap<SocketAddr, Task>,
    /// Why there is no listener.
    failures: BTreeMap<SocketAddr, String>,
}

/// A listener with its connections; both end with it.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listeners {
    fn follow(&mut self, wanted: &BTreeMap<SocketAddr, &HealthCheck>, inputs: &Inputs) {
        self.tasks.retain(|at, _| wanted.contains_key(at));
        self.failures.retain(|at, _| wanted.contains_key(at));
        for (at, check) in wanted {
            if self.tasks.contains_key(at) {
                continue;
            }
            match listen(*at) {
                Ok(listener) => {
                    if self.failures.remove(at).is_some() {
                        tracing::info!("health checks are answered on {at} now");
                    }
                    let answers = answer::serve(listener, at.port(), inputs.clone());
                    self.tasks.insert(*at, Task(tokio::spawn(answers)));
                }
                Err(error) => self.failed(*at, check, &error),
            }
        }
        let failures = self.failures.values().cloned().collect();
        inputs.shared.update(|report| {
            report.health_check_listeners = self.tasks.len() as u64;
            report.health_check_failures = failures;
        });
    }

    fn failed(&mut self, at: SocketAddr, check: &HealthCheck, error: &io::Error) {
        let service = &check.service;
        let failure = format!(
            "cannot listen on {at} for health checks of Service {}/{}: {error}",
            service.namespace, service.name
        );
        if self.failures.get(&at) != Some(&failure) {
            tracing::warn!("{failure}; trying on");
        }
        self.failures.insert(at, failure);
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // Each family has a listener of its own, whatever `bindv6only` says.
            setsockopt(&socket, Ipv6V6Only, &true)?;
            socket
        }
    };
    // A restart must not wait for old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests;
