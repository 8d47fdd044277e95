//! Streams into pods: commands, the container's own streams, ports. The runtime speaks, we pass on.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::Status;

use super::{Body, Query, Server, full, text};
use crate::{
    cri::calls::{AttachRequest, ExecRequest},
    pod::seen::{Stage, World},
};

/// What comes of a pod's name: what runs in it.
async fn world(server: &Server, namespace: &str, name: &str) -> Result<World, Response<Body>> {
    let pod = server.pods.get(namespace, name);
    let uid = pod.and_then(|it| it.metadata.uid);
    let missing = || text(StatusCode::NOT_FOUND, format!("pod \"{name}_{namespace}\" not found"));
    let uid = uid.ok_or_else(missing)?;
    let runtime = &server.shared.runtime;
    World::look(runtime, &uid, &World::default()).await.map_err(|status| failed(&status))
}

fn failed(status: &Status) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, status.message())
}

/// A command in a container, or the streams of its own process.
pub(super) async fn into_container(
    server: &Arc<Server>,
    is_exec: bool,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Response<Body> {
    let world = match world(server, namespace, pod).await {
        Ok(world) => world,
        Err(response) => return response,
    };
    let Some(seen) = world.latest(container).filter(|it| it.stage == Stage::Running) else {
        let words = format!("container {container} is not running");
        return text(StatusCode::BAD_REQUEST, words);
    };
    let on = |names: [&str; 2]| names.iter().any(|it| query.is_on(it));
    let tty = query.is_on("tty");
    let (stdin, stdout) = (on(["stdin", "input"]), on(["stdout", "output"]));
    let stderr = on(["stderr", "error"]) && !tty;
    let runtime = &server.shared.runtime;
    let url = if is_exec {
        let request = ExecRequest {
            container_id: seen.id.clone(),
            cmd: query.all("command"),
            tty,
            stdin,
            stdout,
            stderr,
        };
        runtime.exec(request).await
    } else {
        let container_id = seen.id.clone();
        runtime.attach(AttachRequest { container_id, stdin, tty, stdout, stderr }).await
    };
    match url {
        Ok(url) => pass_on(&url, request).await,
        Err(status) => failed(&status),
    }
}

/// Ports of a pod.
pub(super) async fn into_pod(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let world = match world(server, namespace, pod).await {
        Ok(world) => world,
        Err(response) => return response,
    };
    let Some(sandbox) = world.sandbox() else {
        return text(StatusCode::BAD_REQUEST, format!("pod {pod} is not running"));
    };
    match server.shared.runtime.port_forward(&sandbox.id).await {
        Ok(url) => pass_on(&url, request).await,
        Err(status) => failed(&status),
    }
}

/// Asks `url` the same, and joins the two connections if it agrees to speak another protocol.
async fn pass_on(url: &str, request: Request<Incoming>) -> Response<Body> {
    match try_pass_on(url, request).await {
        Ok(response) => response,
        Err(error) => {
            text(StatusCode::BAD_GATEWAY, format!("the runtime does not answer: {error}"))
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn try_pass_on(url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().ok_or("it has no address")?.clone();
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut asked = Request::builder().method(request.method().clone()).uri(path);
    for (name, value) in request.headers() {
        if name != http::header::HOST {
            asked = asked.header(name, value);
        }
    }
    let asked = asked.header(http::header::HOST, authority.as_str()).body(Empty::<Bytes>::new())?;
    let mut answer = sender.send_request(asked).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        return Ok(Response::from_parts(parts, full(body.collect().await?.to_bytes())));
    }
    let far = hyper::upgrade::on(&mut answer);
    let near = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (Ok(far), Ok(near)) = (far.await, near.await) else { return };
        let (mut far, mut near) = (TokioIo::new(far), TokioIo::new(near));
        if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut far).await {
            tracing::debug!(%error, "a stream ended");
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, full(Bytes::new())))
}
