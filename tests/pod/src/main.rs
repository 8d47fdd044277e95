//! What containers of the tests and the demo run; `cargo xtask` builds it without shared libraries.
//!
//! `test-pod serve PORT [FILE…]` answers requests with the host's name and what is in the files;
//! `test-pod get URL` asks once; `test-pod wait` waits until it is told to end.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::sys::signal::{SigSet, Signal};

/// How long a client or a server waits for the other side.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether everybody has been answered.
const PAUSE: Duration = Duration::from_millis(10);

fn main() -> anyhow::Result<ExitCode> {
    // The first process of a container gets only signals that it asks for.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("cannot block signals")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", port, files @ ..] => {
            let files: Vec<String> = files.iter().map(|it| (*it).to_owned()).collect();
            let open = serve(port.parse().context("the port is no number")?, files)?;
            signals.wait().context("cannot wait for signals")?;
            while open.load(Ordering::SeqCst) > 0 {
                thread::sleep(PAUSE);
            }
        }
        ["get", url] => {
            let mut text = get(url)?;
            text.push('\n');
            io::stdout().write_all(text.as_bytes()).context("nobody listens")?;
        }
        ["wait"] => drop(signals.wait().context("cannot wait for signals")?),
        _ => bail!("usage: test-pod serve PORT [FILE…] | get URL | wait"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves in the background; how many clients have not been answered yet.
fn serve(port: u16, files: Vec<String>) -> anyhow::Result<Arc<AtomicUsize>> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_no_ipv6| TcpListener::bind(("0.0.0.0", port)))
        .with_context(|| format!("cannot listen on port {port}"))?;
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            let (files, count) = (files.clone(), Arc::clone(&count));
            thread::spawn(move || {
                // Who leaves in the middle needs no answer.
                let _gone = answer(stream, &files);
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Ok(open)
}

fn answer(mut stream: TcpStream, files: &[String]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|it| it == b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => head.extend_from_slice(&piece[..count]),
        }
    }
    let name = nix::unistd::gethostname().unwrap_or_default();
    let mut body = name.to_string_lossy().into_owned();
    for file in files {
        body.push(' ');
        body.push_str(fs::read_to_string(file).unwrap_or_default().trim());
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close", body.len());
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())
}

/// The body of the answer of `http://HOST[:PORT]/…`, with status 200.
fn get(url: &str) -> anyhow::Result<String> {
    let rest = url.strip_prefix("http://").context("the URL does not begin with http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse().context("the port")?),
        _ => (host, 80),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let mut addresses =
        (name, port).to_socket_addrs().with_context(|| format!("cannot resolve {name}"))?;
    let address = addresses.next().with_context(|| format!("{name} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("the socket")?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("cannot ask")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer from {address}"))?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => bail!("{address} answers {text:?}"),
    }
}
