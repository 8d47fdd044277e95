//! What the server takes: conditions of Services by server-side apply, and Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use serde_json::{Value, json};

use super::{Shared, Store, refuse};
use crate::model::Kind;

/// What was written, and what may be.
#[derive(Debug, Default)]
pub(in crate::source::api) struct Written {
    /// Every Event, by name.
    pub(in crate::source::api) events: BTreeMap<String, Value>,
    /// Every write that was asked for, in order.
    pub(in crate::source::api) log: Vec<String>,
    /// Every write of a condition has this answer.
    pub(in crate::source::api) condition_refusal: Option<StatusCode>,
    /// Every write of an Event has this answer.
    pub(in crate::source::api) event_refusal: Option<StatusCode>,
    /// Types of the conditions that a field manager owns.
    owned: BTreeSet<(String, String, String)>,
}

pub(super) fn routes(store: &Shared) -> Router {
    let events = "/apis/events.k8s.io/v1/namespaces/shop/events";
    Router::new()
        .route("/api/v1/namespaces/shop/services/{name}", get(service))
        .route("/api/v1/namespaces/shop/services/{name}/status", patch(apply_status))
        .route(events, post(create_event))
        .route(&format!("{events}/{{name}}"), patch(patch_event))
        .with_state(Arc::clone(store))
}

async fn service(State(store): State<Shared>, Path(name): Path<String>) -> Response {
    let store = store.lock().unwrap();
    if let Some(code) = store.refusal_of(Kind::Service) {
        return refuse(code);
    }
    match store.objects.get(&(Kind::Service, name)) {
        Some(object) => Json(object).into_response(),
        None => refuse(StatusCode::NOT_FOUND),
    }
}

async fn apply_status(
    State(store): State<Shared>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut store = store.lock().unwrap();
    store.written.log.push(format!("condition {name}"));
    if let Some(code) = store.written.condition_refusal {
        return refuse(code);
    }
    assert_eq!(headers[header::CONTENT_TYPE], "application/apply-patch+yaml");
    let query = query.unwrap_or_default();
    let manager = query.split('&').find_map(|pair| pair.strip_prefix("fieldManager="));
    let manager = manager.expect("server-side apply names its manager").to_owned();
    let applied: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&applied["kind"], &applied["metadata"]["name"]), (&json!("Service"), &json!(name)));
    match apply(&mut store, &name, &manager, &applied["status"]) {
        Some(object) => Json(object).into_response(),
        None => refuse(StatusCode::NOT_FOUND),
    }
}

/// Conditions are a map by type: those of others stay, and those that the manager does not name
/// any more go.
fn apply(store: &mut Store, name: &str, manager: &str, status: &Value) -> Option<Value> {
    let mut object = store.objects.get(&(Kind::Service, name.to_owned()))?.clone();
    let before = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let of_type = |condition: &Value| condition["type"].as_str().unwrap().to_owned();
    let mut conditions: BTreeMap<String, Value> =
        before.iter().map(|condition| (of_type(condition), condition.clone())).collect();
    let key = |kind: &str| (name.to_owned(), manager.to_owned(), kind.to_owned());
    let owned = &mut store.written.owned;
    conditions.retain(|kind, _| !owned.contains(&key(kind)));
    for condition in status["conditions"].as_array().unwrap() {
        for field in ["type", "status", "reason", "message", "lastTransitionTime"] {
            assert!(condition[field].as_str().is_some_and(|text| !text.is_empty()), "{condition}");
        }
        owned.insert(key(&of_type(condition)));
        conditions.insert(of_type(condition), condition.clone());
    }
    let after: Vec<Value> = conditions.into_values().collect();
    if after != before {
        object["status"]["conditions"] = after.into();
        store.put_object(Kind::Service, name, object.clone());
    }
    Some(object)
}

async fn create_event(State(store): State<Shared>, Json(event): Json<Value>) -> Response {
    let mut store = store.lock().unwrap();
    let name = event["metadata"]["name"].as_str().unwrap().to_owned();
    store.written.log.push(format!("event {name}"));
    if let Some(code) = store.written.event_refusal {
        return refuse(code);
    }
    // What the API server insists on (`pkg/apis/core/validation/events.go`).
    for field in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        assert!(event[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {event}");
    }
    assert!(event["note"].as_str().unwrap().len() <= 1024);
    assert_eq!(event["regarding"]["namespace"], event["metadata"]["namespace"]);
    if store.written.events.contains_key(&name) {
        return refuse(StatusCode::CONFLICT);
    }
    store.written.events.insert(name, event.clone());
    (StatusCode::CREATED, Json(event)).into_response()
}

async fn patch_event(
    State(store): State<Shared>,
    Path(name): Path<String>,
    Json(patch): Json<Value>,
) -> Response {
    let mut store = store.lock().unwrap();
    store.written.log.push(format!("series {name}"));
    if let Some(code) = store.written.event_refusal {
        return refuse(code);
    }
    let Some(event) = store.written.events.get_mut(&name) else {
        return refuse(StatusCode::NOT_FOUND);
    };
    // Of an Event, only the series may change.
    assert_eq!(patch.as_object().unwrap().keys().collect::<Vec<_>>(), ["series"]);
    assert!(patch["series"]["count"].as_i64().unwrap() >= 2, "{patch}");
    event["series"] = patch["series"].clone();
    Json(event.clone()).into_response()
}
