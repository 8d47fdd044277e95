//! What the API's objects consist of: every message, field by field.
//!
//! The table says how objects are written in protobuf, and which fields there are at all.

mod check;

use std::{collections::BTreeMap, sync::LazyLock};

pub use self::check::{Mismatch, prune};

/// The table, message by message.
const TABLE: &str = include_str!("schema/messages.txt");

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// A truth value.
    Bool,
    /// A whole number of 32 or 64 bits.
    Integer,
    /// A floating-point number.
    Double,
    /// Bytes; base64 in JSON.
    Bytes,
    /// `metav1.Time`: seconds in RFC 3339.
    Time,
    /// `metav1.MicroTime`: microseconds in RFC 3339.
    MicroTime,
    /// `metav1.Duration`.
    Duration,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// Any JSON: `metav1.FieldsV1`, with the number of its field.
    Json,
    /// An object of any kind: `runtime.RawExtension`.
    Object,
    /// A message that is a list of texts in JSON.
    Texts,
    /// Another message.
    Message(&'static str),
}

/// How many of it a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    /// One.
    One,
    /// A list.
    List,
    /// A map from texts.
    Map,
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its number in protobuf.
    pub number: u32,
    /// Its name in JSON; empty if its own fields stand in the message around it.
    pub name: &'static str,
    /// What it holds.
    pub kind: Type,
    /// How many of it.
    pub many: Many,
    /// Whether zero, false and the empty text are said.
    pub says_zero: bool,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its fields in the order of the table.
    pub fields: Vec<Field>,
    by_number: BTreeMap<u32, usize>,
}

impl Message {
    /// The field with a number.
    pub fn number(&self, number: u32) -> Option<&Field> {
        self.fields.get(*self.by_number.get(&number)?)
    }

    /// The field with a name, also where it comes with an inlined message.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find_map(|field| match &field.kind {
            _ if field.name == name => Some(field),
            Type::Message(inner) if field.name.is_empty() => message(inner)?.field(name),
            _ => None,
        })
    }
}

static MESSAGES: LazyLock<BTreeMap<&'static str, Message>> = LazyLock::new(parse);

/// The message of a name such as `core.v1.Pod`.
pub fn message(name: &str) -> Option<&'static Message> {
    MESSAGES.get(name)
}

/// The message of an object's `apiVersion` and `kind`.
pub fn of(api_version: &str, kind: &str) -> Option<&'static Message> {
    const OPTIONS: [&str; 5] =
        ["DeleteOptions", "ListOptions", "CreateOptions", "UpdateOptions", "Status"];
    if OPTIONS.contains(&kind) {
        return message(&format!("meta.v1.{kind}"));
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let short = group.split('.').next().unwrap_or(group);
    message(&format!("{short}.{version}.{kind}"))
}

fn parse() -> BTreeMap<&'static str, Message> {
    let mut messages: BTreeMap<&'static str, Message> = BTreeMap::new();
    let mut name = "";
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let Some(text) = line.strip_prefix("  ") else {
            name = line;
            messages.entry(name).or_default();
            continue;
        };
        if let Some(field) = field(text) {
            let message = messages.entry(name).or_default();
            message.by_number.insert(field.number, message.fields.len());
            message.fields.push(field);
        }
    }
    messages
}

fn field(text: &'static str) -> Option<Field> {
    let mut words = text.split(' ');
    let number = words.next()?.parse().ok()?;
    let (name, kind) = (words.next()?, words.next()?);
    let says_zero = name.ends_with(['!', '?']);
    let name = name.trim_end_matches(['!', '?', '.']);
    let (many, kind) = if let Some(kind) = kind.strip_prefix("list:") {
        (Many::List, kind)
    } else if let Some(kind) = kind.strip_prefix("map:") {
        (Many::Map, kind)
    } else {
        (Many::One, kind)
    };
    let kind = match kind {
        "string" => Type::Text,
        "bool" => Type::Bool,
        "int32" | "int64" | "uint32" => Type::Integer,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "quantity" => Type::Quantity,
        "intorstring" => Type::IntOrString,
        "fields" => Type::Json,
        "raw" => Type::Object,
        "strings" => Type::Texts,
        message => Type::Message(message),
    };
    Some(Field { number, name, kind, many, says_zero })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::RESOURCES;

    #[test]
    fn every_kind_that_is_served_is_in_the_table_and_so_is_what_it_consists_of() {
        for resource in RESOURCES {
            let version = resource.api_version();
            assert!(of(&version, resource.kind).is_some(), "{version} {}", resource.kind);
        }
        for (name, message) in MESSAGES.iter() {
            for field in &message.fields {
                if let Type::Message(inner) = field.kind {
                    assert!(super::message(inner).is_some(), "{name}: {inner}");
                }
            }
        }
    }

    #[test]
    fn fields_of_inlined_messages_are_fields_of_the_message_around_them() {
        let probe = message("core.v1.Probe").expect("a probe");
        assert!(probe.field("httpGet").is_some() && probe.field("periodSeconds").is_some());
        assert!(probe.field("handler").is_none());
    }
}
