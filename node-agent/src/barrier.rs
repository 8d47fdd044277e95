//! The drain barrier: a container is told to end only once no node's dataplane sends to its pod.
//!
//! Each dataplane says on its health port whether it still sends new connections to an address. The nodes are
//! asked at once, each answers as soon as it does not, and all of that has a bound.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

/// What was on its way when the last node stopped sending has this long to be answered.
const SETTLE: Duration = Duration::from_millis(250);
/// Before a node that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Nodes whose dataplanes are asked.
#[derive(Debug)]
pub(crate) struct Barrier {
    within: Duration,
    port: u16,
    nodes: RwLock<Arc<Vec<IpAddr>>>,
}

impl Barrier {
    pub(crate) fn new(within: Duration, port: u16) -> Self {
        Self { within, port, nodes: RwLock::default() }
    }

    /// Addresses of the nodes that are alive.
    pub(crate) fn set_nodes(&self, nodes: Vec<IpAddr>) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(nodes);
    }

    /// Waits for all nodes, or until the bound.
    ///
    /// `others` says whether the pod's clients have other endpoints to go to: nothing while the pod itself
    /// counts as ready. Without others there is nothing to wait for: nodes go on sending to it as a last resort.
    pub(crate) async fn wait(
        &self,
        pod: &Pod,
        addresses: &[IpAddr],
        mut changed: watch::Receiver<()>,
        others: impl Fn() -> Option<bool>,
    ) {
        if self.within.is_zero() || addresses.is_empty() {
            return;
        }
        let begin = Instant::now();
        let end = begin + self.within;
        loop {
            match others() {
                Some(true) => break,
                Some(false) => return,
                None => {}
            }
            if !matches!(timeout_at(end, changed.changed()).await, Ok(Ok(()))) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(pod = name, "the pod still counts as an endpoint");
                return;
            }
        }
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone();
        let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let list = list.join(",");
        let asked = nodes.iter().map(|node| left(SocketAddr::new(*node, self.port), &list, end));
        let answers = futures::future::join_all(asked).await;
        let late = answers.iter().filter(|it| !**it).count();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let took = begin.elapsed();
        if late > 0 {
            tracing::warn!(
                pod = name,
                late,
                ?took,
                "nodes did not say that they send nothing to the pod"
            );
        } else {
            sleep(SETTLE).await;
            tracing::debug!(pod = name, nodes = nodes.len(), ?took, "no node sends to the pod");
        }
    }
}

/// Whether the dataplane of a node says in time that it sends nothing to the addresses.
async fn left(node: SocketAddr, addresses: &str, end: Instant) -> bool {
    loop {
        match timeout_at(end, ask(node, addresses)).await {
            Ok(Ok(StatusCode::OK)) => return true,
            Ok(Ok(_) | Err(_)) => {
                if timeout_at(end, sleep(PAUSE)).await.is_err() {
                    return false;
                }
            }
            Err(_late) => return false,
        }
    }
}

async fn ask(
    node: SocketAddr,
    addresses: &str,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(node).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let request = Request::get(format!("/left?addresses={addresses}"))
        .header(header::HOST, node.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await;
    driving.abort();
    Ok(answer?.status())
}
