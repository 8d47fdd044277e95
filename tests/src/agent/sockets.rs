//! What an agent holds between two requests, and how each request is done.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    ask::{Socket, failure},
    load::Running,
    protocol::{Failure, Op, Reply, Why},
    serve::Servers,
};

/// Servers, open sockets and loads of one agent.
#[derive(Debug, Default)]
pub(super) struct Held {
    servers: Servers,
    outlives: AtomicBool,
    numbers: AtomicU64,
    sockets: Mutex<BTreeMap<u64, Arc<Mutex<Socket>>>>,
    loads: Mutex<BTreeMap<u64, Running>>,
}

impl Held {
    /// Does what is asked; other requests may be under way at the same time.
    pub(super) fn run(&self, op: Op) -> Result<Reply, Failure> {
        let begun = Instant::now();
        match op {
            Op::Serve { name, transport, at } => {
                let started = self.servers.start(name, transport, at);
                started.map(|()| Reply::Done).map_err(|error| failure(&error, begun))
            }
            Op::StopServing { transport, at } => {
                self.servers.stop(transport, at);
                Ok(Reply::Done)
            }
            Op::Open { transport, to, from, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                let socket = Socket::open(transport, to, from, timeout)?;
                let number = self.number();
                locked(&self.sockets).insert(number, Arc::new(Mutex::new(socket)));
                Ok(Reply::Opened(number))
            }
            Op::Ask { socket, to, size, timeout_ms } => {
                let found = locked(&self.sockets).get(&socket).cloned();
                let open = found.ok_or_else(|| unknown("socket", socket))?;
                let answer = locked(&open).ask(to, size, Duration::from_millis(timeout_ms))?;
                Ok(Reply::Answer(answer))
            }
            Op::Close { socket } => {
                locked(&self.sockets).remove(&socket);
                Ok(Reply::Done)
            }
            Op::Outlive => {
                self.outlives.store(true, Ordering::Relaxed);
                Ok(Reply::Done)
            }
            Op::StartLoad(load) => {
                let number = self.number();
                locked(&self.loads).insert(number, Running::start(&load));
                Ok(Reply::Opened(number))
            }
            Op::StopLoad { load } => {
                let running = locked(&self.loads).remove(&load);
                Ok(Reply::Loaded(running.ok_or_else(|| unknown("load", load))?.stop()))
            }
        }
    }

    /// Whether the agent should serve on after the end of its input.
    pub(super) fn outlives(&self) -> bool {
        self.outlives.load(Ordering::Relaxed)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown(what: &str, number: u64) -> Failure {
    Failure { why: Why::Other, text: format!("there is no {what} {number}"), elapsed_ms: 0 }
}
