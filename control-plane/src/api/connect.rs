//! Requests that nodes, pods or Services answer: logs, commands, ports, proxies.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{body::to_bytes, extract::Request, response::Response};
use http::{Uri, header};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    asked::BODY_MAX,
    path::Target,
    query::Query,
    status::{Failure, Reason},
    tunnel,
};
use crate::{
    client::Kind,
    object::{self, list, number, text},
    registry::{Registry, Scope},
    resource,
};

const NODES: Kind = Kind { group: "", plural: "nodes" };
const PODS: Kind = Kind { group: "", plural: "pods" };
const SERVICES: Kind = Kind { group: "", plural: "services" };
const ENDPOINTS: Kind = Kind { group: "", plural: "endpoints" };
/// The container that commands go to when none is named.
const DEFAULT: &str = "kubectl.kubernetes.io/default-container";

/// The parts of objects that are not ours to answer.
pub fn is_connection(target: &Target) -> bool {
    let part = target.subresource.split('/').next().unwrap_or_default();
    matches!(part, "log" | "exec" | "attach" | "portforward" | "proxy") && target.group.is_empty()
}

/// The way to nodes.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "it holds a key")]
pub struct Nodes {
    tls: Arc<ClientConfig>,
}

impl Nodes {
    /// Shows nodes this certificate, and takes theirs from the same authority.
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls }
    }

    async fn get(
        registry: &Registry,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Failure> {
        let words = || format!("there is no resource {}", kind.plural);
        let known =
            resource::by_id(kind).ok_or_else(|| Failure::new(Reason::InternalError, words()))?;
        registry.get(&Scope::new(known, namespace), name).await
    }

    /// Passes a request on, whole as it came.
    pub async fn serve(
        &self,
        registry: &Registry,
        target: &Target,
        query: &Query,
        request: Request,
    ) -> Result<Response, Failure> {
        let (part, rest) = target.subresource.split_once('/').unwrap_or((&target.subresource, ""));
        if part == "proxy" {
            return proxy(self, registry, target, rest, request).await;
        }
        let pod = Self::get(registry, PODS, &target.namespace, &target.name).await?;
        let node = text(&pod, &["spec", "nodeName"]);
        let (namespace, name) = (&target.namespace, &target.name);
        if node.is_empty() {
            let words = format!("pod {name} does not have a host assigned");
            return Err(Failure::new(Reason::BadRequest, words));
        }
        let raw = request.uri().query().unwrap_or_default().to_owned();
        let path = match part {
            "portforward" => format!("/portForward/{namespace}/{name}?{raw}"),
            "log" => {
                let container = container(&pod, query, false)?;
                format!("/containerLogs/{namespace}/{name}/{container}?{raw}")
            }
            part => {
                let container = container(&pod, query, true)?;
                format!("/{part}/{namespace}/{name}/{container}?{raw}")
            }
        };
        let node = Self::get(registry, NODES, "", node).await?;
        self.ask(&node, &path, request).await
    }

    /// Asks the agent of a node.
    pub async fn ask(
        &self,
        node: &Value,
        path: &str,
        request: Request,
    ) -> Result<Response, Failure> {
        let name = object::name(node);
        let address = address(node).ok_or_else(|| {
            Failure::new(Reason::ServiceUnavailable, format!("no node agent serves node {name}"))
        })?;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(
                Reason::ServiceUnavailable,
                format!("node {name} does not answer: {error}"),
            )
        };
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(ServerName::from(address.ip()), stream).await;
        let stream = stream.map_err(|error| failed(&error))?;
        let answer = tunnel::pass_on(stream, &address.to_string(), path, request).await;
        let answer = answer.map_err(|error| failed(&error))?;
        refused(answer).await
    }
}

/// What a node says in words when it does not do it, as clients of the API understand it.
async fn refused(answer: Response) -> Result<Response, Failure> {
    let status = answer.status();
    let in_words = answer.headers().get(header::CONTENT_TYPE);
    let in_words =
        in_words.and_then(|it| it.to_str().ok()).is_some_and(|it| it.starts_with("text/plain"));
    if !in_words || !(status.is_client_error() || status.is_server_error()) {
        return Ok(answer);
    }
    let body = to_bytes(answer.into_body(), BODY_MAX).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&body).trim().to_owned();
    Err(Failure::new(Reason::of("", status.as_u16()), words))
}

/// Where the agent of a node listens.
fn address(node: &Value) -> Option<SocketAddr> {
    let port = number(node, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"])?;
    let addresses = list(node, &["status", "addresses"]);
    let mut own = addresses.iter().filter(|it| text(it, &["type"]) == "InternalIP");
    let ip: IpAddr = text(own.next()?, &["address"]).parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

/// The container that a request is about.
fn container(pod: &Value, query: &Query, takes_first: bool) -> Result<String, Failure> {
    let fields = ["containers", "initContainers", "ephemeralContainers"];
    let all: Vec<&str> = fields
        .iter()
        .flat_map(|field| list(pod, &["spec", field]))
        .map(|it| text(it, &["name"]))
        .collect();
    let name = object::name(pod);
    let named = query.text("container");
    let bad = |words: String| Err(Failure::new(Reason::BadRequest, words));
    if !named.is_empty() {
        if all.contains(&named) {
            return Ok(named.to_owned());
        }
        return bad(format!("container {named} is not valid for pod {name}"));
    }
    let default = text(pod, &["metadata", "annotations", DEFAULT]);
    if all.contains(&default) {
        return Ok(default.to_owned());
    }
    match list(pod, &["spec", "containers"]) {
        [only] => Ok(text(only, &["name"]).to_owned()),
        [first, ..] if takes_first => Ok(text(first, &["name"]).to_owned()),
        _ => bad(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        )),
    }
}

/// `[scheme:]name[:port]`, as proxies are asked.
fn split(name: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [scheme @ ("http" | "https" | ""), name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", name, ""),
    }
}

async fn proxy(
    nodes: &Nodes,
    registry: &Registry,
    target: &Target,
    rest: &str,
    request: Request,
) -> Result<Response, Failure> {
    let (scheme, name, port) = split(&target.name);
    if scheme == "https" {
        let words = "only http is passed on to pods and Services";
        return Err(Failure::new(Reason::BadRequest, words));
    }
    let query = request.uri().query().map(|it| format!("?{it}")).unwrap_or_default();
    let path = format!("/{rest}{query}");
    let namespace = &target.namespace;
    let to = match target.resource.as_str() {
        "nodes" => {
            let node = Nodes::get(registry, NODES, "", name).await?;
            return nodes.ask(&node, &path, request).await;
        }
        "pods" => {
            let pod = Nodes::get(registry, PODS, namespace, name).await?;
            let ip = text(&pod, &["status", "podIP"]).parse().ok();
            let first = list(&pod, &["spec", "containers"]).first();
            let first = first.and_then(|it| list(it, &["ports"]).first());
            let number = port.parse().ok().or_else(|| {
                first
                    .and_then(|it| number(it, &["containerPort"]))
                    .and_then(|it| u16::try_from(it).ok())
            });
            ip.map(|ip: IpAddr| SocketAddr::new(ip, number.unwrap_or(80)))
        }
        _ => {
            Nodes::get(registry, SERVICES, namespace, name).await?;
            let endpoints = Nodes::get(registry, ENDPOINTS, namespace, name).await.ok();
            endpoints.as_ref().and_then(|it| endpoint(it, port))
        }
    };
    let to = to.ok_or_else(|| {
        let words = format!("no endpoints available for service {name:?}");
        Failure::new(Reason::ServiceUnavailable, words)
    })?;
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Reason::ServiceUnavailable, format!("error trying to reach service: {error}"))
    };
    let stream = TcpStream::connect(to).await.map_err(|error| failed(&error))?;
    tunnel::pass_on(stream, &to.to_string(), &path, request).await.map_err(|error| failed(&error))
}

/// An endpoint of a Service's port, which is named or counted.
fn endpoint(endpoints: &Value, port: &str) -> Option<SocketAddr> {
    for subset in list(endpoints, &["subsets"]) {
        let Some(address) = list(subset, &["addresses"]).first() else { continue };
        let ports = list(subset, &["ports"]);
        let is_meant = |it: &&Value| {
            port.is_empty()
                || text(it, &["name"]) == port
                || number(it, &["port"]).is_some_and(|own| own.to_string() == port)
        };
        let chosen =
            ports.iter().find(is_meant).or_else(|| ports.first().filter(|_| ports.len() == 1));
        let number = chosen.and_then(|it| number(it, &["port"]));
        if let (Ok(ip), Some(number)) = (text(address, &["ip"]).parse::<IpAddr>(), number) {
            return Some(SocketAddr::new(ip, u16::try_from(number).ok()?));
        }
    }
    None
}

/// A request of our own to a node.
pub fn question(path: &str) -> Result<Request, Failure> {
    let uri: Result<Uri, _> = path.parse();
    let uri = uri.map_err(|error| Failure::new(Reason::InternalError, error.to_string()))?;
    let mut request = Request::new(axum::body::Body::empty());
    *request.uri_mut() = uri;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_without_a_container_means_the_only_one() {
        let pod = |names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|it| json!({"name": it})).collect();
            json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
        };
        let none = Query::parse("");
        assert_eq!(container(&pod(&["a"]), &none, false).ok().as_deref(), Some("a"));
        assert!(container(&pod(&["a", "b"]), &none, false).is_err());
        assert_eq!(container(&pod(&["a", "b"]), &none, true).ok().as_deref(), Some("a"));
        assert!(container(&pod(&["a"]), &Query::parse("container=x"), true).is_err());
    }

    #[test]
    fn proxies_name_scheme_and_port() {
        assert_eq!(split("web"), ("", "web", ""));
        assert_eq!(split("web:80"), ("", "web", "80"));
        assert_eq!(split("https:web:443"), ("https", "web", "443"));
    }
}
