//! Logs of containers, as the runtime writes them: a time, a stream, whether the line is whole, the line.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};

use super::{Body, Query, Server, text};
use crate::{
    pod::seen::{Stage, World},
    shared::Shared,
};

/// Somebody who follows a log hears of new lines this long after they are written at the latest.
const FOLLOW: Duration = Duration::from_millis(50);
/// Logs that grow beyond this are begun anew, in bytes, as of kubelets.
const SIZE_MAX: u64 = 10 << 20;
/// Old logs that are kept of one container beside the new one.
const KEPT_MAX: u32 = 4;
const LOOK: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// What is taken of a log for a message, in bytes.
const MESSAGE_MAX: u64 = 2_048;

/// A line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line<'l> {
    time: &'l str,
    is_whole: bool,
    text: &'l [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |it| *it == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let tag = parts.next()?;
    Some(Line { time, is_whole: tag == b"F", text: parts.next().unwrap_or_default() })
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
struct Wish {
    since: Option<Timestamp>,
    with_times: bool,
    bytes: Option<u64>,
}

/// Turns what is written into what is shown.
struct Shown {
    wish: Wish,
    rest: Vec<u8>,
    is_inside: bool,
    left: Option<u64>,
}

impl Shown {
    fn new(wish: Wish) -> Self {
        let left = wish.bytes;
        Self { wish, rest: Vec::new(), is_inside: false, left }
    }

    /// Takes some bytes of a log; what is shown of them, and whether no more is.
    fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        self.rest.extend(bytes);
        let mut out = Vec::new();
        let whole = self.rest.iter().rposition(|it| *it == b'\n').map_or(0, |it| it + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        for line in lines.split(|it| *it == b'\n') {
            let Some(line) = parse(line) else { continue };
            if let Some(since) = self.wish.since
                && line.time.parse::<Timestamp>().is_ok_and(|at| at < since)
            {
                continue;
            }
            if self.wish.with_times && !self.is_inside {
                out.extend(line.time.as_bytes());
                out.push(b' ');
            }
            out.extend(line.text);
            if line.is_whole {
                out.push(b'\n');
            }
            self.is_inside = !line.is_whole;
        }
        if let Some(left) = &mut self.left {
            let size = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(size);
            *left -= out.len() as u64;
            return (out, *left == 0);
        }
        (out, false)
    }
}

/// Where the last `count` lines of a file begin.
fn begin_of(file: &mut fs::File, count: usize) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let (mut at, mut seen) = (size, 0);
    let mut bytes = vec![0; CHUNK];
    while at > 0 {
        let length = at.min(CHUNK as u64);
        at -= length;
        file.seek(SeekFrom::Start(at))?;
        let part = &mut bytes[..usize::try_from(length).unwrap_or(CHUNK)];
        file.read_exact(part)?;
        for (index, byte) in part.iter().enumerate().rev() {
            let position = at + index as u64;
            // The end of the last line begins no other.
            if *byte == b'\n' && position + 1 < size {
                seen += 1;
                if seen == count {
                    return Ok(position + 1);
                }
            }
        }
    }
    Ok(0)
}

/// The end of a log, as text.
pub(crate) fn end_of(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(2 * MESSAGE_MAX)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let (mut shown, _) = Shown::new(Wish::default()).take(&read().unwrap_or_default());
    let size = usize::try_from(MESSAGE_MAX).unwrap_or(usize::MAX);
    let shown = shown.split_off(shown.len().saturating_sub(size));
    String::from_utf8_lossy(&shown).into_owned()
}

/// Answers with a container's log.
pub(super) async fn serve(
    server: &Arc<Server>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let Some(uid) = server.pods.get(namespace, pod).and_then(|it| it.metadata.uid) else {
        return text(StatusCode::NOT_FOUND, format!("pods {pod:?} not found"));
    };
    let runtime = server.shared.runtime.clone();
    let world = match World::look(&runtime, &uid, &World::default()).await {
        Ok(world) => world,
        Err(status) => return text(StatusCode::INTERNAL_SERVER_ERROR, status.message()),
    };
    let is_previous = query.is_on("previous");
    let mut started = world.named(container).filter(|it| it.stage != Stage::Created);
    let Some(seen) = started.nth(usize::from(is_previous)) else {
        let words = if is_previous {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating")
        };
        return text(StatusCode::BAD_REQUEST, words);
    };
    let path = PathBuf::from(&seen.log_path);
    let number = |name: &str| query.get(name).and_then(|it| it.parse::<i64>().ok());
    let since = number("sinceSeconds").map(|seconds| {
        let now = Timestamp::now();
        now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(now)
    });
    let wish = Wish {
        since: since.or_else(|| query.get("sinceTime").and_then(|it| it.parse().ok())),
        with_times: query.is_on("timestamps"),
        bytes: number("limitBytes").and_then(|it| u64::try_from(it).ok()),
    };
    let tail = number("tailLines").and_then(|it| usize::try_from(it).ok());
    let follows = query.is_on("follow") && !is_previous && seen.stage == Stage::Running;
    let id = seen.id.clone();
    let (send, frames) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(8);
    tokio::spawn(async move {
        let sent = send_log(&path, tail, wish, &send, || {
            let (runtime, id) = (runtime.clone(), id.clone());
            async move { follows && runtime.container(&id).await.is_ok_and(|it| it.finished_at == 0) }
        });
        if let Err(error) = sent.await {
            tracing::debug!(path = %path.display(), %error, "a log is not read to its end");
        }
    });
    let stream = futures::stream::unfold(frames, |mut frames| async move {
        frames.recv().await.map(|frame| (frame, frames))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed());
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

type Frames = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

/// Sends a log; as long as `goes_on` says so, also what comes.
async fn send_log<F: Future<Output = bool>>(
    path: &Path,
    tail: Option<usize>,
    wish: Wish,
    send: &Frames,
    goes_on: impl Fn() -> F,
) -> io::Result<()> {
    let mut file = fs::File::open(path)?;
    if let Some(count) = tail {
        let at = if count == 0 { file.metadata()?.len() } else { begin_of(&mut file, count)? };
        file.seek(SeekFrom::Start(at))?;
    }
    let mut shown = Shown::new(wish);
    let mut bytes = vec![0; CHUNK];
    let mut is_last = false;
    let mut quiet = 0_u32;
    loop {
        let count = file.read(&mut bytes)?;
        if count > 0 {
            quiet = 0;
            let (out, is_enough) = shown.take(&bytes[..count]);
            if !out.is_empty() && send.send(Ok(Frame::data(out.into()))).await.is_err() {
                return Ok(());
            }
            if is_enough {
                return Ok(());
            }
            continue;
        }
        if is_last || send.is_closed() {
            return Ok(());
        }
        // The runtime is asked rarely: a look at the file costs nothing beside that.
        if quiet.is_multiple_of(10) {
            is_last = !goes_on().await;
        }
        quiet += 1;
        if !is_last {
            sleep(FOLLOW).await;
            if is_replaced(&file, path) {
                file = fs::File::open(path)?;
            }
        }
    }
}

/// Whether a path leads to another file by now.
fn is_replaced(file: &fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let own = file.metadata().map(|it| it.ino()).ok();
    path.metadata().is_ok_and(|it| Some(it.ino()) != own)
}

/// Begins logs anew that have grown large, for as long as the agent runs.
pub(crate) async fn rotate(shared: Arc<Shared>) {
    let mut ticks = interval(LOOK);
    loop {
        ticks.tick().await;
        let root = shared.settings.data.join("logs/pods");
        let mut large = Vec::new();
        for pod in fs::read_dir(&root).into_iter().flatten().flatten() {
            for container in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
                for log in fs::read_dir(container.path()).into_iter().flatten().flatten() {
                    let path = log.path();
                    let is_log = path.extension().is_some_and(|it| it == "log");
                    if is_log && log.metadata().is_ok_and(|it| it.len() > SIZE_MAX) {
                        large.push(path);
                    }
                }
            }
        }
        for path in large {
            if let Err(error) = begin_anew(&shared, &path).await {
                tracing::warn!(path = %path.display(), %error, "a log is not begun anew");
            }
        }
    }
}

async fn begin_anew(
    shared: &Shared,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let containers = shared.runtime.containers(None).await?;
    let mut owner = None;
    for container in containers {
        let status = shared.runtime.container(&container.id).await?;
        if Path::new(&status.log_path) == path && status.finished_at == 0 {
            owner = Some(container.id);
            break;
        }
    }
    let Some(id) = owner else { return Ok(()) };
    let old = |number: u32| path.with_extension(format!("log.{number}"));
    for number in (1..KEPT_MAX).rev() {
        if old(number).exists() {
            fs::rename(old(number), old(number + 1))?;
        }
    }
    fs::rename(path, old(1))?;
    shared.runtime.reopen_log(&id).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:01Z stdout F one\n\
        2026-01-01T00:00:02Z stderr P tw\n2026-01-01T00:00:02Z stderr F o\n\
        2026-01-01T00:00:03Z stdout F three\n2026-01-01T00:00:04Z stdout F \n";

    fn shown(wish: Wish) -> String {
        // In small parts, as a file that grows.
        let mut shown = Shown::new(wish);
        let mut out = Vec::new();
        for part in LOG.chunks(7) {
            out.extend(shown.take(part).0);
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_log_is_shown_without_its_frame() {
        assert_eq!(shown(Wish::default()), "one\ntwo\nthree\n\n");
        let since = "2026-01-01T00:00:03Z".parse().ok();
        assert_eq!(shown(Wish { since, ..Wish::default() }), "three\n\n");
        assert_eq!(shown(Wish { bytes: Some(5), ..Wish::default() }), "one\nt");
        let with_times = shown(Wish { with_times: true, ..Wish::default() });
        assert!(with_times.starts_with("2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n"));
    }

    #[test]
    fn the_last_lines_are_found_from_behind() {
        let mut file = tempfile::tempfile().expect("a file");
        io::Write::write_all(&mut file, LOG).expect("written");
        for (count, expected) in [(1, "2026-01-01T00:00:04Z"), (2, "2026-01-01T00:00:03Z")] {
            let at = usize::try_from(begin_of(&mut file, count).expect("a place")).expect("small");
            assert!(LOG[at..].starts_with(expected.as_bytes()), "{count}");
        }
        assert_eq!(begin_of(&mut file, 100).expect("a place"), 0);
    }
}
