//! A request, as handlers get it.

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, header},
};
use serde_json::Value;

use super::{
    negotiate::{self, Answer},
    path::Target,
    query::Query,
    status::{About, Failure, Reason},
};
use crate::{
    auth::User, ownership::Operation, protobuf, registry::Scope, resource::Resource,
    selector::Selector,
};

/// The longest body that is read.
pub const BODY_MAX: usize = 3 * 1024 * 1024;

/// A request for a resource.
#[derive(Debug)]
pub struct Asked {
    /// Its verb.
    pub method: Method,
    /// What it is about.
    pub target: Target,
    /// What is said behind the question mark.
    pub query: Query,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Who asks.
    pub user: User,
}

impl Asked {
    /// A header; empty if it is not there or no text.
    pub fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What the client takes.
    pub fn answer(&self) -> Result<Answer, Failure> {
        negotiate::accepted(self.header(header::ACCEPT), true)
    }

    /// Which objects it is about.
    pub fn scope(&self, resource: &'static Resource) -> Result<Scope<'_>, Failure> {
        let dry_run = self.query.dry_run()?;
        Ok(Scope {
            resource,
            namespace: &self.target.namespace,
            dry_run,
            writer: self.changed_by(),
            operation: Operation::Update,
            part: &self.target.subresource,
        })
    }

    /// Who changes fields: `fieldManager`, or the first word of the user agent.
    pub fn changed_by(&self) -> &str {
        let named = self.query.text("fieldManager");
        if named.is_empty() {
            let agent = self.header(header::USER_AGENT);
            agent.split(['/', ' ']).next().filter(|it| !it.is_empty()).unwrap_or("unknown")
        } else {
            named
        }
    }

    /// Selectors of labels and of fields.
    pub fn selectors(&self, resource: &Resource) -> Result<(Selector, Selector), Failure> {
        let refuse =
            |error: crate::selector::Error| Failure::new(Reason::BadRequest, error.to_string());
        let labels = Selector::labels(self.query.text("labelSelector")).map_err(refuse)?;
        let mut known = resource.fields.to_vec();
        known.extend(["metadata.name", "metadata.namespace"]);
        let fields = Selector::fields(self.query.text("fieldSelector"), &known).map_err(refuse)?;
        Ok((labels, fields))
    }

    /// The body as an object; null if it is empty.
    pub fn object(&self) -> Result<Value, Failure> {
        decode(&negotiate::media(self.header(header::CONTENT_TYPE)), &self.body)
    }

    /// What the request is about, for failures.
    pub fn about(&self) -> About {
        let Target { group, resource, name, .. } = &self.target;
        About { group: group.clone(), kind: resource.clone(), name: name.clone() }
    }
}

/// A body of this media type as an object; null if it is empty.
pub fn decode(media: &str, body: &[u8]) -> Result<Value, Failure> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let refuse = |words: String| Failure::new(Reason::BadRequest, words);
    match media {
        ""
        | "application/json"
        | "application/merge-patch+json"
        | "application/json-patch+json"
        | "application/strategic-merge-patch+json" => serde_json::from_slice(body)
            .map_err(|error| refuse(format!("the object provided is unrecognized: {error}"))),
        protobuf::MEDIA => protobuf::decode(body).map_err(|error| refuse(error.to_string())),
        "application/yaml" | "application/apply-patch+yaml" => yaml(body).map_err(refuse),
        other => {
            let words = format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml, application/vnd.kubernetes.protobuf; it was {other}"
            );
            Err(Failure::new(Reason::UnsupportedMediaType, words))
        }
    }
}

fn yaml(body: &[u8]) -> Result<Value, String> {
    let text =
        std::str::from_utf8(body).map_err(|error| format!("the body is no text: {error}"))?;
    serde_saphyr::from_str(text).map_err(|error| format!("error converting YAML to JSON: {error}"))
}
