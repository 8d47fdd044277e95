//! From protobuf to JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value, json};

use super::{DEPTH_MAX, Error, MAGIC};
use crate::schema::{self, Field, Many, Message, Type};

/// What a body holds.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let envelope = body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    each(envelope, |number, part| {
        match (number, part) {
            (1, Part::Bytes(meta)) => each(meta, |number, part| {
                match (number, part) {
                    (1, Part::Bytes(bytes)) => version = text(bytes)?,
                    (2, Part::Bytes(bytes)) => kind = text(bytes)?,
                    _ => {}
                }
                Ok(())
            })?,
            (2, Part::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
        Ok(())
    })?;
    let Some(message) = schema::of(&version, &kind) else {
        return Err(Error::Unknown { version, kind });
    };
    let mut object = Map::new();
    object.insert("apiVersion".into(), json!(version));
    object.insert("kind".into(), json!(kind));
    into(&mut object, message, raw, DEPTH_MAX)?;
    Ok(Value::Object(object))
}

/// What stands behind a key.
#[derive(Clone, Copy)]
enum Part<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

fn malformed(error: &dyn std::fmt::Display) -> Error {
    Error::Malformed(error.to_string())
}

/// Calls for each field of a message, in its order.
fn each<'a>(
    mut bytes: &'a [u8],
    mut field: impl FnMut(u32, Part<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).map_err(|error| malformed(&error))?;
        let part = match wire {
            WireType::Varint => {
                Part::Number(decode_varint(&mut bytes).map_err(|error| malformed(&error))?)
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut bytes).map_err(|error| malformed(&error))?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let ends = || malformed(&"it ends too early");
                let (part, rest) = bytes.split_at_checked(length).ok_or_else(ends)?;
                bytes = rest;
                Part::Bytes(part)
            }
            WireType::SixtyFourBit => {
                let ends = || malformed(&"it ends too early");
                let (part, rest) = bytes.split_first_chunk::<8>().ok_or_else(ends)?;
                bytes = rest;
                Part::Fixed(u64::from_le_bytes(*part))
            }
            WireType::StartGroup | WireType::EndGroup | WireType::ThirtyTwoBit => {
                skip_field(wire, number, &mut bytes, DecodeContext::default())
                    .map_err(|error| malformed(&error))?;
                continue;
            }
        };
        field(number, part)?;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|error| malformed(&error))
}

/// The first field of a message, if it is bytes.
fn first(bytes: &[u8]) -> Result<Option<&[u8]>, Error> {
    let mut found = None;
    each(bytes, |number, part| {
        if let (1, Part::Bytes(bytes)) = (number, part) {
            found = Some(bytes);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Puts the fields of a message into an object.
fn into(
    object: &mut Map<String, Value>,
    message: &Message,
    bytes: &[u8],
    depth: u32,
) -> Result<(), Error> {
    let depth = depth.checked_sub(1).ok_or_else(|| malformed(&"messages lie too deep"))?;
    each(bytes, |number, part| {
        // Fields of newer versions are not known here.
        let Some(field) = message.number(number) else { return Ok(()) };
        match field.many {
            Many::One => one(object, field, part, depth),
            Many::List => list(object, field, part, depth),
            Many::Map => entry(object, field, part, depth),
        }
    })
}

fn one(
    object: &mut Map<String, Value>,
    field: &Field,
    part: Part<'_>,
    depth: u32,
) -> Result<(), Error> {
    if let (Type::Message(name), true, Part::Bytes(bytes)) =
        (&field.kind, field.name.is_empty(), part)
    {
        let Some(inner) = schema::message(name) else { return Ok(()) };
        return into(object, inner, bytes, depth);
    }
    let Some(value) = value(&field.kind, part, depth)? else { return Ok(()) };
    let is_zero = value == json!(0) || value == json!(false) || value == json!("");
    if field.says_zero || !is_zero || matches!(field.kind, Type::Quantity | Type::IntOrString) {
        object.insert(field.name.to_owned(), value);
    }
    Ok(())
}

fn list(
    object: &mut Map<String, Value>,
    field: &Field,
    part: Part<'_>,
    depth: u32,
) -> Result<(), Error> {
    let items = object.entry(field.name.to_owned()).or_insert_with(|| json!([]));
    let Some(items) = items.as_array_mut() else { return Ok(()) };
    match (&field.kind, part) {
        // Packed numbers.
        (Type::Integer, Part::Bytes(mut bytes)) => {
            while !bytes.is_empty() {
                let number = decode_varint(&mut bytes).map_err(|error| malformed(&error))?;
                items.push(json!(number.cast_signed()));
            }
        }
        (kind, part) => items.extend(value(kind, part, depth)?),
    }
    Ok(())
}

fn entry(
    object: &mut Map<String, Value>,
    field: &Field,
    part: Part<'_>,
    depth: u32,
) -> Result<(), Error> {
    let Part::Bytes(bytes) = part else { return Err(malformed(&"a map's entry is no message")) };
    let (mut key, mut held) = (String::new(), None);
    each(bytes, |number, part| {
        match (number, part) {
            (1, Part::Bytes(bytes)) => key = text(bytes)?,
            (2, part) => held = value(&field.kind, part, depth)?,
            _ => {}
        }
        Ok(())
    })?;
    let held = match held {
        Some(held) => held,
        // What is not written is zero.
        None => value(&field.kind, Part::Bytes(&[]), depth)?.unwrap_or_default(),
    };
    let map = object.entry(field.name.to_owned()).or_insert_with(|| json!({}));
    if let Some(map) = map.as_object_mut() {
        map.insert(key, held);
    }
    Ok(())
}

/// A value; nothing for a time that is not set.
fn value(kind: &Type, part: Part<'_>, depth: u32) -> Result<Option<Value>, Error> {
    let value = match (kind, part) {
        (Type::Text, Part::Bytes(bytes)) => json!(text(bytes)?),
        (Type::Bytes, Part::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        (Type::Bool, Part::Number(number)) => json!(number != 0),
        (Type::Integer, Part::Number(number)) => json!(number.cast_signed()),
        (Type::Double, Part::Fixed(bits)) => json!(f64::from_bits(bits)),
        (Type::Time | Type::MicroTime, Part::Bytes(bytes)) => return time(kind, bytes),
        (Type::Duration, Part::Bytes(bytes)) => {
            json!(format!("{}s", numbers(bytes)?.0 / 1_000_000_000))
        }
        (Type::Quantity, Part::Bytes(bytes)) => {
            json!(first(bytes)?.map_or_else(|| Ok("0".to_owned()), text)?)
        }
        (Type::IntOrString, Part::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::Json | Type::Object, Part::Bytes(bytes)) => return any(bytes),
        (Type::Texts, Part::Bytes(bytes)) => {
            let mut texts = Vec::new();
            each(bytes, |number, part| {
                if let (1, Part::Bytes(bytes)) = (number, part) {
                    texts.push(json!(text(bytes)?));
                }
                Ok(())
            })?;
            Value::Array(texts)
        }
        (Type::Message(name), Part::Bytes(bytes)) => {
            let mut object = Map::new();
            if let Some(message) = schema::message(name) {
                into(&mut object, message, bytes, depth)?;
            }
            Value::Object(object)
        }
        _ => return Err(malformed(&"a field is written as another type")),
    };
    Ok(Some(value))
}

/// The first two numbers of a message.
fn numbers(bytes: &[u8]) -> Result<(i64, i64), Error> {
    let mut all = (0, 0);
    each(bytes, |number, part| {
        match (number, part) {
            (1, Part::Number(value)) => all.0 = value.cast_signed(),
            (2, Part::Number(value)) => all.1 = value.cast_signed(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(all)
}

fn time(kind: &Type, bytes: &[u8]) -> Result<Option<Value>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (seconds, nanos) = numbers(bytes)?;
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let time = Timestamp::new(seconds, nanos).map_err(|error| malformed(&error))?;
    Ok(Some(json!(if *kind == Type::MicroTime {
        format!("{time:.6}")
    } else {
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    })))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Error> {
    let (mut is_text, mut number, mut words) = (false, 0, String::new());
    each(bytes, |at, part| {
        match (at, part) {
            (1, Part::Number(kind)) => is_text = kind == 1,
            (2, Part::Number(value)) => number = value.cast_signed(),
            (3, Part::Bytes(bytes)) => words = text(bytes)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(if is_text { json!(words) } else { json!(number) })
}

/// Bytes that hold JSON, or an object in an envelope of its own.
fn any(bytes: &[u8]) -> Result<Option<Value>, Error> {
    let Some(bytes) = first(bytes)?.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    if bytes.starts_with(MAGIC) {
        return decode(bytes).map(Some);
    }
    serde_json::from_slice(bytes).map(Some).map_err(|error| malformed(&error))
}
