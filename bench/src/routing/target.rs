//! A real Service, measured from where this runs: how long a connection takes, and how many there may be.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    load, machine,
    plan::{Observer, Preset},
    results::{FORMAT, Measure, Position, Results, Route},
    store::{self, Key},
};

/// Connections before those that count.
const WARM_UP: u32 = 10;
/// Some servers answer, others wait for more; either is the end of a short connection.
const REQUEST: &[u8] = b"HEAD / HTTP/1.0\r\n\r\n";

/// What is asked of a target.
#[derive(Clone, Debug)]
pub struct Options {
    /// Host and port.
    pub target: String,
    /// How thorough.
    pub preset: Preset,
    /// Where `results.json` goes.
    pub out: std::path::PathBuf,
}

/// Measures the target; nothing on this machine is changed, and root is not needed.
pub fn run(options: &Options, observer: &mut dyn Observer) -> anyhow::Result<Results> {
    let to = resolve(&options.target)?;
    let (rounds, connections, length) = match options.preset {
        Preset::Smoke => (1, 20, Duration::from_millis(50)),
        Preset::Quick => (3, 300, Duration::from_millis(500)),
        Preset::Standard => (5, 2_000, Duration::from_secs(1)),
        Preset::Full => (9, 5_000, Duration::from_secs(2)),
    };
    fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make the folder {}", options.out.display()))?;
    let mut results = Results {
        format: FORMAT,
        preset: options.preset.name().to_owned(),
        started: machine::now(),
        machine: machine::describe(),
        ..Results::default()
    };
    observer.begin(2 * rounds);
    connect(to, WARM_UP)?;
    for _ in 0..rounds {
        observer.step(&format!("{to}: connect latency"));
        let samples = connect(to, connections)?;
        let evidence = format!("connections to {to} from this machine");
        store::add(&mut results, &key(Measure::ConnectLatency, to), samples, &evidence);
        observer.step(&format!("{to}: short connections"));
        let rate = short(to, length)?;
        store::add(&mut results, &key(Measure::ShortConnections, to), vec![rate], &evidence);
        store::write(&options.out, &results)?;
    }
    results.finished = machine::now();
    store::write(&options.out, &results)?;
    Ok(results)
}

fn key(measure: Measure, to: SocketAddr) -> Key {
    Key {
        measure,
        route: Route::Target,
        services: 0,
        position: Position::All,
        family: if to.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned(),
        transport: "tcp".to_owned(),
    }
}

fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    let mut found = target
        .to_socket_addrs()
        .with_context(|| format!("{target} is no host and port such as 10.96.0.10:80"))?;
    found.next().with_context(|| format!("{target} has no address"))
}

/// µs of each connection.
fn connect(to: SocketAddr, count: u32) -> anyhow::Result<Vec<f64>> {
    (0..count).map(|_| Ok(load::connect(to, 0)?.1.as_secs_f64() * 1e6)).collect()
}

/// Connections with one request each, one after the other; how many per second.
fn short(to: SocketAddr, length: Duration) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut done = 0.0;
    while begun.elapsed() < length {
        let (mut stream, _) = load::connect(to, 0)?;
        stream.write_all(REQUEST).with_context(|| format!("cannot ask {to}"))?;
        let mut answer = [0; load::MESSAGE];
        match stream.read(&mut answer) {
            Ok(0) => bail!("{to} closes connections without an answer to `HEAD / HTTP/1.0`"),
            Ok(_) => done += 1.0,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{to} does not answer `HEAD / HTTP/1.0`"));
            }
        }
    }
    Ok(done / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    struct Quiet;

    impl Observer for Quiet {
        fn begin(&mut self, _steps: usize) {}
        fn step(&mut self, _what: &str) {}
        fn say(&mut self, _line: &str) {}
    }

    #[test]
    fn a_server_is_measured_and_what_is_no_server_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 128];
                if stream.read(&mut request).is_ok_and(|count| count > 0) {
                    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
                }
            }
        });
        let out = std::env::temp_dir().join(format!("hashplane-target-{}", std::process::id()));
        let options =
            Options { target: address.to_string(), preset: Preset::Smoke, out: out.clone() };
        let results = run(&options, &mut Quiet).unwrap();
        let [latency, rate] = &results.series[..] else { unreachable!("{results:?}") };
        assert_eq!((latency.rounds.len(), latency.rounds[0].len()), (1, 20));
        assert!(rate.rounds[0][0] > 0.0);
        fs::remove_dir_all(&out).unwrap();
        let wrong = Options { target: "nowhere".to_owned(), ..options };
        let said = format!("{:#}", run(&wrong, &mut Quiet).unwrap_err());
        assert!(said.starts_with("nowhere is no host and port"), "{said}");
    }
}
