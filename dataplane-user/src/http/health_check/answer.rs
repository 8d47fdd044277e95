//! Answers health checks in kube-proxy's format (`pkg/proxy/healthcheck/service_health.go`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time,
};

use super::Inputs;
use crate::model::HealthCheck;

/// Connections that one listener answers at a time; further ones wait.
const CONNECTIONS_MAX: usize = 64;
/// How long one question and its answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of the longest request; a health check has no body.
const REQUEST_BYTES_MAX: usize = 8192;
/// Before accepting again when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on one listener until it is aborted. The ports face the outside, so connections are
/// limited in number, time and size, and each is for one question.
pub(super) async fn serve(listener: TcpListener, port: u16, inputs: Inputs) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let inputs = inputs.clone();
        connections.spawn(async move {
            // Who asks too slowly, or has gone, gets no answer.
            let _ = time::timeout(TIMEOUT, exchange(stream, port, &inputs)).await;
            drop(permit);
        });
    }
}

async fn exchange(mut stream: TcpStream, port: u16, inputs: &Inputs) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = (&mut stream).take(1024).read_buf(&mut request).await?;
        if read == 0 || request.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
    }
    let healthy = inputs.shared.is_healthy(Instant::now());
    let check = inputs.checks.borrow().iter().find(|check| check.port == port).cloned();
    // The Service has gone, and this listener is about to.
    let Some(check) = check else { return Ok(()) };
    let body = body(&check, healthy);
    let mut answer = head(&check, healthy, body.len());
    if !request.starts_with(b"HEAD ") {
        answer.push_str(&body);
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn head(check: &HealthCheck, healthy: bool, length: usize) -> String {
    let status =
        if check.local_endpoints > 0 && healthy { "200 OK" } else { "503 Service Unavailable" };
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
    let date = date.map(|date| format!("Date: {date}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {}\r\n{date}Connection: close\r\n\
         Content-Length: {length}\r\n\r\n",
        check.local_endpoints
    )
}

/// The fields in kube-proxy's order and indentation.
pub(super) fn body(check: &HealthCheck, healthy: bool) -> String {
    let text = |name: &str| serde_json::Value::from(name).to_string();
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\
         \t\"localEndpoints\": {},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        text(&check.service.namespace),
        text(&check.service.name),
        check.local_endpoints,
    )
}
