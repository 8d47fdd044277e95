//! Passes a request on over another connection, and joins the two if both sides agree to speak another protocol.

use axum::{body::Body, extract::Request, response::Response};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// What can go wrong on the way.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Headers that are about one connection, or about whom we know; an upgrade keeps its own.
const OWN: [header::HeaderName; 3] = [header::HOST, header::AUTHORIZATION, header::ACCEPT_ENCODING];

/// Asks for `path` over `stream` what `request` asks of us.
pub async fn pass_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
    mut request: Request,
) -> Result<Response, Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let near = hyper::upgrade::on(&mut request);
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let (parts, body) = request.into_parts();
    let mut asked = http::Request::builder().method(parts.method).uri(path);
    for (name, value) in &parts.headers {
        if !OWN.contains(name) {
            asked = asked.header(name, value);
        }
    }
    // An upgrade has no body: what follows is another protocol.
    let body = if is_upgrade { Body::empty() } else { body };
    let asked = asked.header(header::HOST, host).body(body)?;
    let mut answer = sender.send_request(asked).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = answer.into_parts();
        parts.headers.remove(header::CONNECTION);
        parts.headers.remove(header::TRANSFER_ENCODING);
        return Ok(Response::from_parts(parts, Body::new(body)));
    }
    let far = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (far, near) = match tokio::join!(far, near) {
            (Ok(far), Ok(near)) => (far, near),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "a connection was not upgraded");
                return;
            }
        };
        let (mut far, mut near) = (TokioIo::new(far), TokioIo::new(near));
        if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut far).await {
            tracing::debug!(%error, "a stream ended");
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, Body::empty()))
}
