//! Bodies of answers.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{
    asked::Asked,
    negotiate::Format,
    show::{self, Include},
    status::{Failure, Reason},
};
use crate::{protobuf, resource::Resource};

/// JSON that is already text.
pub fn json_text(text: impl Into<Body>) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], text.into()).into_response()
}

/// A watch in the format that the client takes.
pub fn stream(format: Format, body: Body) -> Response {
    match format {
        Format::Json | Format::Yaml => json_text(body),
        Format::Protobuf => {
            let kind = HeaderValue::from_static(protobuf::MEDIA_WATCH);
            ([(header::CONTENT_TYPE, kind)], body).into_response()
        }
    }
}

/// One event of a watch in the format that the client takes.
pub fn event(format: Format, kind: &str, object: &Value) -> Vec<u8> {
    match format {
        Format::Json | Format::Yaml => {
            let mut text = json!({"type": kind, "object": object}).to_string().into_bytes();
            text.push(b'\n');
            text
        }
        Format::Protobuf => protobuf::frame(kind, object),
    }
}

/// A value in the format that the client takes.
pub fn value(value: &Value, format: Format) -> Response {
    match format {
        Format::Json => json_text(value.to_string()),
        Format::Protobuf => {
            let kind = HeaderValue::from_static(protobuf::MEDIA);
            ([(header::CONTENT_TYPE, kind)], protobuf::encode(value)).into_response()
        }
        Format::Yaml => match serde_saphyr::to_string(value) {
            Ok(text) => {
                let kind = HeaderValue::from_static("application/yaml");
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(error) => Failure::new(Reason::InternalError, error.to_string()).into_response(),
        },
    }
}

/// One object as the client wants to see it.
pub fn object(asked: &Asked, resource: &Resource, object: Value, code: StatusCode) -> Response {
    let answer = match asked.answer() {
        Ok(answer) => answer,
        Err(failure) => return failure.into_response(),
    };
    let include = Include::parse(asked.query.text("includeObject"));
    let shown = show::one(resource, object, answer.shape, include, true);
    let mut response = value(&shown, answer.format);
    *response.status_mut() = code;
    response
}
