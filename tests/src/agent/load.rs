//! Requests one after the other from several threads, counted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    ask::Socket,
    protocol::{Answer, Failure, Load, Loaded, Pattern, Size},
};

/// A load that runs.
#[derive(Debug)]
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Loaded>>,
}

impl Running {
    pub(super) fn start(load: &Load) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = |_number| {
            let (load, stop) = (load.clone(), Arc::clone(&stop));
            thread::spawn(move || work(&load, &stop))
        };
        let workers = (0..load.workers).map(worker).collect();
        Self { stop, workers }
    }

    pub(super) fn stop(self) -> Loaded {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Loaded::default();
        for worker in self.workers {
            let Ok(part) = worker.join() else {
                total.errors += 1;
                continue;
            };
            for (pod, answers) in part.answers {
                *total.answers.entry(pod).or_default() += answers;
            }
            total.errors += part.errors;
            total.first_error = total.first_error.or(part.first_error);
            total.slowest_ms = total.slowest_ms.max(part.slowest_ms);
        }
        total
    }
}

fn work(load: &Load, stop: &AtomicBool) -> Loaded {
    let mut loaded = Loaded::default();
    let mut socket = None;
    while !stop.load(Ordering::Relaxed) {
        match once(load, &mut socket) {
            Ok(answer) => {
                loaded.slowest_ms = loaded.slowest_ms.max(answer.elapsed_ms);
                *loaded.answers.entry(answer.seen.pod).or_default() += 1;
            }
            Err(failure) => {
                loaded.errors += 1;
                loaded.first_error.get_or_insert_with(|| failure.to_string());
                socket = None;
            }
        }
        if load.pattern == Pattern::NewSocket {
            socket = None;
        }
        thread::sleep(Duration::from_millis(load.pause_ms));
    }
    loaded
}

fn once(load: &Load, socket: &mut Option<Socket>) -> Result<Answer, Failure> {
    let timeout = Duration::from_millis(load.timeout_ms);
    let unconnected = load.pattern == Pattern::OneUnconnected;
    let open = if let Some(open) = socket {
        open
    } else {
        let connect_to = (!unconnected).then_some(load.to);
        // An unconnected socket takes its family from the address that it is bound to.
        let from = unconnected.then(|| any(load.to));
        socket.insert(Socket::open(load.transport, connect_to, from, timeout)?)
    };
    open.ask(unconnected.then_some(load.to), Size::default(), timeout)
}

fn any(family: SocketAddr) -> SocketAddr {
    match family {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    }
}
