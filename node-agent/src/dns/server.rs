//! Answers questions, by datagrams and by connections.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
    },
};
use rand::seq::SliceRandom as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    TTL_S,
    forward::{Forwarder, Way},
    zone::{Answer, Data, Zone},
};

/// Questions to others, and connections, that are open at once; more wait.
const OPEN_MAX: usize = 1_000;
/// A connection without a question ends.
const IDLE: Duration = Duration::from_secs(10);
/// The longest datagram that is taken, in bytes.
const DATAGRAM_MAX: usize = 4_096;
/// What every client takes (RFC 1035), and what we send at most (DNS flag day 2020), in bytes.
const SHORT: u16 = 512;
const LONG: u16 = 1_232;
/// Names of Services that lead to each other are followed so far.
const CHAIN_MAX: usize = 8;

/// What answers.
#[derive(Debug)]
pub(crate) struct Server {
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
    open: Arc<Semaphore>,
}

/// Why nobody is answered.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for DNS on {address}: {cause}")]
pub(crate) struct Error {
    address: SocketAddr,
    cause: io::Error,
}

impl Server {
    pub(crate) fn new(zone: Arc<RwLock<Zone>>, forwarder: Forwarder) -> Self {
        Self { zone, forwarder, open: Arc::new(Semaphore::new(OPEN_MAX)) }
    }

    /// Listens on these addresses; the tasks end with the process.
    pub(crate) async fn listen(self: &Arc<Self>, addresses: &[SocketAddr]) -> Result<(), Error> {
        for address in addresses {
            let failed = |cause| Error { address: *address, cause };
            let socket = UdpSocket::bind(address).await.map_err(failed)?;
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            tokio::spawn(self.clone().datagrams(Arc::new(socket)));
            tokio::spawn(self.clone().connections(listener));
        }
        Ok(())
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut bytes = vec![0; DATAGRAM_MAX];
        loop {
            let (length, from) = match socket.recv_from(&mut bytes).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "no datagram");
                    continue;
                }
            };
            let Ok(asked) = Message::from_vec(&bytes[..length]) else { continue };
            if asked.metadata.message_type != MessageType::Query {
                continue;
            }
            if let Some(answer) = self.own(&asked) {
                send(&socket, from, &asked, answer).await;
                continue;
            }
            // A slow server of others holds up nobody who asks for the cluster's names.
            let Ok(permit) = self.open.clone().try_acquire_owned() else { continue };
            let (server, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                let answer = server.others(&asked, Way::Udp).await;
                send(&socket, from, &asked, answer).await;
                drop(permit);
            });
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(permit) = self.open.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = server.connection(stream).await {
                            tracing::trace!(%error, "a connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = timeout(IDLE, stream.read_u16()).await??;
            let mut bytes = vec![0; usize::from(length)];
            timeout(IDLE, stream.read_exact(&mut bytes)).await??;
            let asked = Message::from_vec(&bytes).map_err(io::Error::other)?;
            let answer = match self.own(&asked) {
                Some(answer) => answer,
                None => self.others(&asked, Way::Tcp).await,
            };
            let bytes = answer.to_vec().map_err(io::Error::other)?;
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await?;
        }
    }

    /// The answer if it needs nobody else.
    fn own(&self, asked: &Message) -> Option<Message> {
        let no = |code| Some(Message::error_msg(asked.metadata.id, asked.metadata.op_code, code));
        if asked.metadata.op_code != OpCode::Query {
            return no(ResponseCode::NotImp);
        }
        let [query] = asked.queries.as_slice() else { return no(ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN {
            return no(ResponseCode::Refused);
        }
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        let domain = zone.domain();
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = asked.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authoritative = true;
        answer.add_query(query.clone());
        let mut name = query.name().clone();
        let mut seen = BTreeSet::new();
        for _ in 0..CHAIN_MAX {
            let all = match zone.answer(&name.to_ascii()) {
                // The rest of a chain is known elsewhere.
                Answer::NotOurs => return None,
                Answer::Missing => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    break;
                }
                Answer::All(all) => all,
            };
            let next = all.iter().find_map(|it| match it {
                Data::Cname(target) => Name::from_ascii(target).ok(),
                Data::Ip(_) | Data::Srv(..) | Data::Ptr(_) | Data::Txt(_) => None,
            });
            answer.add_answers(records(&name, query, &all, &domain));
            match next {
                Some(target)
                    if query.query_type() != RecordType::CNAME && seen.insert(target.clone()) =>
                {
                    name = target;
                }
                _ => break,
            }
        }
        if answer.answers.is_empty() || answer.metadata.response_code == ResponseCode::NXDomain {
            answer.add_authorities(start(&domain));
        }
        Some(answer)
    }

    /// The answer of others; a name of the cluster that leads out of it is followed.
    async fn others(&self, asked: &Message, way: Way) -> Message {
        let Some(query) = asked.queries.first() else {
            return self.forwarder.answer(asked, way).await;
        };
        let led = {
            let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
            match zone.answer(&query.name().to_ascii()) {
                Answer::All(all) => all.into_iter().find_map(|it| match it {
                    Data::Cname(target) => Name::from_ascii(target).ok(),
                    Data::Ip(_) | Data::Srv(..) | Data::Ptr(_) | Data::Txt(_) => None,
                }),
                Answer::NotOurs | Answer::Missing => None,
            }
        };
        let Some(target) = led else { return self.forwarder.answer(asked, way).await };
        let mut further = asked.clone();
        further.queries = vec![Query::query(target.clone(), query.query_type())];
        let found = self.forwarder.answer(&further, way).await;
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = asked.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        answer.add_answer(Record::from_rdata(
            query.name().clone(),
            TTL_S,
            RData::CNAME(CNAME(target)),
        ));
        answer.add_answers(found.answers);
        answer
    }
}

/// The records that a question asks for.
fn records(name: &Name, query: &Query, all: &[Data], domain: &str) -> Vec<Record> {
    let kind = query.query_type();
    let wants = |it: RecordType| kind == it || kind == RecordType::ANY;
    let record = |data: RData| Record::from_rdata(name.clone(), TTL_S, data);
    let mut records: Vec<Record> = all
        .iter()
        .filter_map(|data| match data {
            Data::Ip(IpAddr::V4(ip)) if wants(RecordType::A) => Some(RData::A(A(*ip))),
            Data::Ip(IpAddr::V6(ip)) if wants(RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
            Data::Srv(port, target) if wants(RecordType::SRV) => {
                Some(RData::SRV(SRV::new(0, 100, *port, Name::from_ascii(target).ok()?)))
            }
            Data::Ptr(target) if wants(RecordType::PTR) => {
                Some(RData::PTR(PTR(Name::from_ascii(target).ok()?)))
            }
            // It stands for answers of every type.
            Data::Cname(target) => Some(RData::CNAME(CNAME(Name::from_ascii(target).ok()?))),
            Data::Txt(words) if wants(RecordType::TXT) => {
                Some(RData::TXT(TXT::new(vec![(*words).to_owned()])))
            }
            Data::Ip(_) | Data::Srv(..) | Data::Ptr(_) | Data::Txt(_) => None,
        })
        .map(record)
        .collect();
    records.shuffle(&mut rand::rng());
    let is_apex = name.to_ascii().eq_ignore_ascii_case(domain);
    if is_apex && wants(RecordType::SOA) {
        records.extend(start(domain));
    }
    if is_apex
        && wants(RecordType::NS)
        && let Ok(server) = Name::from_ascii(format!("ns.dns.{domain}"))
    {
        records.push(record(RData::NS(NS(server))));
    }
    records
}

/// The zone's start of authority: it says how long "no" holds.
fn start(domain: &str) -> Option<Record> {
    let name = Name::from_ascii(domain).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{domain}")).ok()?;
    let person = Name::from_ascii(format!("hostmaster.{domain}")).ok()?;
    let soa = SOA::new(server, person, 1, 7_200, 1_800, 86_400, TTL_S);
    Some(Record::from_rdata(name, TTL_S, RData::SOA(soa)))
}

async fn send(socket: &UdpSocket, to: SocketAddr, asked: &Message, mut answer: Message) {
    let takes = asked.edns.as_ref().map_or(SHORT, |it| it.max_payload().clamp(SHORT, LONG));
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LONG);
        answer.set_edns(edns);
    } else {
        answer.edns = None;
    }
    let Ok(mut bytes) = answer.to_vec() else { return };
    if bytes.len() > usize::from(takes) {
        // The client asks again by a connection.
        answer.metadata.truncation = true;
        answer.answers.clear();
        answer.authorities.clear();
        answer.additionals.clear();
        match answer.to_vec() {
            Ok(short) => bytes = short,
            Err(_) => return,
        }
    }
    if let Err(error) = socket.send_to(&bytes, to).await {
        tracing::debug!(%to, %error, "an answer is not sent");
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    async fn bound() -> (Arc<UdpSocket>, TcpListener, SocketAddr) {
        // The same free port for both.
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
            let address = listener.local_addr().expect("its address");
            if let Ok(socket) = UdpSocket::bind(address).await {
                return (Arc::new(socket), listener, address);
            }
        }
    }

    /// A server for a zone with one Service, one that leads out, and `many` with many addresses.
    async fn served(upstreams: Vec<SocketAddr>) -> SocketAddr {
        let mut zone = Zone::new("cluster.local");
        let mut service = |name: &str, spec: serde_json::Value| {
            let service = json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec});
            let service: Service = serde_json::from_value(service).expect("a service");
            zone.set_service(&service);
        };
        service("web", json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"]}));
        service("out", json!({"type": "ExternalName", "externalName": "there.example"}));
        service("in", json!({"type": "ExternalName", "externalName": "web.a.svc.cluster.local"}));
        let many: Vec<String> = (0..100).map(|it| format!("10.97.0.{it}")).collect();
        service("many", json!({"clusterIP": many[0], "clusterIPs": many}));
        let server = Arc::new(Server::new(Arc::new(RwLock::new(zone)), Forwarder::new(upstreams)));
        let (socket, listener, address) = bound().await;
        tokio::spawn(server.clone().datagrams(socket));
        tokio::spawn(server.connections(listener));
        address
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.id = rand::random();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        message
    }

    async fn ask(server: SocketAddr, asked: &Message) -> Message {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        socket.send_to(&asked.to_vec().expect("bytes"), server).await.expect("sent");
        let mut bytes = vec![0; DATAGRAM_MAX];
        let length = timeout(Duration::from_secs(5), socket.recv(&mut bytes)).await;
        let length = length.expect("an answer in time").expect("an answer");
        Message::from_vec(&bytes[..length]).expect("a message")
    }

    #[tokio::test]
    async fn names_of_the_cluster_are_answered_and_unknown_ones_denied() {
        let server = served(Vec::new()).await;
        let answer = ask(server, &question("WEB.a.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(answer.answers[0].name.to_ascii(), "WEB.a.svc.cluster.local.");
        assert!(answer.metadata.authoritative);
        let answer = ask(server, &question("web.a.svc.cluster.local.", RecordType::AAAA)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty() && answer.authorities.len() == 1);
        let answer = ask(server, &question("no.a.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities.len(), 1);
        let answer = ask(server, &question("in.a.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(answer.answers.len(), 2, "the name and what it leads to");
        let answer = ask(server, &question("example.org.", RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    }

    #[tokio::test]
    async fn long_answers_are_cut_and_whole_by_a_connection() {
        let server = served(Vec::new()).await;
        let asked = question("many.a.svc.cluster.local.", RecordType::A);
        let answer = ask(server, &asked).await;
        assert!(answer.metadata.truncation && answer.answers.is_empty());
        let mut stream = TcpStream::connect(server).await.expect("a connection");
        for _ in 0..2 {
            let bytes = asked.to_vec().expect("bytes");
            stream.write_u16(u16::try_from(bytes.len()).expect("short")).await.expect("sent");
            stream.write_all(&bytes).await.expect("sent");
            let length = stream.read_u16().await.expect("a length");
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.expect("an answer");
            assert_eq!(Message::from_vec(&bytes).expect("a message").answers.len(), 100);
        }
    }

    #[tokio::test]
    async fn other_names_are_asked_of_others_once() {
        let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = upstream.local_addr().expect("its address");
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut bytes = vec![0; DATAGRAM_MAX];
            while let Ok((length, from)) = upstream.recv_from(&mut bytes).await {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let asked = Message::from_vec(&bytes[..length]).expect("a question");
                let query = asked.queries[0].clone();
                let mut answer = Message::response(asked.metadata.id, OpCode::Query);
                let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 7)));
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                answer.add_query(query);
                upstream.send_to(&answer.to_vec().expect("bytes"), from).await.expect("sent");
            }
        });
        // The first does not answer at all: nobody listens there.
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
        let nobody = nobody.local_addr().expect("its address");
        let server = served(vec![nobody, address]).await;
        for _ in 0..2 {
            let answer = ask(server, &question("there.example.", RecordType::A)).await;
            assert_eq!(answer.answers.len(), 1);
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1, "the second is remembered");
        let answer = ask(server, &question("out.a.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(answer.answers.len(), 2, "the name and what it leads to");
    }

    #[tokio::test]
    async fn nonsense_ends_nothing() {
        let server = served(Vec::new()).await;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        for length in 0..200_usize {
            let bytes: Vec<u8> = (0..length).map(|_| rand::random()).collect();
            socket.send_to(&bytes, server).await.expect("sent");
        }
        let answer = ask(server, &question("web.a.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1);
    }
}
