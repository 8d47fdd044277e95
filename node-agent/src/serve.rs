//! What the API server asks the node: logs, commands, ports, numbers.

pub(crate) mod logs;
mod stats;
mod stream;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    settings::{Settings, Tls},
    shared::Shared,
};

/// The group that the API server asks as.
const MASTERS: &str = "system:masters";

/// A body, and what can go wrong with it.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// Certificates.
    #[error("the node's certificates are not as they should be: {0}")]
    Tls(String),
}

/// The node's pods by namespace and name.
#[derive(Clone, Default)]
pub(crate) struct Pods(Arc<RwLock<BTreeMap<(String, String), Pod>>>);

fn key(pod: &Pod) -> (String, String) {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    (text(&pod.metadata.namespace), text(&pod.metadata.name))
}

impl Pods {
    pub(crate) fn put(&self, pod: &Pod) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key(pod), pod.clone());
    }

    pub(crate) fn remove(&self, pod: &Pod) {
        let mut pods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if pods.get(&key(pod)).is_some_and(|it| it.metadata.uid == pod.metadata.uid) {
            pods.remove(&key(pod));
        }
    }

    pub(crate) fn all(&self) -> Vec<Pod> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Pod> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

/// What answers.
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pods: Pods,
    stats: stats::Stats,
}

impl Server {
    pub(crate) fn new(shared: Arc<Shared>, pods: Pods) -> Self {
        Self { shared, pods, stats: stats::Stats::default() }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        match parts.as_slice() {
            ["healthz"] => text(StatusCode::OK, "ok"),
            ["containerLogs", namespace, pod, container] => {
                logs::serve(&self, namespace, pod, container, &query).await
            }
            ["exec" | "attach", namespace, pod, container] => {
                let (namespace, pod, container) = (*namespace, *pod, *container);
                let is_exec = path.starts_with("/exec");
                stream::into_container(&self, is_exec, namespace, pod, container, &query, request)
                    .await
            }
            ["portForward", namespace, pod] => {
                stream::into_pod(&self, namespace, pod, request).await
            }
            ["stats", "summary"] => self.stats.serve(&self).await,
            _ => text(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }
}

/// What stands behind the question mark, decoded, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|it| !it.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Self(pairs.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|it| matches!(it, "true" | "1"))
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(own, _)| own == name).map(|(_, value)| value.clone()).collect()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut ahead = rest.clone();
                let hex = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let pair = hex(ahead.next()).zip(hex(ahead.next()));
                match pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
                    Some(value) => {
                        bytes.push(value);
                        rest = ahead;
                    }
                    None => bytes.push(byte),
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer of words.
pub(crate) fn text(status: StatusCode, words: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(words.into().into_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// Listens; the task that is given back answers.
pub(crate) async fn listen(
    server: Server,
    settings: &Settings,
) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    let config = config(&settings.tls)?;
    let address = settings.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|cause| Error::Listen { address, cause })?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Arc::new(server);
    Ok(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(connection(server.clone(), acceptor.clone(), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    })
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let (_, session) = stream.get_ref();
    let first = session.peer_certificates().and_then(<[_]>::first);
    let is_known = first.is_some_and(is_master);
    let service = service_fn(move |request| {
        let server = server.clone();
        async move {
            let answer = if is_known {
                server.answer(request).await
            } else {
                text(StatusCode::FORBIDDEN, "only the API server may ask")
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let builder = hyper::server::conn::http1::Builder::new();
    let serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    if let Err(error) = serving.await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Whether a certificate, which has been verified, is that of the API server.
fn is_master(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let mut groups = certificate.subject().iter_organization();
    groups.any(|it| it.as_str().is_ok_and(|it| it == MASTERS))
}

fn config(tls: &Tls) -> Result<ServerConfig, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(tls.authority.as_bytes()) {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let clients = clients.build().map_err(|error| failed(&error))?;
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(tls.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(|error| failed(&error))?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.map_err(|error| failed(&error))?, key)
        .map_err(|error| failed(&error))
}
