//! As much of HTTP/1.1 (RFC 9112) as the lab speaks: persistent connections, bodies with a length.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

/// Bytes of the longest start line or header line.
const LINE_MAX: u64 = 4096;
/// Most headers of a message.
const HEADERS_MAX: usize = 64;
/// Bytes of the longest body.
const BODY_MAX: usize = 64 << 20;

/// A request or a response.
#[derive(Debug)]
pub(super) struct Message {
    /// The start line, without its end.
    pub(super) start: String,
    /// `X-Seen`: what the server says, kept out of the body.
    pub(super) seen: Option<String>,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// Sends a message in one write, so that a short one is one segment.
pub(super) fn write(mut to: &TcpStream, message: &Message) -> io::Result<()> {
    let mut bytes = format!("{}\r\nHost: lab\r\n", message.start).into_bytes();
    if let Some(seen) = &message.seen {
        bytes.extend_from_slice(format!("X-Seen: {seen}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", message.body.len()).as_bytes());
    bytes.extend_from_slice(&message.body);
    to.write_all(&bytes)
}

/// The next message, or `None` where the other side has closed between two messages.
pub(super) fn read(from: &mut BufReader<TcpStream>) -> io::Result<Option<Message>> {
    let start = line(from)?;
    if start.is_empty() {
        return Ok(None);
    }
    let mut message = Message { start, seen: None, body: Vec::new() };
    let mut length = 0;
    for _ in 0..HEADERS_MAX {
        let header = line(from)?;
        if header.is_empty() {
            message.body = vec![0; length];
            from.read_exact(&mut message.body)?;
            return Ok(Some(message));
        }
        let Some((name, value)) = header.split_once(':') else {
            return Err(invalid("a header without a colon"));
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_error| invalid("no such length"))?;
            if length > BODY_MAX {
                return Err(invalid("a body that is too long"));
            }
        } else if name.eq_ignore_ascii_case("x-seen") {
            message.seen = Some(value.trim().to_owned());
        }
    }
    Err(invalid("too many headers"))
}

fn line(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    from.take(LINE_MAX).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
