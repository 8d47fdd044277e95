//! What is wrong with a Service, in the words of a condition and of events.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;

use crate::model::{Cause, ObjectName, Problem};

/// Type of the condition in `status.conditions` of a Service.
pub const CONDITION: &str = "hashplane.dev/Programmed";
/// Bytes of the longest message; the limit of an Event's note.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Events for one Service, one per cause.
const WARNINGS_MAX: usize = 8;

/// What the condition of a Service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all of the Service is served.
    pub is_good: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// One word: the cause.
    pub reason: String,
    /// Where it is, and what.
    pub note: String,
}

/// What should be said about a Service with problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// For its condition.
    pub verdict: Verdict,
    /// For Events.
    pub warnings: Vec<Warning>,
}

/// How all Services stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Services with problems.
    pub wanted: BTreeMap<ObjectName, Complaint>,
    /// What the conditions say, of Services that have one.
    pub seen: BTreeMap<ObjectName, Verdict>,
}

impl Standing {
    /// What the condition of a Service should say instead of what it says, if it should change. A
    /// Service that never had a problem gets no condition.
    pub fn correction(&self, name: &ObjectName) -> Option<Verdict> {
        correction(self.wanted.get(name), self.seen.get(name))
    }

    /// Every Service whose condition should change.
    pub fn corrections(&self) -> BTreeSet<&ObjectName> {
        let names = self.wanted.keys().chain(self.seen.keys());
        names.filter(|name| self.correction(name).is_some()).collect()
    }
}

/// As [`Standing::correction`], for one Service.
pub fn correction(wanted: Option<&Complaint>, seen: Option<&Verdict>) -> Option<Verdict> {
    match (wanted, seen) {
        (Some(complaint), seen) => {
            (seen != Some(&complaint.verdict)).then(|| complaint.verdict.clone())
        }
        (None, Some(seen)) => (!seen.is_good).then(Verdict::good),
        (None, None) => None,
    }
}

impl Verdict {
    /// All is well again.
    pub fn good() -> Self {
        Self {
            is_good: true,
            reason: "Programmed".to_owned(),
            message: "everything that the Service asks for is served".to_owned(),
        }
    }

    /// What the object's condition says, if it has one of ours.
    pub fn seen(service: &Service) -> Option<Self> {
        let conditions = service.status.as_ref()?.conditions.as_ref()?;
        let ours = conditions.iter().find(|condition| condition.type_ == CONDITION)?;
        Some(Self {
            is_good: ours.status == "True",
            reason: ours.reason.clone(),
            message: ours.message.clone(),
        })
    }
}

impl Complaint {
    /// About one Service; nothing if there is no problem. The order of the problems does not
    /// matter, so that every node says the same.
    pub fn about(problems: &[&Problem]) -> Option<Self> {
        let mut notes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for problem in problems {
            let note = format!("{}: {}", problem.field, problem.cause);
            notes.entry(word(&problem.cause)).or_default().insert(note);
        }
        let reason = notes.first_key_value()?.0.clone();
        let message = joined(&notes.values().flatten().map(String::as_str).collect::<Vec<_>>());
        let warning = |(reason, notes): (&String, &BTreeSet<String>)| Warning {
            reason: reason.clone(),
            note: joined(&notes.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        let warnings = notes.iter().take(WARNINGS_MAX).map(warning).collect();
        Some(Self { verdict: Verdict { is_good: false, reason, message }, warnings })
    }
}

fn joined(notes: &[&str]) -> String {
    let mut text = notes.join("; ");
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// The name of a cause as Kubernetes writes reasons: `not_a_port` is `NotAPort`.
fn word(cause: &Cause) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
    };
    cause.name().split('_').map(capital).collect::<Vec<String>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectRef};

    fn problem(field: &str, cause: Cause) -> Problem {
        let object = ObjectRef { kind: Kind::Service, name: ObjectName::new("shop", "web") };
        Problem { file: None, object, field: field.into(), cause }
    }

    #[test]
    fn every_node_complains_in_the_same_words() {
        let problems = [
            problem("spec.ports[1].port", Cause::NotAPort(0)),
            problem("spec.type", Cause::UnknownType("Odd".into())),
            problem("spec.ports[0].port", Cause::NotAPort(-1)),
        ];
        let complaint = Complaint::about(&problems.each_ref()).unwrap();
        let [a, b, c] = &problems;
        assert_eq!(Complaint::about(&[c, b, a]).as_ref(), Some(&complaint));
        assert_eq!((complaint.verdict.is_good, &*complaint.verdict.reason), (false, "NotAPort"));
        let ports = "spec.ports[0].port: -1 is not a port (1-65535); spec.ports[1].port: 0 is not a port \
                     (1-65535)";
        let all = format!("{ports}; spec.type: `Odd` is no type of Service");
        assert_eq!(complaint.verdict.message, all);
        let [first, second] = &complaint.warnings[..] else { panic!("{complaint:?}") };
        assert_eq!((&*first.reason, &*first.note), ("NotAPort", ports));
        assert_eq!(second.reason, "UnknownType");
        assert_eq!(Complaint::about(&[]), None);
    }

    #[test]
    fn a_message_ends_where_an_event_ends() {
        let many: Vec<Problem> =
            (0..100).map(|at| problem(&format!("spec.ports[{at}].näme"), Cause::Empty)).collect();
        let message = Complaint::about(&many.iter().collect::<Vec<_>>()).unwrap().verdict.message;
        assert!(message.len() <= MESSAGE_BYTES_MAX && message.ends_with('…'), "{message}");
    }

    #[test]
    fn only_what_is_wrong_or_was_is_told() {
        let name = ObjectName::new("shop", "web");
        let complaint = Complaint::about(&[&problem("spec.type", Cause::Empty)]).unwrap();
        let bad = complaint.verdict.clone();
        let standing = |wanted: bool, seen: Option<&Verdict>| Standing {
            wanted: wanted.then(|| (name.clone(), complaint.clone())).into_iter().collect(),
            seen: seen.map(|seen| (name.clone(), seen.clone())).into_iter().collect(),
        };
        let other = Verdict { message: "older".to_owned(), ..bad.clone() };
        for (standing, expected) in [
            (standing(false, None), None),
            (standing(false, Some(&Verdict::good())), None),
            (standing(false, Some(&bad)), Some(Verdict::good())),
            (standing(true, Some(&bad)), None),
            (standing(true, None), Some(bad.clone())),
            (standing(true, Some(&other)), Some(bad.clone())),
            (standing(true, Some(&Verdict::good())), Some(bad.clone())),
        ] {
            assert_eq!(standing.correction(&name), expected, "{standing:?}");
            assert_eq!(standing.corrections().len(), usize::from(expected.is_some()));
        }
    }
}
