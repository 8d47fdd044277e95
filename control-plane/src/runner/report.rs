//! Writes Events: equal ones are counted, similar ones combined, and nobody can flood the store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Report, World, time};
use crate::{cache::kinds::EVENTS, object::text};

/// More than this many different messages of one reason about one object are combined.
const SIMILAR_MAX: usize = 10;
/// Within this time.
const SIMILAR_TIME: i64 = 600;
/// Events about one object from one source that may come at once; one more each five minutes.
const BURST: f64 = 25.0;
const REFILL_PER_S: f64 = 1.0 / 300.0;
/// Objects that are remembered; all are forgotten when there are more.
const REMEMBERED_MAX: usize = 4096;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

#[derive(Debug, Default)]
struct Group {
    messages: Vec<String>,
    since: i64,
}

/// What was said before.
#[derive(Debug, Default)]
pub struct Memory {
    written: BTreeMap<(String, &'static str, String), Arc<Value>>,
    groups: BTreeMap<(String, &'static str), Group>,
    buckets: BTreeMap<(String, &'static str), Bucket>,
    count: u64,
}

/// What to write for a report.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// Nothing: there was too much.
    Nothing,
    /// A new Event.
    New(Value),
    /// An Event that happened again.
    Again(Value),
}

/// Writes what is reported, for as long as anybody may report.
pub async fn write(world: Arc<World>, mut reports: mpsc::Receiver<Report>) {
    let mut memory = Memory::default();
    while let Some(report) = reports.recv().await {
        if !world.leader.is_leading() {
            continue;
        }
        let now = (world.clock)();
        let mut said = memory.say(&report, now);
        for _ in 0..2 {
            let result = match &said {
                Said::Nothing => break,
                Said::New(event) => world.client.create(EVENTS, event.clone()).await,
                Said::Again(event) => world.client.update(EVENTS, event.clone()).await,
            };
            match result {
                Ok(event) => {
                    memory.keep(&report, event);
                    break;
                }
                Err(failure) => {
                    tracing::debug!(?failure, "cannot write an event");
                    // The Event may be gone; then it is told anew.
                    said = memory.forget(&report, now);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

impl Memory {
    /// What to write for a report.
    pub fn say(&mut self, report: &Report, now: Timestamp) -> Said {
        if self.written.len() > REMEMBERED_MAX || self.buckets.len() > REMEMBERED_MAX {
            self.written.clear();
            self.groups.clear();
            self.buckets.clear();
        }
        let uid = about(report);
        let bucket = self
            .buckets
            .entry((uid.clone(), report.source))
            .or_insert(Bucket { tokens: BURST, at: now });
        #[expect(clippy::cast_precision_loss, reason = "seconds between two events")]
        let passed = (now.as_second() - bucket.at.as_second()) as f64;
        bucket.tokens = (bucket.tokens + passed * REFILL_PER_S).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Said::Nothing;
        }
        bucket.tokens -= 1.0;
        let message = self.combine(report, &uid, now);
        match self.written.get(&(uid, report.reason, key(&message))) {
            Some(event) => {
                let mut event = Value::clone(event);
                let count = event["count"].as_i64().unwrap_or(1);
                event["count"] = (count + 1).into();
                event["lastTimestamp"] = time(now);
                event["message"] = message.into();
                Said::Again(event)
            }
            None => Said::New(self.event(report, &message, now)),
        }
    }

    fn combine(&mut self, report: &Report, uid: &str, now: Timestamp) -> String {
        let group = self.groups.entry((uid.to_owned(), report.reason)).or_default();
        if now.as_second() - group.since > SIMILAR_TIME {
            *group = Group { messages: Vec::new(), since: now.as_second() };
        }
        if group.messages.contains(&report.message) {
            return report.message.clone();
        }
        if group.messages.len() < SIMILAR_MAX {
            group.messages.push(report.message.clone());
            return report.message.clone();
        }
        format!("{COMBINED}{}", report.message)
    }

    fn keep(&mut self, report: &Report, event: Arc<Value>) {
        let message = key(text(&event, &["message"]));
        self.written.insert((about(report), report.reason, message), event);
    }

    fn forget(&mut self, report: &Report, now: Timestamp) -> Said {
        self.written
            .retain(|(uid, reason, _), _| *uid != about(report) || *reason != report.reason);
        Said::New(self.event(report, &report.message, now))
    }

    fn event(&mut self, report: &Report, message: &str, now: Timestamp) -> Value {
        self.count += 1;
        let name = text(&report.about, &["name"]);
        let namespace = match text(&report.about, &["namespace"]) {
            "" => "default",
            namespace => namespace,
        };
        let suffix = now.as_nanosecond().unsigned_abs() + u128::from(self.count);
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.{suffix:x}"), "namespace": namespace},
            "involvedObject": report.about,
            "reason": report.reason,
            "message": message,
            "source": {"component": report.source},
            "reportingComponent": report.source,
            "reportingInstance": "",
            "type": if report.is_warning { "Warning" } else { "Normal" },
            "count": 1,
            "firstTimestamp": time(now),
            "lastTimestamp": time(now),
        })
    }
}

const COMBINED: &str = "(combined from similar events): ";

/// Combined messages count as one.
fn key(message: &str) -> String {
    if message.starts_with(COMBINED) { COMBINED.to_owned() } else { message.to_owned() }
}

fn about(report: &Report) -> String {
    match text(&report.about, &["uid"]) {
        "" => text(&report.about, &["name"]).to_owned(),
        uid => uid.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(message: &str) -> Report {
        let about = json!({"kind": "Pod", "namespace": "a", "name": "web", "uid": "1"});
        let (source, reason, message) = ("tests", "Tried", message.to_owned());
        Report { source, about, is_warning: true, reason, message }
    }

    #[test]
    fn equal_events_are_counted_similar_ones_combined_and_floods_end() {
        let mut memory = Memory::default();
        let mut say = |message: &str, at: i64| {
            let (report, now) = (report(message), Timestamp::from_second(1_000 + at).unwrap());
            let said = memory.say(&report, now);
            if let Said::New(event) | Said::Again(event) = &said {
                memory.keep(&report, Arc::new(event.clone()));
            }
            said
        };
        assert!(matches!(say("x", 0), Said::New(_)));
        let Said::Again(event) = say("x", 5) else { panic!("a second event") };
        assert_eq!((&event["count"], text(&event, &["reason"])), (&json!(2), "Tried"));
        for n in 0..9 {
            assert!(matches!(say(&n.to_string(), 5), Said::New(_)));
        }
        let Said::New(event) = say("eleventh", 5) else { panic!("none") };
        assert_eq!(event["message"], "(combined from similar events): eleventh");
        assert!(matches!(say("twelfth", 5), Said::Again(_)));
        let told = (0..40).filter(|n| say(&format!("y{n}"), 6) != Said::Nothing).count();
        assert_eq!(told, 12, "25 at once");
        assert_ne!(say("z", 400), Said::Nothing);
    }
}
