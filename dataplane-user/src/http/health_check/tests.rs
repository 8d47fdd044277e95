//! Real listeners, asked over loopback.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener as StdListener, TcpStream},
    time::Instant,
};

use super::*;
use crate::{daemon::report::HEALTH_TIMEOUT, model::ObjectName};

const WAIT_MAX: Duration = Duration::from_secs(10);

struct Servers {
    checks: watch::Sender<Vec<HealthCheck>>,
    addresses: watch::Sender<Addresses>,
    shared: Shared,
}

impl Servers {
    fn start(addresses: Addresses) -> Self {
        let (checks, addresses) = (watch::Sender::new(Vec::new()), watch::Sender::new(addresses));
        let shared = Shared::default();
        tokio::spawn(run(Inputs {
            checks: checks.subscribe(),
            addresses: addresses.subscribe(),
            shared: shared.clone(),
        }));
        Self { checks, addresses, shared }
    }

    async fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let wait = async {
            while !reached() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        let report = || self.shared.report();
        time::timeout(WAIT_MAX, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", report()));
    }

    async fn until_listening(&self, listeners: u64) {
        let reached = || self.shared.report().health_check_listeners == listeners;
        self.until("listeners", reached).await;
    }
}

fn check(name: &str, port: u16, local_endpoints: usize) -> HealthCheck {
    HealthCheck { service: ObjectName::new("shop", name), port, local_endpoints }
}

fn every() -> Addresses {
    let list = [[192, 0, 2, 1].into(), Ipv6Addr::LOCALHOST.into()];
    Addresses { every: true, list: BTreeSet::from(list) }
}

fn loopback4() -> Addresses {
    Addresses { every: false, list: BTreeSet::from([Ipv4Addr::LOCALHOST.into()]) }
}

/// A port that was free a moment ago, in both families.
fn free_port() -> u16 {
    StdListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

async fn ask_with(at: SocketAddr, request: &'static str) -> io::Result<String> {
    let exchange = move || {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

async fn ask(ip: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    ask_with((ip.into(), port).into(), "GET /whatever HTTP/1.1\r\nHost: node\r\n\r\n").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_kube_proxys_byte_by_byte() {
    let servers = Servers::start(every());
    let port = free_port();
    servers.checks.send_replace(vec![check("web", port, 3)]);
    servers.until_listening(2).await;
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let answer = ask(ip, port).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        for header in [
            "Content-Type: application/json",
            "X-Content-Type-Options: nosniff",
            "X-Load-Balancing-Endpoint-Weight: 3",
        ] {
            assert!(head.lines().any(|line| line == header), "{head}");
        }
        let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                        \t\"localEndpoints\": 3,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(body, expected);
        let length = format!("Content-Length: {}", expected.len());
        assert!(head.lines().any(|line| line == length), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_endpoints_is_unavailable_and_so_is_one_that_lags_behind() {
    let servers = Servers::start(loopback4());
    let port = free_port();
    servers.checks.send_replace(vec![check("web", port, 0)]);
    servers.until_listening(1).await;
    let answer = ask(Ipv4Addr::LOCALHOST, port).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("\"localEndpoints\": 0,\n\t\"serviceProxyHealthy\": true"), "{answer}");
    servers.checks.send_replace(vec![check("web", port, 1)]);
    let answer = ask(Ipv4Addr::LOCALHOST, port).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    servers.shared.update(|report| {
        report.waiting_since = Instant::now().checked_sub(HEALTH_TIMEOUT);
        assert!(report.waiting_since.is_some());
    });
    let answer = ask(Ipv4Addr::LOCALHOST, port).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"serviceProxyHealthy\": false"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_move_and_go_with_their_service() {
    let servers = Servers::start(loopback4());
    let (first, second) = (free_port(), free_port());
    servers.checks.send_replace(vec![check("web", first, 1)]);
    servers.until_listening(1).await;
    servers.checks.send_replace(vec![check("mail", first, 1), check("web", second, 1)]);
    servers.until_listening(2).await;
    assert!(ask(Ipv4Addr::LOCALHOST, first).await.unwrap().contains("\"mail\""));
    assert!(ask(Ipv4Addr::LOCALHOST, second).await.unwrap().contains("\"web\""));
    servers.checks.send_replace(vec![check("web", second, 1)]);
    servers.until_listening(1).await;
    let gone = ask(Ipv4Addr::LOCALHOST, first).await.unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
    // Another address of the node: the old one is silent.
    let list = BTreeSet::from([Ipv4Addr::new(127, 0, 0, 2).into()]);
    servers.addresses.send_replace(Addresses { every: false, list });
    let silent = async {
        while ask(Ipv4Addr::LOCALHOST, second).await.is_ok() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(WAIT_MAX, silent).await.expect("the old address falls silent in time");
    servers.until_listening(1).await;
    assert!(ask(Ipv4Addr::new(127, 0, 0, 2), second).await.unwrap().contains("200 OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_a_problem_until_it_is_free() {
    let owner = StdListener::bind("127.0.0.1:0").unwrap();
    let port = owner.local_addr().unwrap().port();
    let servers = Servers::start(loopback4());
    servers.checks.send_replace(vec![check("web", port, 1)]);
    let failed = || !servers.shared.report().health_check_failures.is_empty();
    servers.until("the failure", failed).await;
    let report = servers.shared.report();
    let expected =
        format!("cannot listen on 127.0.0.1:{port} for health checks of Service shop/web: ");
    assert!(report.health_check_failures[0].starts_with(&expected), "{report:?}");
    assert_eq!(report.health_check_listeners, 0);
    assert_eq!(report.problems_by_kind()["health_check_port"], 1);
    drop(owner);
    servers.until_listening(1).await;
    assert!(servers.shared.report().problems_by_kind().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_long_or_never_ends_gets_no_answer() {
    let servers = Servers::start(loopback4());
    let port = free_port();
    servers.checks.send_replace(vec![check("web", port, 1)]);
    servers.until_listening(1).await;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    assert_eq!(ask_with(at, "GET / HTTP/1.1\r\n").await.ok().as_deref(), Some(""));
    let endless = ask_with(at, "x".repeat(REQUEST_TOO_LONG).leak()).await;
    // The rest of the request may turn the end of the connection into a reset.
    assert!(endless.is_err() || endless.as_deref().is_ok_and(str::is_empty), "{endless:?}");
    let head = ask_with(at, "HEAD / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

const REQUEST_TOO_LONG: usize = 64 << 10;
