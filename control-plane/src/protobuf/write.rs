//! From JSON to protobuf.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

use super::MAGIC;
use crate::{
    object,
    schema::{self, Field, Many, Message, Type},
};

/// An object in its envelope. A kind that is not known is written as JSON in it, as upstream does.
pub fn encode(object: &Value) -> Vec<u8> {
    let (version, kind) = (object::text(object, &["apiVersion"]), object::text(object, &["kind"]));
    let known = schema::of(version, kind);
    let raw = match known {
        Some(known) => message(known, object),
        None => object.to_string().into_bytes(),
    };
    let mut body = MAGIC.to_vec();
    nested(&mut body, 1, |meta| {
        bytes(meta, 1, version.as_bytes());
        bytes(meta, 2, kind.as_bytes());
    });
    bytes(&mut body, 2, &raw);
    if known.is_none() {
        bytes(&mut body, 4, b"application/json");
    }
    body
}

/// One event of a watch behind its length.
pub(super) fn frame(kind: &str, object: &Value) -> Vec<u8> {
    let mut event = Vec::new();
    bytes(&mut event, 1, kind.as_bytes());
    nested(&mut event, 2, |raw| bytes(raw, 1, &encode(object)));
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &event].concat()
}

fn bytes(into: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

fn nested(into: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(into, number, &inner);
}

fn number(into: &mut Vec<u8>, at: u32, number: i64) {
    encode_key(at, WireType::Varint, into);
    encode_varint(number.cast_unsigned(), into);
}

fn message(message: &Message, object: &Value) -> Vec<u8> {
    let mut into = Vec::new();
    for field in &message.fields {
        if let (Type::Message(name), true) = (&field.kind, field.name.is_empty()) {
            if let Some(inlined) = schema::message(name) {
                bytes(&mut into, field.number, &self::message(inlined, object));
            }
        } else if let Some(held) = object.get(field.name).filter(|held| !held.is_null()) {
            many(&mut into, field, held);
        }
    }
    into
}

fn many(into: &mut Vec<u8>, field: &Field, held: &Value) {
    match (field.many, held) {
        (Many::One, held) => value(into, field.number, &field.kind, held),
        (Many::List, Value::Array(items)) => {
            for item in items {
                value(into, field.number, &field.kind, item);
            }
        }
        (Many::Map, Value::Object(entries)) => {
            for (key, held) in entries {
                nested(into, field.number, |entry| {
                    bytes(entry, 1, key.as_bytes());
                    value(entry, 2, &field.kind, held);
                });
            }
        }
        // What is not what it should be is not written: the registry keeps it from being stored.
        (Many::List | Many::Map, _) => {}
    }
}

fn value(into: &mut Vec<u8>, at: u32, kind: &Type, held: &Value) {
    match (kind, held) {
        (Type::Text, Value::String(text)) => bytes(into, at, text.as_bytes()),
        (Type::Bytes, Value::String(text)) => {
            bytes(into, at, &STANDARD.decode(text).unwrap_or_default());
        }
        (Type::Bool, Value::Bool(yes)) => number(into, at, i64::from(*yes)),
        (Type::Integer, Value::Number(it)) => number(into, at, it.as_i64().unwrap_or(0)),
        (Type::Double, Value::Number(it)) => {
            encode_key(at, WireType::SixtyFourBit, into);
            into.extend_from_slice(&it.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            let Ok(time) = text.parse::<Timestamp>() else { return };
            nested(into, at, |inner| {
                number(inner, 1, time.as_second());
                number(inner, 2, i64::from(time.subsec_nanosecond()));
            });
        }
        (Type::Duration, Value::String(text)) => {
            let seconds: i64 = text.trim_end_matches('s').parse().unwrap_or(0);
            nested(into, at, |inner| number(inner, 1, seconds.saturating_mul(1_000_000_000)));
        }
        (Type::Quantity, Value::String(text)) => {
            nested(into, at, |inner| bytes(inner, 1, text.as_bytes()));
        }
        (Type::Quantity, Value::Number(it)) => {
            nested(into, at, |inner| bytes(inner, 1, it.to_string().as_bytes()));
        }
        (Type::IntOrString, held) => nested(into, at, |inner| {
            number(inner, 1, i64::from(held.is_string()));
            number(inner, 2, held.as_i64().unwrap_or(0));
            bytes(inner, 3, held.as_str().unwrap_or_default().as_bytes());
        }),
        (Type::Json | Type::Object, held) => {
            nested(into, at, |inner| bytes(inner, 1, held.to_string().as_bytes()));
        }
        (Type::Texts, Value::Array(texts)) => nested(into, at, |inner| {
            for text in texts.iter().filter_map(Value::as_str) {
                bytes(inner, 1, text.as_bytes());
            }
        }),
        (Type::Message(name), Value::Object(_)) => {
            if let Some(known) = schema::message(name) {
                bytes(into, at, &message(known, held));
            }
        }
        _ => {}
    }
}
