//! From the text of one file to its objects, and to what is wrong with the others.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    model::{Kind, ObjectEvent, ObjectName, ObjectRef},
    source::problem::{SourceCause, SourceProblem},
};

/// The namespace of an object that names none, as `kubectl apply` has it.
const NAMESPACE_DEFAULT: &str = "default";

/// An object of a kind that we read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Pod(Box<Pod>),
    Node(Box<Node>),
}

impl Object {
    pub(super) fn event(&self, file: &Arc<str>) -> ObjectEvent {
        let file = Some(Arc::clone(file));
        match self {
            Self::Service(object) => ObjectEvent::Service { object: object.clone(), file },
            Self::EndpointSlice(object) => {
                ObjectEvent::EndpointSlice { object: object.clone(), file }
            }
            Self::Pod(object) => ObjectEvent::Pod { object: object.clone(), file },
            Self::Node(object) => ObjectEvent::Node { object: object.clone(), file },
        }
    }
}

/// An object and where it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) document: u32,
    pub(super) name: ObjectRef,
    pub(super) object: Arc<Object>,
}

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) objects: Vec<Found>,
    pub(super) problems: Vec<SourceProblem>,
}

/// Reads every document of `text`. One that is broken does not keep the others from being read.
pub(super) fn read(file: &Arc<str>, text: &str) -> Reading {
    let mut reading = Reading::default();
    for (number, document) in (1..).zip(documents(text)) {
        let mut reader = Reader { file, number, document, reading: &mut reading };
        match parse::<Value>(document.text) {
            Ok(value) => reader.document(value),
            Err(error) => {
                let cause = reader.syntax(&error);
                reader.problem(None, cause);
            }
        }
    }
    reading
}

/// One document and how many lines of the file are above it.
#[derive(Clone, Copy)]
struct Document<'a> {
    text: &'a str,
    lines_above: u64,
}

/// Splits at the lines that begin with `---`, so that a document that is not YAML ends there. YAML
/// allows such a line nowhere inside a document.
fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let mut cuts = vec![(0, 0)];
    let mut offset = 0;
    for (lines_above, line) in (0..).zip(text.split_inclusive('\n')) {
        let marker = line.strip_prefix("---");
        if offset > 0 && marker.is_some_and(|rest| rest.trim_start().len() < rest.len()) {
            cuts.push((offset, lines_above));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = cuts.iter().skip(1).map(|cut| cut.0).chain([text.len()]).collect();
    let all = cuts.into_iter().zip(ends);
    let all =
        all.map(|((begin, lines_above), end)| Document { text: &text[begin..end], lines_above });
    // What stands above the first `---` is a document only if it says something.
    all.enumerate()
        .filter(|(index, document)| *index > 0 || !is_blank(document.text))
        .map(|all| all.1)
}

fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with('#'))
}

/// The size of a file is limited already, and the depth and the expansion of aliases stay limited
/// here; the limits on counts would turn away a `List` of all Services of a large cluster.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: None,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
    };
    serde_saphyr::from_str_with_options(text, options)
}

struct Reader<'a> {
    file: &'a Arc<str>,
    number: u32,
    document: Document<'a>,
    reading: &'a mut Reading,
}

impl Reader<'_> {
    fn document(&mut self, value: Value) {
        if value.is_null() {
            return;
        }
        let is_list = value["kind"] == "List" && value["apiVersion"] == "v1";
        if !is_list {
            return self.object(value, None);
        }
        let Value::Object(mut list) = value else { return };
        match list.remove("items") {
            Some(Value::Array(items)) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.object(item, Some(index));
                }
            }
            None | Some(Value::Null) => {}
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                self.problem(None, field("items", "is not a list"));
            }
        }
    }

    /// Reads an object: the document itself, or an item of its list.
    fn object(&mut self, value: Value, item: Option<usize>) {
        let at = item.map_or_else(String::new, |index| format!("items[{index}]."));
        let (Some(kind), Some(version)) = (value["kind"].as_str(), value["apiVersion"].as_str())
        else {
            let missing = if value["kind"].is_string() { "apiVersion" } else { "kind" };
            return self.problem(None, field(&format!("{at}{missing}"), "is missing"));
        };
        match (version, kind) {
            ("v1", "Service") => self.typed(Kind::Service, value, &at, Object::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.typed(Kind::EndpointSlice, value, &at, Object::EndpointSlice);
            }
            ("v1", "Pod") => self.typed(Kind::Pod, value, &at, Object::Pod),
            ("v1", "Node") => self.typed(Kind::Node, value, &at, Object::Node),
            _ => tracing::debug!(file = %self.file, %version, %kind, "not a kind that is read"),
        }
    }

    fn typed<T>(&mut self, kind: Kind, mut value: Value, at: &str, wrap: fn(Box<T>) -> Object)
    where
        T: DeserializeOwned,
    {
        let Some(name) = complete_name(kind, &mut value) else {
            return self.problem(None, SourceCause::NoName(kind.name()));
        };
        match serde_path_to_error::deserialize::<_, T>(value) {
            Ok(object) => {
                let object = Arc::new(wrap(Box::new(object)));
                self.reading.objects.push(Found { document: self.number, name, object });
            }
            Err(error) => {
                // Only the text knows the line; a list's text does not read as `T`.
                let line = if at.is_empty() { self.line_of_error::<T>() } else { None };
                let field = format!("{at}{}", error.path()).into();
                let reason = error.into_inner().to_string().into();
                self.problem(Some(name), SourceCause::Field { field, line, reason });
            }
        }
    }

    fn line_of_error<T: DeserializeOwned>(&self) -> Option<u64> {
        let error = parse::<T>(self.document.text).err()?;
        Some(error.location()?.line() + self.document.lines_above)
    }

    fn syntax(&self, error: &serde_saphyr::Error) -> SourceCause {
        let at = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
        let text = error.to_string();
        // The parser ends its text with the place, counted from the top of the document.
        let reason = text.split_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
        SourceCause::Syntax {
            line: at.line() + self.document.lines_above,
            column: at.column(),
            reason: reason.into(),
        }
    }

    fn problem(&mut self, object: Option<ObjectRef>, cause: SourceCause) {
        let (file, document) = (Some(Arc::clone(self.file)), Some(self.number));
        self.reading.problems.push(SourceProblem { file, document, object, cause });
    }
}

/// The name of the object, with the namespace filled in; without what only the API server needs.
fn complete_name(kind: Kind, value: &mut Value) -> Option<ObjectRef> {
    let metadata = value.get_mut("metadata")?.as_object_mut()?;
    metadata.remove("managedFields");
    let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?.to_owned();
    if kind == Kind::Node {
        metadata.remove("namespace");
        return Some(ObjectRef { kind, name: ObjectName::new("", &name) });
    }
    let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|ns| !ns.is_empty());
    let namespace = namespace.unwrap_or(NAMESPACE_DEFAULT).to_owned();
    // A namespace of another type stays for the reader of the whole object to complain about.
    if metadata.get("namespace").is_none_or(|value| value.is_null() || value == "") {
        metadata.insert("namespace".into(), Value::String(namespace.clone()));
    }
    Some(ObjectRef { kind, name: ObjectName::new(&namespace, &name) })
}

fn field(field: &str, reason: &str) -> SourceCause {
    SourceCause::Field { field: field.into(), line: None, reason: reason.into() }
}
