//! From each backend to each other one, with running connections and under load.
//!
//! `docs/modes.md` says which connections survive; new ones must not notice at all.

use std::{fmt::Write as _, fs, path::Path, sync::Arc, thread, time::Duration};

use dataplane_user::backend::Mode;
use hashplane_tests::{
    Place, Service,
    agent::protocol::{Answer, Failure, Pattern, Transport},
    lab::{Asking, Family, NodeName, RunningLoad, TcpConnection, UdpSocket},
    skip,
};

use crate::support::{World, load};

/// With the default policies, and with `externalTrafficPolicy: Local`.
const NODE_PORTS: [u16; 2] = [30_080, 30_081];

/// How a client comes to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A pod whose sockets have hooks, by cluster IP.
    Hooks,
    /// A pod without hooks, by cluster IP.
    Packets,
    /// A process of the node, by cluster IP.
    Host,
    /// A client outside, by node port.
    Outside,
    /// The same with `externalTrafficPolicy: Local`.
    OutsideLocal,
}

impl Way {
    const ALL: [Self; 5] =
        [Self::Hooks, Self::Packets, Self::Host, Self::Outside, Self::OutsideLocal];

    /// In the words of the documentation.
    const fn name(self) -> &'static str {
        match self {
            Self::Hooks => "pod with socket hooks",
            Self::Packets => "pod without",
            Self::Host => "node",
            Self::Outside => "outside, NodePort",
            Self::OutsideLocal => "outside, policy Local",
        }
    }

    fn client(self, world: &World) -> Arc<Place> {
        let [hooks, packets] = world.clients();
        match self {
            Self::Hooks => hooks,
            Self::Packets => packets,
            Self::Host => world.host(NodeName::A),
            Self::Outside | Self::OutsideLocal => world.lab.outside(),
        }
    }

    fn to(self, world: &World, web: &Service, family: Family) -> std::net::SocketAddr {
        let node = world.host(NodeName::A).addresses();
        match self {
            Self::Hooks | Self::Packets | Self::Host => web.frontend(family, 80),
            Self::Outside => node.port(family, NODE_PORTS[0]),
            Self::OutsideLocal => node.port(family, NODE_PORTS[1]),
        }
    }
}

/// Whether a TCP connection goes on when its node goes from one backend to another.
fn survives(from: Mode, to: Mode, way: Way) -> bool {
    use Mode::{Ebpf, Iptables, Ipvs, Nftables};
    match (from, to) {
        // Those of pods without hooks were reset in one of two runs.
        (Ebpf, Nftables | Iptables) => way != Way::Packets,
        // Connections are taken along.
        (Nftables | Iptables, Ebpf | Nftables | Iptables) | (Ebpf, Ebpf) => true,
        // They should be; no test has seen it. A socket that a hook has translated speaks to its
        // endpoint itself.
        (Ebpf, Ipvs) => matches!(way, Way::Hooks | Way::Host),
        (Nftables | Iptables, Ipvs) | (Ipvs, Ebpf | Nftables | Iptables | Ipvs) => false,
    }
}

/// How many requests of a load that asks one after the other may fail. What is on its way while
/// programs are attached or detached may meet either backend, half way.
const fn errors_max(from: Mode, to: Mode) -> u64 {
    match (from, to) {
        (Mode::Ebpf, _) | (_, Mode::Ebpf) => 1,
        (
            Mode::Nftables | Mode::Iptables | Mode::Ipvs,
            Mode::Nftables | Mode::Iptables | Mode::Ipvs,
        ) => 0,
    }
}

enum Open {
    Tcp(TcpConnection),
    Udp(UdpSocket),
}

impl Open {
    fn ask(&self) -> Result<Answer, Failure> {
        match self {
            Self::Tcp(connection) => connection.ask(),
            Self::Udp(socket) => socket.ask(),
        }
    }
}

/// A connection, and who answered on it first.
struct Established {
    what: String,
    must_survive: bool,
    open: Open,
    server: String,
}

impl Established {
    /// How it has ended, if it had to go on. The first datagram may be lost on the way.
    fn end(&self, round: usize) -> Option<String> {
        let answer = self.open.ask();
        if !self.must_survive {
            return None;
        }
        match (&self.open, answer) {
            (Open::Tcp(_), Ok(answer)) if answer.seen.pod != self.server => {
                Some(format!("{}: {}, then {answer:?}", self.what, self.server))
            }
            (Open::Udp(_), Err(_)) if round == 0 => None,
            (Open::Tcp(_) | Open::Udp(_), Err(failure)) => {
                Some(format!("{}: {failure}", self.what))
            }
            (Open::Tcp(_) | Open::Udp(_), Ok(_)) => None,
        }
    }
}

fn establish(world: &World, web: &Service, from: Mode, to: Mode) -> Vec<Established> {
    let mut all = Vec::new();
    for way in Way::ALL {
        for family in Family::ALL {
            let (client, at) = (way.client(world), way.to(world, web, family));
            let tcp = Open::Tcp(client.connect(at, Asking::default()).unwrap());
            let udp = Open::Udp(client.udp_connected(at, Asking::default()).unwrap());
            for (transport, open) in [(Transport::Tcp, tcp), (Transport::Udp, udp)] {
                let what = format!("{from} to {to}, {}, {family:?} {transport:?}", way.name());
                let answer = open.ask().unwrap_or_else(|error| panic!("{what}: {error}"));
                let must_survive = survives(from, to, way);
                all.push(Established { what, must_survive, open, server: answer.seen.pod });
            }
        }
    }
    all
}

/// New connections and datagrams of new sockets on each way, all the time.
fn loads(world: &World, web: &Service) -> Vec<(String, RunningLoad)> {
    let mut running = Vec::new();
    for way in Way::ALL {
        for family in Family::ALL {
            let (client, to) = (way.client(world), way.to(world, web, family));
            for transport in Transport::ALL {
                let what = format!("{} {family:?} {transport:?}", way.name());
                let load = load(transport, to, Pattern::NewSocket);
                running.push((what, client.start_load(load).unwrap()));
            }
        }
    }
    running
}

fn check(from: Mode, to: Mode) {
    for mode in [from, to] {
        let reason = skip::why_no_datapath(mode);
        if skip::is_skipped(reason.as_deref()) {
            return;
        }
    }
    let world = World::with(&["--mode", from.name()]);
    let [near, far] = world.servers();
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORTS[0]);
    world.apply(&web.clone().endpoint(&near).endpoint(&far));
    let local = world.lab.service("local").number(2).node_port("http", 80, 8080, NODE_PORTS[1]);
    let local = local.spec("externalTrafficPolicy", "Local");
    world.apply(&local.endpoint(&near).endpoint(&far));
    let established = establish(&world, &web, from, to);
    let running = loads(&world, &web);
    thread::sleep(Duration::from_millis(500));
    let steps = world.a.tool(&["mode", to.name()]).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(world.a.report().unwrap()["mode"], to.name(), "{steps}");
    // What the old backend leaves for a while is gone by then.
    let mut ended = Vec::new();
    for (round, pause_ms) in [0, 1500].into_iter().enumerate() {
        thread::sleep(Duration::from_millis(pause_ms));
        ended.extend(established.iter().filter_map(|it| it.end(round)));
    }
    for (what, load) in running {
        let loaded = load.stop().unwrap();
        if loaded.errors > errors_max(from, to) || loaded.total() < 20 {
            ended.push(format!("{what}: {loaded:?}"));
        }
    }
    assert!(ended.is_empty(), "{from} to {to}: {ended:#?}\n{steps}{}", world.a.log());
}

#[test]
fn from_ebpf_to_nftables() {
    check(Mode::Ebpf, Mode::Nftables);
}

#[test]
fn from_ebpf_to_iptables() {
    check(Mode::Ebpf, Mode::Iptables);
}

#[test]
fn from_ebpf_to_ipvs() {
    check(Mode::Ebpf, Mode::Ipvs);
}

#[test]
fn from_nftables_to_ebpf() {
    check(Mode::Nftables, Mode::Ebpf);
}

#[test]
fn from_nftables_to_iptables() {
    check(Mode::Nftables, Mode::Iptables);
}

#[test]
fn from_nftables_to_ipvs() {
    check(Mode::Nftables, Mode::Ipvs);
}

#[test]
fn from_iptables_to_ebpf() {
    check(Mode::Iptables, Mode::Ebpf);
}

#[test]
fn from_iptables_to_nftables() {
    check(Mode::Iptables, Mode::Nftables);
}

#[test]
fn from_iptables_to_ipvs() {
    check(Mode::Iptables, Mode::Ipvs);
}

#[test]
fn from_ipvs_to_ebpf() {
    check(Mode::Ipvs, Mode::Ebpf);
}

#[test]
fn from_ipvs_to_nftables() {
    check(Mode::Ipvs, Mode::Nftables);
}

#[test]
fn from_ipvs_to_iptables() {
    check(Mode::Ipvs, Mode::Iptables);
}

/// The table in the documentation: who goes on, by the backends before and after.
fn table() -> String {
    let mut text = String::from("| from | to |");
    for way in Way::ALL {
        let _infallible = write!(text, " {} |", way.name());
    }
    let _infallible = writeln!(text, "\n| --- | --- |{}", " --- |".repeat(Way::ALL.len()));
    for from in Mode::ALL {
        for to in Mode::ALL.into_iter().filter(|to| *to != from) {
            let _infallible = write!(text, "| {from} | {to} |");
            for way in Way::ALL {
                let word = if survives(from, to, way) { "yes" } else { "no" };
                let _infallible = write!(text, " {word} |");
            }
            text.push('\n');
        }
    }
    text
}

#[test]
fn the_documentation_says_which_connections_survive() {
    const BEGIN: &str = "<!-- survivors, from the tests: begin -->\n";
    const END: &str = "<!-- survivors, from the tests: end -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/modes.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (said, tail) = rest.split_once(END).unwrap();
    let wanted = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(said, wanted, "UPDATE_DOCS=1 writes the table anew");
}
