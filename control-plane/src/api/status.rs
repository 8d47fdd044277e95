//! `v1.Status`: how the API says no, in the reasons and codes that clients act upon.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::store;

/// Why a request failed; names and codes of `metav1.StatusReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody that we know.
    Unauthorized,
    /// Known, and not allowed.
    Forbidden,
    /// No such object or path.
    NotFound,
    /// There is one of this name.
    AlreadyExists,
    /// Somebody else was faster, or owns the field.
    Conflict,
    /// An object that cannot be: see the causes.
    Invalid,
    /// The revision is no longer known.
    Expired,
    /// Not a request that we understand.
    BadRequest,
    /// The path knows no such verb.
    MethodNotAllowed,
    /// No format that the client takes.
    NotAcceptable,
    /// No format that we take.
    UnsupportedMediaType,
    /// More than 3 MiB.
    RequestEntityTooLarge,
    /// Too many.
    TooManyRequests,
    /// It took too long.
    Timeout,
    /// The store does not work.
    InternalError,
    /// Not now.
    ServiceUnavailable,
}

impl Reason {
    /// The HTTP code.
    pub const fn code(self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Conflict => StatusCode::CONFLICT,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Expired => StatusCode::GONE,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const ALL: [Self; 16] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Invalid,
        Self::Expired,
        Self::BadRequest,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::UnsupportedMediaType,
        Self::RequestEntityTooLarge,
        Self::TooManyRequests,
        Self::Timeout,
        Self::InternalError,
        Self::ServiceUnavailable,
    ];

    /// The reason that a server gave, or one that its code stands for.
    pub fn of(name: &str, code: u16) -> Self {
        let by = |is: &dyn Fn(&Self) -> bool| Self::ALL.into_iter().find(is);
        by(&|it| it.name() == name)
            .or_else(|| by(&|it| it.code().as_u16() == code))
            .unwrap_or(Self::InternalError)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Invalid => "Invalid",
            Self::Expired => "Expired",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::TooManyRequests => "TooManyRequests",
            Self::Timeout => "Timeout",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// One thing that is wrong with an object; types of `metav1.CauseType`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// What kind of wrong.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// The path of the field.
    pub field: String,
}

impl Cause {
    /// The field must be there.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message =
            if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", message, field: field.into() }
    }

    /// The field must not be this.
    pub fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self { reason: "FieldValueInvalid", message, field: field.into() }
    }

    /// The field must be one of these.
    pub fn not_supported(field: impl Into<String>, value: &Value, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Self { reason: "FieldValueNotSupported", message, field: field.into() }
    }

    /// Another one has it already.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {value}");
        Self { reason: "FieldValueDuplicate", message, field: field.into() }
    }

    /// The field must not be there, or not change.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {why}"),
            field: field.into(),
        }
    }
}

/// What an error is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Group of the resource.
    pub group: String,
    /// The resource, or the kind where causes are given.
    pub kind: String,
    /// Name of the object.
    pub name: String,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure(Box<Told>);

#[derive(Clone, Debug)]
struct Told {
    reason: Reason,
    message: String,
    about: About,
    causes: Vec<Cause>,
}

impl Failure {
    /// A failure about nothing in particular.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Told { reason, message, about: About::default(), causes: Vec::new() }))
    }

    /// About this object.
    #[must_use]
    pub fn about(mut self, about: About) -> Self {
        self.0.about = about;
        self
    }

    /// For these causes.
    #[must_use]
    pub fn because(mut self, causes: Vec<Cause>) -> Self {
        self.0.causes = causes;
        self
    }

    /// An object that cannot be.
    pub fn invalid(kind: &str, group: &str, name: &str, causes: Vec<Cause>) -> Self {
        let words: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let words =
            if words.len() == 1 { words.concat() } else { format!("[{}]", words.join(", ")) };
        let full = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let about = About { group: group.into(), kind: kind.into(), name: name.into() };
        Self::new(Reason::Invalid, format!("{full} {name:?} is invalid: {words}"))
            .about(about)
            .because(causes)
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// As `v1.Status`.
    pub fn status(&self) -> Value {
        let Told { reason, message, about: About { group, kind, name }, causes } = &*self.0;
        let mut details = serde_json::Map::new();
        for (field, text) in [("name", name), ("group", group), ("kind", kind)] {
            if !text.is_empty() {
                details.insert(field.into(), json!(text));
            }
        }
        if !causes.is_empty() {
            details.insert("causes".into(), json!(causes));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason.name(),
            "code": reason.code().as_u16(),
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0.reason.code(), Json(self.status())).into_response()
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        match &error {
            store::Error::Compacted { .. } => {
                Self::new(Reason::Expired, "The provided resource version is too old; list again")
            }
            store::Error::Future { asked, last } => Self::new(
                Reason::Timeout,
                format!("Too large resource version: {asked}, current: {last}"),
            ),
            store::Error::Conflict { .. } => Self::new(Reason::Conflict, error.to_string()),
            store::Error::Disk { .. }
            | store::Error::Damaged { .. }
            | store::Error::Sealed { .. } => {
                tracing::error!(%error, "the store does not work");
                Self::new(Reason::InternalError, error.to_string())
            }
            store::Error::Unreachable { .. } => {
                tracing::warn!(%error, "the store does not answer");
                Self::new(Reason::ServiceUnavailable, error.to_string())
            }
            store::Error::Closed => Self::new(Reason::ServiceUnavailable, error.to_string()),
        }
    }
}
