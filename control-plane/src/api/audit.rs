//! Who did what, as lines of a file: `audit.k8s.io/v1` Events of level `Metadata`.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::path::Target;
use crate::{auth::User, registry::names};

/// Bytes after which a new file begins; one old file is kept.
const FILE_MAX: u64 = 100 << 20;
/// Lines that wait for the disk; who has another one waits too.
const WAITING_MAX: usize = 4_096;

/// What is known of a request when it has been answered.
#[derive(Debug, Default)]
pub struct Request {
    /// Its path with what is behind the question mark.
    pub uri: String,
    /// `get`, `create`, …
    pub verb: String,
    /// Who asked.
    pub user: Option<User>,
    /// As whom.
    pub acts_as: Option<User>,
    /// What about.
    pub target: Option<Target>,
    /// What the client calls itself.
    pub agent: String,
    /// When it came.
    pub received: Timestamp,
}

/// The file.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: mpsc::Sender<String>,
}

impl Audit {
    /// Opens a file, or makes it, for its owner's eyes only.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = append(path)?;
        let (lines, waiting) = mpsc::channel(WAITING_MAX);
        let path = path.to_owned();
        thread::Builder::new().name("audit".into()).spawn(move || write(&path, file, waiting))?;
        Ok(Self { lines })
    }

    /// Notes a request and what was answered.
    pub async fn note(&self, request: Request, code: StatusCode) {
        let line = event(&request, code, Timestamp::now()).to_string();
        if self.lines.send(line).await.is_err() {
            tracing::error!("the audit log is not written any more");
        }
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Writes lines until nobody has any; what waits together reaches the disk together.
fn write(path: &PathBuf, file: File, mut waiting: mpsc::Receiver<String>) {
    let mut size = file.metadata().map_or(0, |it| it.len());
    let mut file = BufWriter::new(file);
    let mut lines = Vec::new();
    while waiting.blocking_recv_many(&mut lines, WAITING_MAX) > 0 {
        let result = lines.drain(..).try_for_each(|line| {
            size += line.len() as u64 + 1;
            writeln!(file, "{line}")
        });
        if let Err(error) = result.and_then(|()| file.flush()) {
            tracing::error!(%error, path = %path.display(), "cannot write the audit log");
        }
        if size > FILE_MAX {
            let mut old = path.clone().into_os_string();
            old.push(".1");
            match fs::rename(path, &old).and_then(|()| append(path)) {
                Ok(new) => (file, size) = (BufWriter::new(new), 0),
                Err(error) => tracing::error!(%error, "cannot begin a new audit log"),
            }
        }
    }
}

fn event(request: &Request, code: StatusCode, now: Timestamp) -> Value {
    let user = |user: &User| user.as_json();
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
        "auditID": names::uid(),
        "stage": if request.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" },
        "requestURI": request.uri, "verb": request.verb,
        "user": request.user.as_ref().map(user),
        "userAgent": request.agent,
        "responseStatus": {"metadata": {}, "code": code.as_u16()},
        "requestReceivedTimestamp": format!("{:.6}", request.received),
        "stageTimestamp": format!("{now:.6}"),
    });
    if let Some(other) = &request.acts_as {
        event["impersonatedUser"] = other.as_json();
    }
    if let Some(target) = &request.target {
        let fields = [
            ("resource", &target.resource),
            ("namespace", &target.namespace),
            ("name", &target.name),
            ("apiGroup", &target.group),
            ("apiVersion", &target.version),
            ("subresource", &target.subresource),
        ];
        for (field, value) in fields {
            if !value.is_empty() {
                event["objectRef"][field] = json!(value);
            }
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_who_did_what_and_what_came_of_it() {
        let request = Request {
            uri: "/api/v1/namespaces/shop/pods/web".into(),
            verb: "delete".into(),
            user: Some(User::known("eve".into(), String::new(), Vec::new())),
            target: Target::parse("/api/v1/namespaces/shop/pods/web"),
            ..Request::default()
        };
        let event = event(&request, StatusCode::FORBIDDEN, Timestamp::UNIX_EPOCH);
        assert_eq!(event["user"]["username"], "eve");
        let object =
            json!({"resource": "pods", "namespace": "shop", "name": "web", "apiVersion": "v1"});
        assert_eq!((&event["objectRef"], &event["responseStatus"]["code"]), (&object, &json!(403)));
    }
}
