//! Reading: one object, and lists of them in pieces.

use axum::{http::StatusCode, response::Response};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    answer,
    asked::Asked,
    negotiate::{Format, Shape},
    show::{self, Include},
    status::{Failure, Reason},
};
use crate::{
    object,
    registry::{Registry, encoded},
    resource::Resource,
    selector::Selector,
    store::{Entry, Key, Listing, Revision},
};

/// One object.
pub async fn get(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let scope = asked.scope(resource)?;
    let entry = registry.entry(&scope, &asked.target.name).await?;
    let accepts = asked.answer()?;
    if accepts.shape == Shape::Whole && accepts.format == Format::Json {
        return Ok(answer::json_text(encoded::versioned(&entry.value, entry.modified)));
    }
    Ok(answer::object(asked, resource, encoded::decoded(&entry), StatusCode::OK))
}

/// What a list asks for.
struct Wanted {
    limit: usize,
    after: Option<Key>,
    at: Option<Revision>,
    labels: Selector,
    fields: Selector,
}

/// Objects of a kind.
pub async fn list(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let accepts = asked.answer()?;
    let wanted = wanted(registry, asked, resource).await?;
    let found = find(registry, asked, resource, &wanted).await?;
    let more = found.more(&wanted);
    let mut metadata = json!({"resourceVersion": found.listing.revision.to_string()});
    if let Some((token, remaining)) = more {
        metadata["continue"] = json!(token);
        if wanted.labels.is_empty() && wanted.fields.is_empty() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    let kind = format!("{}List", resource.kind);
    let entries = &found.listing.entries;
    let objects = || entries.iter().map(encoded::decoded).collect::<Vec<Value>>();
    let shown = match accepts.shape {
        Shape::Whole if accepts.format == Format::Json => {
            let head =
                json!({"kind": kind, "apiVersion": resource.api_version(), "metadata": metadata});
            return Ok(answer::json_text(text_of(&head, entries)));
        }
        Shape::Whole => json!({
            "kind": kind, "apiVersion": resource.api_version(), "metadata": metadata, "items": objects(),
        }),
        Shape::Metadata(version) => {
            let items: Vec<Value> =
                objects().iter().map(|it| show::metadata(it, version)).collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata, "items": items,
            })
        }
        Shape::Table(version) => {
            let include = Include::parse(asked.query.text("includeObject"));
            show::table(resource, &objects(), &metadata, version, include, true)
        }
    };
    Ok(answer::value(&shown, accepts.format))
}

/// A list as text, its items as the store has them.
fn text_of(head: &Value, entries: &[Entry]) -> Vec<u8> {
    let size: usize = entries.iter().map(|entry| entry.value.len() + 40).sum();
    let mut text = head.to_string().into_bytes();
    text.reserve(size + 16);
    text.pop();
    text.extend_from_slice(br#","items":["#);
    for (index, entry) in entries.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        encoded::write_versioned(&mut text, &entry.value, entry.modified);
    }
    text.extend_from_slice(b"]}");
    text
}

async fn wanted(
    registry: &Registry,
    asked: &Asked,
    resource: &Resource,
) -> Result<Wanted, Failure> {
    let (labels, fields) = asked.selectors(resource)?;
    let limit = asked.query.number("limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(0);
    let (version, how) =
        (asked.query.text("resourceVersion"), asked.query.text("resourceVersionMatch"));
    let token = asked.query.text("continue");
    if !token.is_empty() {
        if !version.is_empty() && version != "0" {
            let words = "specifying resource version is not allowed when using continue";
            return Err(Failure::new(Reason::BadRequest, words));
        }
        let (at, after) = token_parts(token)?;
        return Ok(Wanted { limit, after: Some(after), at, labels, fields });
    }
    let at = match (version, how) {
        ("", "") => None,
        ("", _) => {
            let words = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(Failure::new(Reason::Invalid, words));
        }
        ("0", "Exact") => {
            let words = "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
            return Err(Failure::new(Reason::Invalid, words));
        }
        (text, how) => {
            let version = super::watch::version(text)?;
            match how {
                "Exact" => Some(version),
                "" if limit > 0 && version != Revision(0) => Some(version),
                "" | "NotOlderThan" => {
                    let last = registry.store().revision().await?;
                    if version > last {
                        return Err(crate::store::Error::Future { asked: version, last }.into());
                    }
                    None
                }
                other => {
                    let words = format!("resourceVersionMatch: Unsupported value: {other:?}");
                    return Err(Failure::new(Reason::Invalid, words));
                }
            }
        }
    };
    Ok(Wanted { limit, after: None, at, labels, fields })
}

struct Found {
    listing: Listing,
    /// The key after which the next piece begins, if this one was cut.
    last: Option<Key>,
}

impl Found {
    fn more(&self, wanted: &Wanted) -> Option<(String, usize)> {
        let last = self.last.as_ref().filter(|_| wanted.limit > 0)?;
        let token = json!({
            "v": "meta.k8s.io/v1", "rv": self.listing.revision.0, "start": last.as_ref(),
        });
        Some((URL_SAFE_NO_PAD.encode(token.to_string()), self.listing.remaining))
    }
}

fn token_parts(token: &str) -> Result<(Option<Revision>, Key), Failure> {
    let refuse = || Failure::new(Reason::BadRequest, "continue key is not valid");
    let text = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_no_token| refuse())?;
    let token: Value = serde_json::from_slice(&text).map_err(|_no_token| refuse())?;
    let at = token.get("rv").and_then(Value::as_u64).ok_or_else(refuse)?;
    let start = token.get("start").and_then(Value::as_str).ok_or_else(refuse)?;
    Ok((Some(Revision(at)), Key::from(start)))
}

async fn find(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
    wanted: &Wanted,
) -> Result<Found, Failure> {
    let scope = asked.scope(resource)?;
    let is_plain = wanted.labels.is_empty() && wanted.fields.is_empty();
    if let Some(name) = wanted.fields.exactly("metadata.name")
        && (!scope.namespace.is_empty() || !resource.namespaced)
        && wanted.at.is_none()
    {
        let revision = registry.store().revision().await?;
        let entry = registry.store().get(&scope.key(name)).await?;
        let entries = entry.into_iter().filter(|entry| wanted.selects(entry)).collect();
        return Ok(Found { listing: Listing { entries, revision, remaining: 0 }, last: None });
    }
    if is_plain {
        let listing = registry.list(&scope, wanted.after.clone(), wanted.limit, wanted.at).await?;
        let last = listing.entries.last().filter(|_| listing.remaining > 0);
        let last = last.map(|entry| entry.key.clone());
        return Ok(Found { listing, last });
    }
    let mut listing = registry.list(&scope, wanted.after.clone(), 0, wanted.at).await?;
    listing.entries.retain(|entry| wanted.selects(entry));
    let most = if wanted.limit == 0 { usize::MAX } else { wanted.limit };
    listing.remaining = listing.entries.len().saturating_sub(most);
    listing.entries.truncate(most);
    let last = listing.entries.last().filter(|_| listing.remaining > 0);
    let last = last.map(|entry| entry.key.clone());
    Ok(Found { listing, last })
}

impl Wanted {
    fn selects(&self, entry: &Entry) -> bool {
        selects(&self.labels, &self.fields, &encoded::decoded(entry))
    }
}

/// Whether an object meets both selectors.
pub(super) fn selects(labels: &Selector, fields: &Selector, object: &Value) -> bool {
    labels.selects(object) && fields.selects_fields(object) && !object::name(object).is_empty()
}
