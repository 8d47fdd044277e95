//! Health and metrics over HTTP, and the daemon's own socket.

pub mod client;
pub mod health_check;
pub mod metrics;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path as Segment, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::{TcpListener, UnixListener};

use crate::{
    backend::Mode,
    daemon::{Report, Shared, doctor::Examiner, rows::Rows, serving::Requests},
    ebpf::pin::Pins,
};

/// How long an answer waits for an endpoint that still takes connections.
const LEFT_WAIT: Duration = Duration::from_secs(1);

/// What the handlers know.
#[derive(Clone, Debug)]
pub struct Context {
    /// The report.
    pub shared: Shared,
    /// Where the live maps are.
    pub pins: Pins,
    /// Compares the kernel with the table; not there before the loop runs.
    pub examiner: Arc<OnceLock<Examiner>>,
    /// Tells rows of backends without maps; not there before the loop runs.
    pub rows: Arc<OnceLock<Rows>>,
    /// Goes from mode to mode.
    pub modes: Requests,
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({flag})")]
pub struct ListenError {
    /// Address or path.
    address: String,
    /// Which setting names it.
    flag: &'static str,
    /// What the kernel said.
    #[source]
    source: io::Error,
}

/// Every path; `/metrics`, `/healthz` and `/livez` mean what they mean at kube-proxy.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/left", get(left))
        .route("/metrics", get(metrics))
        .route("/doctor", get(doctor))
        .route("/rows/endpoints", get(endpoints))
        .route("/rows/flows", get(flows))
        .route("/rows/frontends", get(frontends))
        .route("/services", get(services))
        .route("/status", get(status))
        .with_state(context)
}

/// What only those may ask who can open the daemon's own socket.
fn own_router(context: Context) -> Router {
    router(context.clone())
        .merge(Router::new().route("/mode/{mode}", post(mode)).with_state(context))
}

/// Opens all listeners, then serves until the process ends.
pub async fn serve(
    context: Context,
    addresses: [(SocketAddr, &'static str); 2],
    socket: &Path,
) -> Result<(), ListenError> {
    let app = router(context.clone());
    let [first, second] = addresses;
    let both = if first.0 == second.0 { vec![first] } else { vec![first, second] };
    for (address, flag) in both {
        let failed = |source| ListenError { address: address.to_string(), flag, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        tokio::spawn(axum::serve(listener, app.clone()).into_future());
    }
    let failed =
        |source| ListenError { address: socket.display().to_string(), flag: "--state-dir", source };
    // The lock is ours, so a socket that is there belongs to a daemon that died.
    let _gone = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(failed)?;
    tokio::spawn(axum::serve(listener, own_router(context)).into_future());
    Ok(())
}

/// Whether load balancers should send traffic to this node (KEP-3836).
async fn healthz(State(context): State<Context>) -> impl IntoResponse {
    let report = context.shared.report();
    if report.node_leaves {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is about to be deleted\n".to_owned());
    }
    alive(&report)
}

/// Whether this process does its work; a node that leaves is no reason to restart it.
async fn livez(State(context): State<Context>) -> impl IntoResponse {
    alive(&context.shared.report())
}

fn alive(report: &Report) -> (StatusCode, String) {
    if report.is_healthy(Instant::now()) {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let text = format!("{} changes wait too long for the kernel\n", report.pending);
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn metrics(State(context): State<Context>) -> impl IntoResponse {
    let text = tokio::task::spawn_blocking(move || metrics::render(&context)).await;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    match text {
        Ok(text) => (StatusCode::OK, kind, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, kind, error.to_string()),
    }
}

#[derive(serde::Deserialize)]
struct Leaving {
    addresses: String,
}

/// Whether this node sends no new connections to any of `?addresses=…` any more; waits a while until it
/// does not. Whoever is about to end a pod asks this of all nodes.
async fn left(State(context): State<Context>, Query(leaving): Query<Leaving>) -> Response {
    let Some(rows) = context.rows.get() else { return starting() };
    let addresses: Result<Vec<IpAddr>, _> =
        leaving.addresses.split(',').map(|it| it.trim().parse()).collect();
    let Ok(addresses) = addresses else {
        let words = format!("addresses={:?} is no list of addresses\n", leaving.addresses);
        return (StatusCode::BAD_REQUEST, words).into_response();
    };
    if rows.have_left(&addresses, LEFT_WAIT).await {
        return "left\n".into_response();
    }
    (StatusCode::CONFLICT, "still an endpoint\n").into_response()
}

/// What differs between kernel and table.
async fn doctor(State(context): State<Context>) -> impl IntoResponse {
    let Some(examiner) = context.examiner.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the daemon is starting\n").into_response();
    };
    match examiner.examine().await {
        Ok(running) => Json(running).into_response(),
        Err(error) => {
            let error = crate::ebpf::attach::chain(error.as_ref());
            (StatusCode::INTERNAL_SERVER_ERROR, error).into_response()
        }
    }
}

/// Another backend in the place of the one that serves; answers once it does.
async fn mode(State(context): State<Context>, Segment(name): Segment<String>) -> impl IntoResponse {
    let Some(to) = Mode::parse(&name) else {
        return (StatusCode::NOT_FOUND, format!("there is no mode {name}\n")).into_response();
    };
    match context.modes.ask(to).await {
        Ok(changed) => Json(changed).into_response(),
        Err(error) => {
            let error = crate::ebpf::attach::chain(&error);
            tracing::warn!(error, mode = %to, "the mode has not changed");
            (StatusCode::INTERNAL_SERVER_ERROR, error).into_response()
        }
    }
}

async fn frontends(State(context): State<Context>) -> impl IntoResponse {
    let Some(rows) = context.rows.get() else { return starting() };
    Json(rows.frontends().await).into_response()
}

async fn endpoints(State(context): State<Context>) -> impl IntoResponse {
    let Some(rows) = context.rows.get() else { return starting() };
    Json(rows.endpoints().await).into_response()
}

async fn flows(State(context): State<Context>) -> impl IntoResponse {
    let Some(rows) = context.rows.get() else { return starting() };
    match rows.flows().await {
        Ok(flows) => Json(flows).into_response(),
        Err(error) => failed(error.as_ref()),
    }
}

fn starting() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the daemon is starting\n").into_response()
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    let error = crate::ebpf::attach::chain(error);
    (StatusCode::INTERNAL_SERVER_ERROR, error).into_response()
}

async fn services(State(context): State<Context>) -> impl IntoResponse {
    Json(context.shared.report().services)
}

async fn status(State(context): State<Context>) -> impl IntoResponse {
    Json(context.shared.report())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::report::HEALTH_TIMEOUT;

    #[tokio::test]
    async fn a_node_that_leaves_is_alive_but_wants_no_traffic() {
        let pins = Pins::new(Path::new("/nowhere"), "test").unwrap();
        let context = Context {
            shared: Shared::default(),
            pins,
            examiner: Arc::default(),
            rows: Arc::default(),
            modes: Requests::new().0,
        };
        let codes = async || {
            let (health, life) = (healthz(State(context.clone())), livez(State(context.clone())));
            [health.await.into_response(), life.await.into_response()]
                .map(|response| response.status().as_u16())
        };
        assert_eq!(codes().await, [200, 200]);
        context.shared.update(|report| report.node_leaves = true);
        assert_eq!(codes().await, [503, 200]);
        context.shared.update(|report| {
            report.node_leaves = false;
            report.waiting_since = Instant::now().checked_sub(HEALTH_TIMEOUT);
            assert!(report.waiting_since.is_some());
        });
        assert_eq!(codes().await, [503, 503]);
    }
}
