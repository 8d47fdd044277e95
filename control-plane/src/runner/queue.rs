//! Keys that wait for their plan: each at most once, and when it is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::cache::Key;

/// What a plan that was carried out asks of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more.
    Done,
    /// The same again after a while.
    Again(Duration),
    /// It failed: again, and later each time.
    Failed,
}

#[derive(Debug, Default)]
struct Waiting {
    due: Option<Instant>,
    is_running: bool,
    failures: u32,
    /// Not before this, however often it changes: what the last plan cost, many times.
    rest_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<Key, Waiting>,
    order: BTreeSet<(Instant, Key)>,
    /// Keys that have nothing to do, and until when their rest has to be remembered.
    resting: BTreeSet<(Instant, Key)>,
}

/// A queue of keys.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    news: Notify,
}

const DELAY_MIN: Duration = Duration::from_millis(5);
const DELAY_MAX: Duration = Duration::from_secs(1000);

/// How long to wait after so many failures.
pub fn delay(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    DELAY_MIN.saturating_mul(factor.max(1)).min(DELAY_MAX)
}

impl Queue {
    /// Asks for a plan of a key.
    pub fn add(&self, key: Key) {
        self.schedule(key, Instant::now());
    }

    /// Asks for a plan of a key at a moment, or sooner.
    pub fn schedule(&self, key: Key, due: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.schedule(key, due);
        drop(state);
        self.news.notify_one();
    }

    /// The next key that is due; it is not given out again until [`Self::finish`].
    pub async fn next(&self) -> Key {
        loop {
            let until = match self.take(Instant::now()) {
                Ok(key) => return key,
                Err(until) => until,
            };
            match until {
                Some(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = self.news.notified() => {}
                    }
                }
                None => self.news.notified().await,
            }
        }
    }

    /// Says what became of a key, and how long it shall rest at least.
    pub fn finish(&self, key: Key, outcome: Outcome, rest: Duration) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = state.keys.get_mut(&key) else { return };
        waiting.is_running = false;
        waiting.rest_until = Some(now + rest);
        let mut due = waiting.due.take();
        match outcome {
            Outcome::Done => waiting.failures = 0,
            Outcome::Again(after) => {
                waiting.failures = 0;
                due = Some(due.map_or(now + after, |due| due.min(now + after)));
            }
            Outcome::Failed => {
                waiting.failures += 1;
                due = Some(now + delay(waiting.failures));
            }
        }
        if let Some(due) = due {
            state.schedule(key, due);
        } else {
            state.resting.insert((now + rest, key));
            state.forget(now);
        }
        drop(state);
        self.news.notify_one();
    }

    /// How many keys are being planned, or will be before long.
    pub fn due_within(&self, time: Duration) -> usize {
        let until = Instant::now() + time;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let running = state.keys.values().filter(|waiting| waiting.is_running).count();
        running + state.order.iter().take_while(|(due, _)| *due <= until).count()
    }

    fn take(&self, now: Instant) -> Result<Key, Option<Instant>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.order.first() {
            Some((due, _)) if *due <= now => {}
            first => return Err(first.map(|(due, _)| *due)),
        }
        let Some((_, key)) = state.order.pop_first() else { return Err(None) };
        if let Some(waiting) = state.keys.get_mut(&key) {
            waiting.due = None;
            waiting.is_running = true;
        }
        let is_more = !state.order.is_empty();
        drop(state);
        if is_more {
            // A permit may have been spent on this worker alone.
            self.news.notify_one();
        }
        Ok(key)
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        while self.resting.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key)) = self.resting.pop_first() else { return };
            let is_idle = self.keys.get(&key).is_some_and(|waiting| {
                !waiting.is_running
                    && waiting.due.is_none()
                    && waiting.failures == 0
                    && waiting.rest_until.is_none_or(|until| until <= now)
            });
            if is_idle {
                self.keys.remove(&key);
            }
        }
    }

    fn schedule(&mut self, key: Key, due: Instant) {
        let waiting = self.keys.entry(key.clone()).or_default();
        let due = waiting.rest_until.map_or(due, |rest| due.max(rest));
        if waiting.due.is_some_and(|known| known <= due) {
            return;
        }
        let known = waiting.due.replace(due);
        if waiting.is_running {
            return;
        }
        if let Some(known) = known {
            self.order.remove(&(known, key.clone()));
        }
        self.order.insert((due, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::kinds;

    fn key(name: &str) -> Key {
        Key::new(kinds::PODS, "default", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_never_planned_twice_at_once() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("b"));
        assert_eq!(queue.take(Instant::now()), Err(None), "it is being planned");
        queue.finish(key("a"), Outcome::Done, Duration::ZERO);
        assert_eq!(queue.next().await, key("a"), "it changed meanwhile");
        queue.finish(key("a"), Outcome::Done, Duration::ZERO);
        assert_eq!(queue.take(Instant::now()), Err(None));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time() {
        let queue = Queue::default();
        queue.add(key("a"));
        let mut waits = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            let key = queue.next().await;
            waits.push(before.elapsed().as_millis());
            queue.finish(key, Outcome::Failed, Duration::ZERO);
        }
        assert!(waits[1] >= 5 && waits[2] >= 10 && waits[3] >= 20, "{waits:?}");
        assert_eq!(delay(1), Duration::from_millis(5));
        assert_eq!(delay(40), Duration::from_secs(1000));
    }

    #[tokio::test(start_paused = true)]
    async fn again_comes_after_its_time_or_with_a_change() {
        let queue = Queue::default();
        queue.add(key("a"));
        let first = queue.next().await;
        queue.finish(first, Outcome::Again(Duration::from_secs(9)), Duration::ZERO);
        let before = Instant::now();
        let second = queue.next().await;
        assert!(before.elapsed() >= Duration::from_secs(9));
        queue.finish(second, Outcome::Again(Duration::from_secs(9)), Duration::ZERO);
        queue.add(key("a"));
        let before = Instant::now();
        queue.next().await;
        assert!(before.elapsed() < Duration::from_secs(1));
    }
}
