//! Watching: changes as they come, one line each.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    answer,
    asked::Asked,
    negotiate::{Answer, Format, Shape},
    read::selects,
    show::{self, Include},
    status::{Failure, Reason},
};
use crate::{
    registry::{Registry, encoded},
    resource::Resource,
    selector::Selector,
    store::{Event, Revision, Watch},
};

const NOT_OLDER: &str = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
                         resourceVersionMatch to NotOlderThan";
/// How often a quiet watch says how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// How long a watch goes on if the client does not say.
const LIFE: Duration = Duration::from_mins(45);
/// Bytes of events in one piece.
const PIECE_MAX: usize = 64 * 1024;

/// A resource version as clients give it.
pub fn version(text: &str) -> Result<Revision, Failure> {
    if text.is_empty() {
        return Ok(Revision(0));
    }
    let words = || format!("Invalid value: {text:?}: resourceVersion is no number");
    text.parse().map(Revision).map_err(|_no_number| Failure::new(Reason::BadRequest, words()))
}

/// Who watches, and how far they are.
struct Watcher {
    registry: Arc<Registry>,
    resource: &'static Resource,
    format: Format,
    shape: Shape,
    include: Include,
    labels: Selector,
    fields: Selector,
    bookmarks: bool,
    heads: bool,
    /// Frames that come before all changes.
    first: Vec<u8>,
    watch: Watch,
    sent: Revision,
    ends: Instant,
    bookmark: Instant,
    is_over: bool,
}

/// Changes of a kind of objects.
pub async fn watch(
    registry: &Arc<Registry>,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let (labels, mut fields) = asked.selectors(resource)?;
    if !asked.target.name.is_empty() {
        let text = format!("metadata.name={}", asked.target.name);
        fields = Selector::fields(&text, &["metadata.name"])
            .map_err(|error| Failure::new(Reason::BadRequest, error.to_string()))?;
    }
    let Answer { format, shape } = asked.answer()?;
    let text = asked.query.text("resourceVersion");
    let initial = match asked.query.text("sendInitialEvents") {
        "" => matches!(text, "" | "0"),
        _ => asked.query.is_on("sendInitialEvents"),
    };
    let ends_initial = asked.query.is_on("sendInitialEvents");
    if ends_initial && asked.query.text("resourceVersionMatch") != "NotOlderThan" {
        return Err(Failure::new(Reason::Invalid, NOT_OLDER));
    }
    let scope = asked.scope(resource)?;
    let asked_version = version(text)?;
    let now = registry.store().revision().await?;
    if asked_version > now {
        return Err(crate::store::Error::Future { asked: asked_version, last: now }.into());
    }
    let listing = if initial { Some(registry.list(&scope, None, 0, None).await?) } else { None };
    let after = listing.as_ref().map_or(asked_version, |listing| listing.revision);
    let watch = match registry.watch(&scope, after).await {
        Ok(watch) => watch,
        Err(failure) if failure.reason() == Reason::Expired => {
            return Ok(refused(format, &failure));
        }
        Err(failure) => return Err(failure),
    };
    let seconds = asked.query.number("timeoutSeconds")?.and_then(|it| u64::try_from(it).ok());
    let life = seconds.filter(|it| *it > 0).map_or(LIFE, Duration::from_secs);
    let mut watcher = Watcher {
        registry: registry.clone(),
        resource,
        format,
        shape,
        include: Include::parse(asked.query.text("includeObject")),
        labels,
        fields,
        bookmarks: asked.query.is_on("allowWatchBookmarks"),
        heads: true,
        first: Vec::new(),
        watch,
        sent: after,
        ends: Instant::now() + life,
        bookmark: Instant::now() + BOOKMARK_EVERY,
        is_over: false,
    };
    if let Some(listing) = listing {
        for entry in &listing.entries {
            let object = encoded::decoded(entry);
            if selects(&watcher.labels, &watcher.fields, &object) {
                let frame = watcher.frame("ADDED", object);
                watcher.first.extend(frame);
            }
        }
        if ends_initial && watcher.bookmarks {
            let frame = watcher.bookmark(true);
            watcher.first.extend(frame);
        }
    }
    let pieces = stream::unfold(watcher, |mut watcher| async move {
        let piece = watcher.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(piece), watcher))
    });
    Ok(answer::stream(format, Body::from_stream(pieces)))
}

/// A watch that ends as it begins, as clients expect of one that is too old.
fn refused(format: Format, failure: &Failure) -> Response {
    answer::stream(format, answer::event(format, "ERROR", &failure.status()).into())
}

impl Watcher {
    /// The next piece of the answer; nothing at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.first.is_empty() {
            return Some(Bytes::from(std::mem::take(&mut self.first)));
        }
        while !self.is_over {
            let event = tokio::select! {
                event = self.watch.next() => Some(event),
                () = sleep_until(self.bookmark.min(self.ends)) => None,
            };
            let mut text = Vec::new();
            match event {
                Some(Some(event)) => {
                    self.write(&mut text, &event);
                    while text.len() < PIECE_MAX
                        && let Some(event) = self.watch.ready()
                    {
                        self.write(&mut text, &event);
                    }
                }
                // The store let go of a watcher that was too slow: it lists or watches again.
                Some(None) => self.is_over = true,
                None => self.pause(&mut text).await,
            }
            if !text.is_empty() {
                return Some(Bytes::from(text));
            }
        }
        None
    }

    /// Time for a bookmark, or for the end.
    async fn pause(&mut self, text: &mut Vec<u8>) {
        if let Ok(now) = self.registry.store().revision().await {
            while let Some(event) = self.watch.ready() {
                self.write(text, &event);
            }
            self.sent = self.sent.max(now);
        }
        if self.bookmarks {
            let frame = self.bookmark(false);
            text.extend(frame);
        }
        self.bookmark = Instant::now() + BOOKMARK_EVERY;
        self.is_over = Instant::now() >= self.ends;
    }

    fn write(&mut self, text: &mut Vec<u8>, event: &Event) {
        self.sent = self.sent.max(event.revision);
        let is_plain = self.labels.is_empty() && self.fields.is_empty();
        if is_plain && self.shape == Shape::Whole && self.format != Format::Protobuf {
            let (kind, value) = match (&event.before, &event.after) {
                (None, Some(after)) => ("ADDED", &after.value),
                (Some(_), Some(after)) => ("MODIFIED", &after.value),
                (Some(before), None) => ("DELETED", &before.value),
                (None, None) => return,
            };
            text.extend_from_slice(format!(r#"{{"type":"{kind}","object":"#).as_bytes());
            encoded::write_versioned(text, value, event.revision);
            text.extend_from_slice(b"}\n");
            return;
        }
        let object = |entry: &Option<crate::store::Entry>| {
            let object = encoded::decode(&entry.as_ref()?.value, event.revision);
            selects(&self.labels, &self.fields, &object).then_some(object)
        };
        let (kind, object) = match (object(&event.before), object(&event.after)) {
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
            (None, None) => return,
        };
        let frame = self.frame(kind, object);
        text.extend(frame);
    }

    fn frame(&mut self, kind: &str, object: Value) -> Vec<u8> {
        let shown = show::one(self.resource, object, self.shape, self.include, self.heads);
        self.heads = false;
        answer::event(self.format, kind, &shown)
    }

    fn bookmark(&self, ends_initial: bool) -> Vec<u8> {
        let mut metadata =
            json!({"resourceVersion": self.sent.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata,
        });
        let object = match self.shape {
            Shape::Whole => object,
            Shape::Metadata(version) => show::metadata(&object, version),
            Shape::Table(version) => {
                let of = json!({"resourceVersion": self.sent.to_string()});
                let mut table = show::table(self.resource, &[], &of, version, self.include, false);
                table["rows"] = json!([{"cells": [], "object": show::metadata(&object, version)}]);
                table
            }
        };
        answer::event(self.format, "BOOKMARK", &object)
    }
}
