//! One question to a container, by HTTP, TCP, gRPC or a command.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use prost::Message;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::Target;
use crate::cri::Runtime;

/// Redirects that are followed, to the same host.
const REDIRECTS_MAX: usize = 10;

/// Asks once; says why the answer is no.
pub(crate) async fn check(probe: &Probe, target: &Target, runtime: &Runtime) -> Result<(), String> {
    let seconds = probe.timeout_seconds.and_then(|it| u64::try_from(it).ok()).unwrap_or(1);
    let within = Duration::from_secs(seconds.max(1));
    let late = |what: &str| format!("{what}: no answer within {seconds}s");
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match runtime.exec_sync(&target.id, &command, within).await {
            Ok(ran) if ran.code == 0 => Ok(()),
            Ok(ran) => Err(String::from_utf8_lossy(&ran.output).trim().to_owned()),
            Err(status) => Err(format!("command {:?}: {}", command.join(" "), status.message())),
        };
    }
    if let Some(action) = &probe.http_get {
        let address = address(action.host.as_deref(), &action.port, target)?;
        let asked = timeout(within, http(action, address)).await;
        return asked.unwrap_or_else(|_late| Err(late(&format!("Get {:?}", url(action, address)))));
    }
    if let Some(action) = &probe.tcp_socket {
        let address = address(action.host.as_deref(), &action.port, target)?;
        return match timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(_open)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {address}: {error}")),
            Err(_late) => Err(late(&format!("dial tcp {address}"))),
        };
    }
    if let Some(action) = &probe.grpc {
        let address = address(None, &IntOrString::Int(action.port), target)?;
        let service = action.service.clone().unwrap_or_default();
        let asked = timeout(within, grpc(address, service)).await;
        return asked.unwrap_or_else(|_late| Err(late(&format!("grpc {address}"))));
    }
    Err("the probe asks for nothing".into())
}

fn address(host: Option<&str>, port: &IntOrString, target: &Target) -> Result<SocketAddr, String> {
    let ip = match host.filter(|it| !it.is_empty()) {
        Some(host) => host.parse().map_err(|error| format!("{host:?} is no address: {error}"))?,
        None => target.address.ok_or("the pod has no address")?,
    };
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => named(&target.container, name).or_else(|| name.parse().ok()),
    };
    let number = number.ok_or_else(|| format!("there is no port {port:?}"))?;
    Ok(SocketAddr::new(ip, number))
}

/// The port of a container that has this name.
pub(crate) fn named(container: &Container, name: &str) -> Option<u16> {
    let ports = container.ports.iter().flatten();
    let mut ports = ports.filter(|it| it.name.as_deref() == Some(name));
    ports.next().and_then(|it| u16::try_from(it.container_port).ok())
}

fn url(action: &HTTPGetAction, address: SocketAddr) -> String {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action.path.as_deref().filter(|it| !it.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{address}{slash}{path}")
}

/// Asks by HTTP: 200 to 399 is yes. Also for hooks.
pub(crate) async fn http(action: &HTTPGetAction, address: SocketAddr) -> Result<(), String> {
    let mut url = url(action, address);
    for _ in 0..=REDIRECTS_MAX {
        let (status, location) = once(action, address, &url).await?;
        let Some(location) = location.filter(|_| status.is_redirection()) else {
            if status.is_success() || status.is_redirection() {
                return Ok(());
            }
            return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()));
        };
        let next = if location.starts_with('/') {
            let base: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
            format!("{}://{address}{location}", base.scheme_str().unwrap_or("http"))
        } else {
            location
        };
        let host = next.parse::<Uri>().ok().and_then(|it| it.host().map(str::to_owned));
        if host.as_deref().map(|it| it.trim_matches(['[', ']'])) != Some(&address.ip().to_string())
        {
            // Another host: that the container says so is enough.
            return Ok(());
        }
        url = next;
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

async fn once(
    action: &HTTPGetAction,
    address: SocketAddr,
    url: &str,
) -> Result<(StatusCode, Option<String>), String> {
    let failed = |error: &dyn std::fmt::Display| format!("Get {url:?}: {error}");
    let uri: Uri = url.parse().map_err(|error| failed(&error))?;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
    let mut request = Request::get(path);
    let mut has_host = false;
    let mut has_agent = false;
    for pair in action.http_headers.iter().flatten() {
        has_host |= pair.name.eq_ignore_ascii_case("host");
        has_agent |= pair.name.eq_ignore_ascii_case("user-agent");
        request = request.header(&pair.name, &pair.value);
    }
    if !has_host {
        request = request.header(header::HOST, address.to_string());
    }
    if !has_agent {
        request = request.header(header::USER_AGENT, "kube-probe/1.33");
    }
    let request = request.header(header::ACCEPT, "*/*").header(header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let port = uri.port_u16().unwrap_or_else(|| address.port());
    let stream = TcpStream::connect((address.ip(), port)).await.map_err(|error| failed(&error))?;
    if uri.scheme_str() == Some("https") {
        let name = ServerName::from(address.ip());
        let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting()));
        let stream = connector.connect(name, stream).await.map_err(|error| failed(&error))?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
    .map_err(|error| failed(&error))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, Option<String>), hyper::Error> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    let answer = answer.map(|answer| {
        let location = answer.headers().get(header::LOCATION);
        let location = location.and_then(|it| it.to_str().ok()).map(str::to_owned);
        (answer.status(), location)
    });
    driving.abort();
    answer
}

/// For those who do not look at certificates: probes.
pub(crate) fn trusting() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has all versions of TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(schemes)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// Names and numbers of `grpc.health.v1`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// 1 is serving.
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc(address: SocketAddr, service: String) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("grpc {address}: {error}");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.map_err(|error| failed(&error))?.connect().await;
    let mut grpc = tonic::client::Grpc::new(channel.map_err(|error| failed(&error))?);
    grpc.ready().await.map_err(|error| failed(&error))?;
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthCheckRequest { service: service.clone() });
    let answer =
        grpc.unary(request, path, codec).await.map_err(|status| failed(&status.message()))?;
    match answer.into_inner().status {
        1 => Ok(()),
        _ => Err(format!("service unhealthy (responded with {service:?} not serving)")),
    }
}
