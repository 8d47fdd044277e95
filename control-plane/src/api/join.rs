//! Machines that want to be nodes: they show a bootstrap token, and get a certificate.

use std::{net::IpAddr, path::PathBuf};

use axum::{body::to_bytes, extract::Request, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, header};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    answer,
    asked::BODY_MAX,
    status::{Failure, Reason},
};
use crate::{
    auth::tls::Authority,
    client::Kind,
    controllers::facts::condition,
    object::text,
    registry::{Registry, Scope},
    resource,
    server::NodeFiles,
};

/// Where everybody learns the authority's certificate, to compare it with what they know of it.
pub const AUTHORITY: &str = "/hashplane/v1/authority";
/// Where machines ask to be nodes.
pub const JOIN: &str = "/hashplane/v1/join";
const SECRETS: Kind = Kind { group: "", plural: "secrets" };
const NODES: Kind = Kind { group: "", plural: "nodes" };
/// The type of Secrets that are bootstrap tokens, as upstream.
const TOKEN: &str = "bootstrap.kubernetes.io/token";

/// What every node is told of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a machine says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// The name of the node that it will be.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Where it finds the server.
    pub server: String,
}

/// Lets machines join.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Where the authority's key is.
    pub data: PathBuf,
    /// What nodes are told.
    pub cluster: Cluster,
}

impl Joining {
    /// Answers if the request is about joining.
    pub async fn serve(&self, registry: &Registry, request: Request) -> Result<Response, Failure> {
        let path = request.uri().path().to_owned();
        let broken = |error: &dyn std::fmt::Display| {
            Failure::new(Reason::InternalError, format!("the authority cannot be used: {error}"))
        };
        if path == AUTHORITY {
            let authority =
                Authority::open(&self.data.join("pki")).map_err(|error| broken(&error))?;
            return Ok(answer::json_text(Value::String(authority.certificate).to_string()));
        }
        if request.method() != Method::POST {
            return Err(Failure::new(Reason::MethodNotAllowed, "machines join by POST"));
        }
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        let token = bearer.and_then(|it| it.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
        self.check(registry, &token).await?;
        let body = to_bytes(request.into_body(), BODY_MAX).await;
        let bad =
            |error: &dyn std::fmt::Display| Failure::new(Reason::BadRequest, error.to_string());
        let body = body.map_err(|error| bad(&error))?;
        let ask: Ask = serde_json::from_slice(&body).map_err(|error| bad(&error))?;
        if ask.addresses.is_empty() || !is_name(&ask.name) {
            return Err(bad(&"a node has a name of lower case letters, and an address"));
        }
        refuse_twin(registry, &ask.name).await?;
        let files = NodeFiles::new(&self.data, &ask.server, &ask.name, &ask.addresses);
        let files = files.map_err(|error| broken(&error))?;
        tracing::info!(node = ask.name, "a node joins");
        let welcome = serde_json::json!({
            "kubeconfig": files.kubeconfig, "certificate": files.pair.certificate,
            "key": files.pair.key, "authority": files.authority, "cluster": self.cluster,
        });
        Ok(answer::json_text(welcome.to_string()))
    }

    /// Whether a token, `id.secret`, is one that lets machines join.
    async fn check(&self, registry: &Registry, token: &str) -> Result<(), Failure> {
        let no = || Failure::new(Reason::Unauthorized, "the token lets nobody join");
        let (id, secret) = token.split_once('.').ok_or_else(no)?;
        let known = resource::by_id(SECRETS).ok_or_else(no)?;
        let scope = Scope::new(known, "kube-system");
        let object = registry.get(&scope, &format!("bootstrap-token-{id}")).await;
        let object = object.map_err(|_missing| no())?;
        let value = |key: &str| -> String {
            let bytes = STANDARD.decode(text(&object, &["data", key])).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let is_token = text(&object, &["type"]) == TOKEN && value("token-id") == id;
        let is_secret = !secret.is_empty()
            && hashed(&value("token-secret")).as_ref() == hashed(secret).as_ref();
        let may = value("usage-bootstrap-authentication") == "true";
        let expires = value("expiration");
        let is_fresh = expires.is_empty()
            || expires.parse::<Timestamp>().is_ok_and(|at| at > Timestamp::now());
        if is_token && is_secret && may && is_fresh { Ok(()) } else { Err(no()) }
    }
}

/// Compared instead of the secret itself: how long that takes tells nobody how near a guess was.
fn hashed(secret: &str) -> ring::digest::Digest {
    digest(&SHA256, secret.as_bytes())
}

/// A node that lives keeps its name.
async fn refuse_twin(registry: &Registry, name: &str) -> Result<(), Failure> {
    let Some(known) = resource::by_id(NODES) else { return Ok(()) };
    let Ok(node) = registry.get(&Scope::new(known, ""), name).await else { return Ok(()) };
    if condition(&node, "Ready").is_some_and(|it| text(it, &["status"]) == "True") {
        let words = format!("node {name} lives; delete it, or join by another name");
        return Err(Failure::new(Reason::Conflict, words));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    !name.is_empty() && name.len() <= 253 && name.chars().all(fits)
}
