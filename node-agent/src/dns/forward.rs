//! Questions about names that are not the cluster's: asked of others, and remembered for a while.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout},
};

/// How long one server has for its answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Answers that are remembered.
const KNOWN_MAX: usize = 10_000;
/// For how long at most, and when there is none.
const LONGEST_S: u32 = 30;
const NEGATIVE_S: u32 = 5;
/// The longest datagram that is taken, in bytes.
const DATAGRAM_MAX: usize = 4_096;

/// How the client asks, and so how we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// By datagrams.
    Udp,
    /// By a connection.
    Tcp,
}

#[derive(Debug)]
struct Known {
    message: Message,
    since: Instant,
    until: Instant,
}

type Key = (Query, bool, Way);

/// Others, and what they have said.
#[derive(Debug, Default)]
pub(crate) struct Forwarder {
    servers: Vec<SocketAddr>,
    known: Mutex<HashMap<Key, Known>>,
}

/// The servers that a `resolv.conf` names.
pub(crate) fn servers(resolv: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        // A zone index, as link-local addresses have it, is not understood here.
        address.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53))
    };
    resolv.lines().filter_map(server).collect()
}

impl Forwarder {
    /// Asks these, in their order.
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, known: Mutex::default() }
    }

    /// Answers with what others say; `asked` is what the client sent.
    pub(crate) async fn answer(&self, asked: &Message, way: Way) -> Message {
        let no = |code| Message::error_msg(asked.metadata.id, asked.metadata.op_code, code);
        let Some(query) = asked.queries.first() else { return no(ResponseCode::FormErr) };
        if self.servers.is_empty() {
            return no(ResponseCode::Refused);
        }
        let is_secure = asked.edns.as_ref().is_some_and(|it| it.flags().dnssec_ok);
        let key = (lower(query), is_secure, way);
        if let Some(mut message) = self.remembered(&key) {
            message.metadata.id = asked.metadata.id;
            message.queries.clone_from(&asked.queries);
            return message;
        }
        for server in &self.servers {
            match timeout(WITHIN, ask(*server, asked, way)).await {
                Ok(Ok(mut message)) => {
                    self.remember(key, &message);
                    message.metadata.id = asked.metadata.id;
                    return message;
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server does not answer"),
                Err(_late) => tracing::debug!(%server, "a name server does not answer in time"),
            }
        }
        no(ResponseCode::ServFail)
    }

    fn remembered(&self, key: &Key) -> Option<Message> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(key).filter(|it| it.until > Instant::now())?;
        let mut message = known.message.clone();
        let age = u32::try_from(known.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        for record in message.answers.iter_mut().chain(&mut message.authorities) {
            record.decrement_ttl(age);
        }
        Some(message)
    }

    fn remember(&self, key: Key, message: &Message) {
        let code = message.metadata.response_code;
        let is_final = code == ResponseCode::NoError || code == ResponseCode::NXDomain;
        if message.metadata.truncation || !is_final {
            return;
        }
        let least = message.answers.iter().map(|it| it.ttl).min();
        let seconds = least.map_or(NEGATIVE_S, |it| it.min(LONGEST_S));
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, it| it.until > now);
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
        }
        let until = now + Duration::from_secs(u64::from(seconds));
        known.insert(key, Known { message: message.clone(), since: now, until });
    }
}

fn lower(query: &Query) -> Query {
    let mut query = query.clone();
    query.set_name(query.name().to_lowercase());
    query
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn ask(server: SocketAddr, asked: &Message, way: Way) -> Result<Message, Failure> {
    let mut question = asked.clone();
    // Who guesses an answer has to guess the number and the port.
    question.metadata.id = rand::random();
    let bytes = question.to_vec()?;
    let bytes = match way {
        Way::Udp => by_datagram(server, &bytes).await?,
        Way::Tcp => by_connection(server, &bytes).await?,
    };
    let answer = Message::from_vec(&bytes)?;
    let is_same = answer.metadata.id == question.metadata.id
        && answer.queries.first().map(lower) == question.queries.first().map(lower);
    if is_same { Ok(answer) } else { Err("it answers another question".into()) }
}

async fn by_datagram(server: SocketAddr, question: &[u8]) -> Result<Vec<u8>, Failure> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut bytes = vec![0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut bytes).await?;
        // Anything else is not for us: go on listening until the time is over.
        if length >= 2 && bytes[..2] == question[..2] {
            bytes.truncate(length);
            return Ok(bytes);
        }
    }
}

async fn by_connection(server: SocketAddr, question: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len())?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
