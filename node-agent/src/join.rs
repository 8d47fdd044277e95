//! How a machine becomes a node: it knows the authority's fingerprint and a token, and asks the server.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA256, digest};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;

use crate::{image::hex, probe::check};

/// Why a machine is no node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token.
    #[error("{0:?} is no token of `hashplane token create`")]
    Token(String),
    /// The server's address.
    #[error("{0:?} is no address of a server, such as https://192.0.2.1:6443")]
    Server(String),
    /// It does not answer.
    #[error("the server {server} does not answer: {words}")]
    Silent {
        /// Which.
        server: String,
        /// Why.
        words: String,
    },
    /// It is another one than the token is of.
    #[error(
        "the server {0} is not the one that the token is of: its authority has another fingerprint"
    )]
    Stranger(String),
    /// It says no.
    #[error("the server {server} does not let this machine join: {words}")]
    Refused {
        /// Which.
        server: String,
        /// What it says.
        words: String,
    },
}

/// A token: the fingerprint of the server's authority, and what the server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's certificate, as hexadecimal digits.
    pub fingerprint: String,
    /// `id.secret`.
    pub secret: String,
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.splitn(3, '.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("hp1"), Some(fingerprint), Some(secret))
                if fingerprint.len() == 64 && secret.contains('.') =>
            {
                Ok(Self { fingerprint: fingerprint.into(), secret: secret.into() })
            }
            _ => Err(Error::Token(text.into())),
        }
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hp1.{}.{}", self.fingerprint, self.secret)
    }
}

/// The fingerprint of a certificate, given as PEM; empty if it is none.
pub fn fingerprint(certificate: &str) -> String {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes());
    der.map_or_else(|_| String::new(), |der| hex(digest(&SHA256, &der).as_ref(), 32))
}

/// What every node is told of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Cluster {
    /// Networks of pods.
    pub pods: Vec<String>,
    /// Networks of Services.
    pub services: Vec<String>,
    /// Addresses of cluster DNS.
    pub dns: Vec<IpAddr>,
    /// The DNS domain.
    pub domain: String,
}

/// What a node gets to be one.
#[derive(Clone, Deserialize)]
#[expect(missing_debug_implementations, reason = "it holds a key")]
pub struct Welcome {
    /// The way to the API.
    pub kubeconfig: String,
    /// The node's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority of everybody.
    pub authority: String,
    /// What it is told.
    pub cluster: Cluster,
}

/// Asks a server to be one of its nodes.
pub async fn join(
    server: &str,
    token: &Token,
    name: &str,
    addresses: &[IpAddr],
) -> Result<Welcome, Error> {
    let uri: Uri = server.parse().map_err(|_no_uri| Error::Server(server.into()))?;
    let authority = uri.authority().ok_or_else(|| Error::Server(server.into()))?.to_string();
    let silent = |words: String| Error::Silent { server: server.into(), words };
    // What it says here is believed only if it has the token's fingerprint.
    let question = Request::get("/hashplane/v1/authority");
    let (_, body) =
        ask(&authority, check::trusting(), question, Bytes::new()).await.map_err(silent)?;
    let certificate: String = serde_json::from_slice(&body).unwrap_or_default();
    if fingerprint(&certificate) != token.fingerprint {
        return Err(Error::Stranger(server.into()));
    }
    let config = trusting_only(&certificate).map_err(silent)?;
    let question = Request::post("/hashplane/v1/join")
        .header(header::AUTHORIZATION, format!("Bearer {}", token.secret))
        .header(header::CONTENT_TYPE, "application/json");
    let body =
        json!({"name": name, "addresses": addresses, "server": format!("https://{authority}")});
    let body = Bytes::from(body.to_string());
    let (status, body) = ask(&authority, config, question, body).await.map_err(silent)?;
    if status != StatusCode::OK {
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let words = status["message"].as_str().unwrap_or("it says no more").to_owned();
        return Err(Error::Refused { server: server.into(), words });
    }
    serde_json::from_slice(&body).map_err(|error| silent(error.to_string()))
}

fn trusting_only(certificate: &str) -> Result<ClientConfig, String> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes());
    let mut roots = RootCertStore::empty();
    roots.add(der.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn ask(
    authority: &str,
    config: ClientConfig,
    question: http::request::Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(authority).await.map_err(|error| failed(&error))?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    let name = name.map_err(|error| failed(&error))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| failed(&error))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| failed(&error))?;
    let driving = tokio::spawn(connection);
    let question = question.header(header::HOST, authority).body(Full::new(body));
    let answer = sender.send_request(question.map_err(|error| failed(&error))?).await;
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
    driving.abort();
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token =
            Token { fingerprint: "ab".repeat(32), secret: "abcdef.0123456789abcdef".into() };
        assert_eq!(token.to_string().parse::<Token>().expect("a token"), token);
        for text in ["", "hp1.x.y", "abcdef.0123456789abcdef", "hp2.a.b.c"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
