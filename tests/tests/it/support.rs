//! What the tests of real traffic share.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use dataplane_user::{backend::Mode, limits};
use hashplane_tests::{
    Daemon, DaemonOptions, Lab, LabOptions, Place, Service,
    agent::protocol::{
        Answer, Failure, Load, Loaded, Pattern, Size, Transport, UDP_QUESTION_LEN, Why,
    },
    lab::{Asking, Family, NodeName, slowed, slowed_ms},
    manifests::Written,
};

/// The binary that a lab starts inside of itself.
pub(crate) const TOOL: &str = env!("CARGO_BIN_EXE_demo");

/// "At once": no retransmission timer (200 ms and up) takes part in it.
const AT_ONCE_MS: u64 = 200;
/// The same on a slow machine: a client sends again after a second.
const AT_ONCE_MAX_MS: u64 = 900;

/// Asks somebody who may not answer.
pub(crate) const SOON: Asking =
    Asking { from: None, timeout_ms: 400, size: Size { up: 0, down: 0 } };

/// Tries until a choice between two endpoints has hit both: it fails once in 2^59 runs.
const TRIES: usize = 60;

/// A lab with strict reverse-path filters.
pub(crate) fn lab() -> Lab {
    Lab::new(&LabOptions::new(TOOL)).unwrap()
}

/// A lab with a daemon on each node.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) a: Daemon,
    pub(crate) b: Daemon,
    clients: OnceLock<[Arc<Place>; 2]>,
}

impl World {
    /// Daemons with the usual arguments.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Daemons with more arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::with_each([arguments, arguments])
    }

    /// Daemons with more arguments of their own.
    pub(crate) fn with_each(arguments: [&[&str]; 2]) -> Self {
        let lab = lab();
        let options = arguments.map(|arguments| DaemonOptions::new(hashplane()).with(arguments));
        let daemons = lab.start_daemons(options);
        let [a, b] = daemons.unwrap_or_else(|error| panic!("{error:?}"));
        Self { lab, a, b, clients: OnceLock::new() }
    }

    /// A pod whose sockets are translated.
    pub(crate) fn pod(&self, name: &str, node: NodeName) -> Arc<Place> {
        self.seen(self.lab.pod(name, node).unwrap())
    }

    /// A pod whose packets are translated.
    pub(crate) fn pod_without_hooks(&self, name: &str, node: NodeName) -> Arc<Place> {
        self.seen(self.lab.pod_without_hooks(name, node).unwrap())
    }

    /// `pod`, once its node's daemon has attached programs to its link.
    fn seen(&self, pod: Arc<Place>) -> Arc<Place> {
        let daemon = if pod.node() == Some(NodeName::A) { &self.a } else { &self.b };
        daemon.wait_for_pod(&pod).unwrap_or_else(|error| panic!("{error:?}"));
        pod
    }

    /// A pod that serves on `port`.
    pub(crate) fn server(&self, name: &str, node: NodeName, port: u16) -> Arc<Place> {
        let pod = self.pod(name, node);
        pod.serve(port).unwrap();
        pod
    }

    /// Two clients on node A: a pod whose sockets are translated, and one whose packets are.
    pub(crate) fn clients(&self) -> [Arc<Place>; 2] {
        let make = || {
            let hooks = self.pod("hooks", NodeName::A);
            [hooks, self.pod_without_hooks("packets", NodeName::A)]
        };
        self.clients.get_or_init(make).clone()
    }

    /// Writes a Service and waits until both nodes have it.
    #[track_caller]
    pub(crate) fn apply(&self, service: &Service) {
        self.wait_for(&service.write().unwrap());
    }

    /// Waits until both nodes have what was written.
    #[track_caller]
    pub(crate) fn wait_for(&self, written: &Written) {
        for daemon in [&self.a, &self.b] {
            daemon.wait_for(written).unwrap_or_else(|error| panic!("{error:?}"));
        }
    }

    /// Waits until nodes serve nothing at all.
    #[track_caller]
    pub(crate) fn wait_for_nothing(&self) {
        for daemon in [&self.a, &self.b] {
            until("nothing is served", || daemon.programmed().ok()?.is_empty().then_some(()));
        }
    }

    /// A pod on each node that serves on 8080.
    pub(crate) fn servers(&self) -> [Arc<Place>; 2] {
        [self.server("near", NodeName::A, 8080), self.server("far", NodeName::B, 8080)]
    }

    /// Every kind of client on node A, by name: [`Self::clients`] and the host itself.
    pub(crate) fn inside(&self) -> [Arc<Place>; 3] {
        let [hooks, packets] = self.clients();
        [hooks, packets, self.host(NodeName::A)]
    }

    pub(crate) fn host(&self, node: NodeName) -> Arc<Place> {
        self.lab.host(node)
    }
}

/// The binary under test.
pub(crate) fn hashplane() -> PathBuf {
    let built = Path::new(TOOL).with_file_name("hashplane");
    let path = std::env::var_os("HASHPLANE_BIN").map_or(built, PathBuf::from);
    let path = path.canonicalize().unwrap_or(path);
    assert!(path.is_file(), "{} is missing: `cargo build -p hashplane` makes it", path.display());
    path
}

/// Both families and both transports, with words for the failure of a check.
pub(crate) fn combinations() -> Vec<(Family, Transport, String)> {
    let of = |family| {
        Transport::ALL.map(|transport| (family, transport, format!("{family:?} {transport:?}")))
    };
    Family::ALL.into_iter().flat_map(of).collect()
}

/// Runs `check` for both families and both transports, side by side: much of it is waiting.
pub(crate) fn each(check: impl Fn(Family, Transport, &str) + Sync) {
    let failed = thread::scope(|scope| {
        let checks = combinations().into_iter().map(|(family, transport, what)| {
            let check = &check;
            scope.spawn(move || check(family, transport, &what))
        });
        let checks: Vec<_> = checks.collect();
        checks.into_iter().filter_map(|check| check.join().err()).last()
    });
    if let Some(panic) = failed {
        std::panic::resume_unwind(panic);
    }
}

/// Asks and must get an answer.
#[track_caller]
pub(crate) fn ask(from: &Place, transport: Transport, to: SocketAddr, what: &str) -> Answer {
    let answer = from.ask(transport, to);
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {} to {to}: {error}", from.name()));
    assert_eq!(answer.peer, to, "{what}: the client must see whom it asked: {answer:?}");
    answer
}

/// Asks until everybody of `servers` has answered, and nobody else may.
#[track_caller]
pub(crate) fn ask_all(
    from: &Place,
    transport: Transport,
    to: SocketAddr,
    servers: &[&Arc<Place>],
    what: &str,
) -> Vec<Answer> {
    let expected: BTreeSet<&str> = servers.iter().map(|server| server.name()).collect();
    let mut answers = Vec::new();
    let mut seen = BTreeSet::new();
    for _ in 0..TRIES {
        let answer = ask(from, transport, to, what);
        seen.insert(answer.seen.pod.clone());
        answers.push(answer);
        if seen.len() == expected.len() {
            break;
        }
    }
    let seen: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(seen, expected, "{what}: {} to {to}", from.name());
    answers
}

/// Asserts that `answer` is a refusal that came at once.
#[track_caller]
pub(crate) fn assert_refused(answer: Result<Answer, Failure>, what: &str) {
    let at_once_ms = slowed_ms(AT_ONCE_MS).min(AT_ONCE_MAX_MS);
    match answer {
        Err(Failure { why: Why::Refused, elapsed_ms, .. }) if elapsed_ms <= at_once_ms => {}
        other => panic!("{what}: not refused at once but {other:?}"),
    }
}

/// Asserts that nothing came: no answer and no refusal.
#[track_caller]
pub(crate) fn assert_dropped(client: &Place, transport: Transport, to: SocketAddr, what: &str) {
    match client.ask_as(transport, to, SOON) {
        Err(Failure { why: Why::TimedOut, .. }) => {}
        other => panic!("{what}: {} to {to}: not dropped but {other:?}", client.name()),
    }
}

/// Asserts that nobody answered and nobody refused. A socket hook that drops may say so at once.
#[track_caller]
pub(crate) fn assert_silent(client: &Place, transport: Transport, to: SocketAddr, what: &str) {
    match client.ask_as(transport, to, SOON) {
        Err(Failure { why, .. }) if why != Why::Refused => {}
        other => panic!("{what}: {} to {to}: not silent but {other:?}", client.name()),
    }
}

/// The longest question and answer that need no fragments where the MTU is 1500.
pub(crate) fn longest_datagram(family: Family) -> Size {
    let headers = match family {
        Family::V4 => 20 + 8,
        Family::V6 => 40 + 8,
    };
    Size { up: 1500 - headers - UDP_QUESTION_LEN, down: 1500 - headers }
}

/// A gentle stream of requests to one frontend.
pub(crate) fn load(transport: Transport, to: SocketAddr, pattern: Pattern) -> Load {
    Load { transport, to, pattern, workers: 1, pause_ms: 15, timeout_ms: 3000 }
}

/// Asserts that a load lost nothing and did not stand still.
#[track_caller]
pub(crate) fn assert_no_errors(loaded: &Loaded, what: &str) {
    assert_eq!(loaded.errors, 0, "{what}: {loaded:?}");
    assert!(loaded.total() >= 20, "{what}: {loaded:?}");
}

/// Tries until `attempt` gives something, for at most ten seconds.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(begun.elapsed() < slowed(Duration::from_secs(10)), "{what}: not after ten seconds");
        thread::sleep(slowed(Duration::from_millis(20)));
    }
}

/// The backend under test: that of `HASHPLANE_MODE`, which the daemons of a lab read too.
pub(crate) fn mode() -> Mode {
    let Ok(name) = std::env::var("HASHPLANE_MODE") else { return Mode::Ebpf };
    Mode::parse(&name).unwrap_or_else(|| panic!("HASHPLANE_MODE={name} is no backend"))
}

/// Arguments for each way in which the backend under test translates packets from outside.
pub(crate) fn ways() -> &'static [&'static [&'static str]] {
    match mode() {
        Mode::Ebpf => &[&["--xdp", "driver"], &["--xdp", "off"]],
        Mode::Nftables | Mode::Iptables | Mode::Ipvs => &[&[]],
    }
}

/// Asserts that a node has counted packets with this outcome, where the backend counts packets.
#[track_caller]
pub(crate) fn assert_counted(daemon: &Daemon, reason: &str, min: f64) {
    if mode() == Mode::Ebpf {
        let counted = daemon.metric("hashplane_outcomes_total", &[reason]).unwrap();
        assert!(counted >= min, "{counted} packets with {reason} were counted");
    }
}

/// Whether the backend under test cannot do what a test is about; says so aloud.
pub(crate) fn limited(feature: &str) -> bool {
    let why = limits::why(mode(), feature).map(|why| format!("{}: {feature}: {why}", mode()));
    hashplane_tests::skip::is_skipped(why.as_deref())
}

/// Whether a test of the datapath cannot run here; says so aloud.
pub(crate) fn skipped() -> bool {
    hashplane_tests::skip::is_skipped(hashplane_tests::skip::why_no_datapath(mode()).as_deref())
}

/// Whatever on this machine has the lab's name.
pub(crate) fn traces(lab: &str) -> Vec<String> {
    let cgroups = hashplane_tests::lab::cgroup2_root().unwrap();
    let folders = [Path::new("/run/netns"), &std::env::temp_dir(), &cgroups];
    let entries =
        folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name == lab || name.starts_with(&format!("{lab}-"))).collect()
}
