//! Keeps what is wrong with Services, and what their conditions say, for whoever corrects them.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::verdict::{Complaint, Standing, Verdict};
use crate::model::{Kind, ObjectEvent, ObjectName, Problem};

/// How Services stand, and who wants to know.
#[derive(Debug)]
pub struct Standings {
    sender: watch::Sender<Standing>,
    /// What conditions say; few Services have one.
    seen: BTreeMap<ObjectName, Verdict>,
    /// Whether `seen` has changed since it was told.
    is_news: bool,
}

impl Standings {
    /// Nothing is known.
    pub fn new() -> Self {
        Self { sender: watch::Sender::default(), seen: BTreeMap::new(), is_news: false }
    }

    /// How Services stand, now and later.
    pub fn subscribe(&self) -> watch::Receiver<Standing> {
        self.sender.subscribe()
    }

    /// Whether there is something to tell, whatever the problems are.
    pub fn is_news(&self) -> bool {
        self.is_news
    }

    /// Notes what the condition of a Service says.
    pub fn look_at(&mut self, event: &ObjectEvent) {
        match event {
            ObjectEvent::Service { object, .. } => {
                let meta = &object.metadata;
                let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return };
                match Verdict::seen(object) {
                    None if self.seen.is_empty() => {}
                    None => self.forget(&ObjectName::new(namespace, name)),
                    Some(verdict) => {
                        let name = ObjectName::new(namespace, name);
                        self.is_news |= self.seen.get(&name) != Some(&verdict);
                        self.seen.insert(name, verdict);
                    }
                }
            }
            ObjectEvent::Gone(object) if object.kind == Kind::Service => self.forget(&object.name),
            // The list names everything that is there.
            ObjectEvent::ListBegin(Kind::Service) => {
                self.is_news |= !self.seen.is_empty();
                self.seen.clear();
            }
            ObjectEvent::Gone(_)
            | ObjectEvent::EndpointSlice { .. }
            | ObjectEvent::Pod { .. }
            | ObjectEvent::Node { .. }
            | ObjectEvent::ListBegin(_)
            | ObjectEvent::ListEnd(_)
            | ObjectEvent::Synced => {}
        }
    }

    fn forget(&mut self, name: &ObjectName) {
        self.is_news |= self.seen.remove(name).is_some();
    }

    /// Tells how Services stand, with all problems that there are now.
    pub fn tell(&mut self, problems: &[Problem]) {
        self.is_news = false;
        let mut of_services: BTreeMap<&ObjectName, Vec<&Problem>> = BTreeMap::new();
        for problem in problems.iter().filter(|problem| problem.object.kind == Kind::Service) {
            of_services.entry(&problem.object.name).or_default().push(problem);
        }
        let complaint = |(name, problems): (&ObjectName, Vec<&Problem>)| {
            Some((name.clone(), Complaint::about(&problems)?))
        };
        let wanted = of_services.into_iter().filter_map(complaint).collect();
        let now = Standing { wanted, seen: self.seen.clone() };
        self.sender.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
    }
}

impl Default for Standings {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::{Cause, ObjectRef},
        source::verdict::CONDITION,
    };

    fn service(conditions: &Value) -> ObjectEvent {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "status": {"conditions": conditions},
        });
        ObjectEvent::Service { object: serde_json::from_value(object).unwrap(), file: None }
    }

    fn condition(status: &str) -> Value {
        json!([{
            "type": CONDITION, "status": status, "reason": "NotAPort", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }])
    }

    #[test]
    fn what_conditions_say_is_known_until_their_service_is_gone() {
        let web = ObjectRef { kind: Kind::Service, name: ObjectName::new("shop", "web") };
        let mut standings = Standings::new();
        let told = standings.subscribe();
        let mut seen = |event: ObjectEvent| {
            standings.look_at(&event);
            standings.tell(&[]);
            told.borrow().seen.get(&web.name).map(|verdict| verdict.is_good)
        };
        assert_eq!(seen(service(&json!([]))), None);
        assert_eq!(seen(service(&condition("False"))), Some(false));
        assert_eq!(seen(service(&condition("True"))), Some(true));
        assert_eq!(seen(ObjectEvent::ListBegin(Kind::EndpointSlice)), Some(true));
        assert_eq!(seen(ObjectEvent::ListBegin(Kind::Service)), None);
        assert_eq!(seen(service(&condition("True"))), Some(true));
        assert_eq!(seen(service(&json!([]))), None);
        assert_eq!(seen(service(&condition("True"))), Some(true));
        assert_eq!(seen(ObjectEvent::Gone(web.clone())), None);
    }

    #[test]
    fn only_problems_of_services_are_told() {
        let problem = |kind| Problem {
            file: None,
            object: ObjectRef { kind, name: ObjectName::new("shop", "web") },
            field: "spec.type".into(),
            cause: Cause::Empty,
        };
        let mut standings = Standings::new();
        standings.tell(&[problem(Kind::EndpointSlice), problem(Kind::Pod)]);
        assert!(standings.subscribe().borrow().wanted.is_empty());
        standings.tell(&[problem(Kind::Service)]);
        assert_eq!(standings.subscribe().borrow().wanted.len(), 1);
    }
}
