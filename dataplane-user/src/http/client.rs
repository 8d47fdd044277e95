//! Asks the daemon of this node over its socket.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// The daemon answers from memory; one that does not is treated as not running.
const TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why the daemon has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or not long enough.
    #[error("the daemon does not answer")]
    Socket(#[from] io::Error),
    /// Something else answers.
    #[error("what answers is not the daemon")]
    NotOurs,
    /// It could not do what it was asked for.
    #[error("the daemon says: {0}")]
    Failed(String),
    /// The body.
    #[error("the daemon's answer does not parse")]
    Json(#[from] serde_json::Error),
}

/// The JSON at `path`.
pub fn get<T: serde::de::DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Error> {
    get_within(TIMEOUT, socket, path)
}

/// The JSON at `path`, for an answer that takes longer than from memory.
pub fn get_within<T: serde::de::DeserializeOwned>(
    timeout: Duration,
    socket: &Path,
    path: &str,
) -> Result<T, Error> {
    ask("GET", timeout, socket, path)
}

/// Asks for something to be done, and waits for as long as that may take.
pub fn post_within<T: serde::de::DeserializeOwned>(
    timeout: Duration,
    socket: &Path,
    path: &str,
) -> Result<T, Error> {
    ask("POST", timeout, socket, path)
}

fn ask<T: serde::de::DeserializeOwned>(
    method: &str,
    timeout: Duration,
    socket: &Path,
    path: &str,
) -> Result<T, Error> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the body is everything up to the end.
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: hashplane\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let head_end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let head_end = head_end.ok_or(Error::NotOurs)?;
    let body = &answer[head_end + 4..];
    match answer.get(9..12) {
        Some(b"200") => Ok(serde_json::from_slice(body)?),
        Some([b'5', ..]) => Err(Error::Failed(String::from_utf8_lossy(body).trim().to_owned())),
        Some(_) | None => Err(Error::NotOurs),
    }
}
