//! Somewhere in the lab (a pod, a node's host, the outside client) from where to serve and to ask.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{
    agent::Agent,
    names::{self, NodeName},
    topology,
    wait::{slowed_ms, within},
};
use crate::agent::protocol::{Answer, Failure, Load, Loaded, Op, Reply, Size, Transport, Why};

/// An address in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl Addresses {
    /// The address in a family.
    pub fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The address in a family, with a port.
    pub fn port(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.of(family), port)
    }
}

/// How to ask.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// Where to bind before connecting.
    pub from: Option<SocketAddr>,
    /// How long connecting, and then the answer, may take.
    pub timeout_ms: u64,
    /// How many bytes go along.
    pub size: Size,
}

impl Default for Asking {
    fn default() -> Self {
        Self { from: None, timeout_ms: 2000, size: Size::default() }
    }
}

/// Somewhere in the lab.
#[derive(Debug)]
pub struct Place {
    name: String,
    node: Option<NodeName>,
    netns: String,
    cgroup: PathBuf,
    tool: PathBuf,
    addresses: Addresses,
    agent: Agent,
}

impl Place {
    /// Starts the agent of a place whose namespace exists.
    pub(super) fn new(
        tool: &Path,
        lab: &str,
        (name, node): (&str, Option<NodeName>),
        cgroup: &str,
        addresses: Addresses,
    ) -> anyhow::Result<Self> {
        let netns = names::netns(lab, name);
        let cgroup = names::cgroup(lab, Path::new(cgroup));
        let agent = Agent::start(tool, &netns, &cgroup)?;
        let (name, tool) = (name.to_owned(), tool.to_owned());
        Ok(Self { name, node, netns, cgroup, tool, addresses, agent })
    }

    /// The pod's or node's name, or `outside`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it is on; the outside client is on none.
    pub fn node(&self) -> Option<NodeName> {
        self.node
    }

    /// Its network namespace.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The process that serves and asks here, while there is one.
    pub fn process(&self) -> Option<u32> {
        self.agent.id()
    }

    /// A command that will run here, in this place's cgroup.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(&self.tool);
        command.args(["lab-run", &self.netns]).arg(&self.cgroup).arg(program.as_ref());
        command
    }

    /// Serves HTTP and UDP on `port` of both addresses, under the place's name.
    pub fn serve(&self, port: u16) -> Result<(), Failure> {
        for family in Family::ALL {
            for transport in Transport::ALL {
                self.serve_at(transport, self.addresses.port(family, port))?;
            }
        }
        Ok(())
    }

    /// Serves at one address.
    pub fn serve_at(&self, transport: Transport, at: SocketAddr) -> Result<(), Failure> {
        self.agent.call(Op::Serve { name: self.name.clone(), transport, at }).map(drop)
    }

    /// Closes the servers on `port`; established connections stay.
    pub fn stop_serving(&self, port: u16) -> Result<(), Failure> {
        for family in Family::ALL {
            for transport in Transport::ALL {
                let at = self.addresses.port(family, port);
                self.agent.call(Op::StopServing { transport, at })?;
            }
        }
        Ok(())
    }

    /// Asks once, on a new connected socket.
    pub fn ask(&self, transport: Transport, to: SocketAddr) -> Result<Answer, Failure> {
        self.ask_as(transport, to, Asking::default())
    }

    /// Asks once, on a new connected socket, as `asking` says.
    pub fn ask_as(
        &self,
        transport: Transport,
        to: SocketAddr,
        asking: Asking,
    ) -> Result<Answer, Failure> {
        let socket = self.open(transport, Some(to), asking)?;
        self.ask_on(socket, None, asking)
            .inspect(|_answer| self.close(socket))
            .inspect_err(|_failure| self.close(socket))
    }

    /// A TCP connection that stays open until it is dropped.
    pub fn connect(
        self: &Arc<Self>,
        to: SocketAddr,
        asking: Asking,
    ) -> Result<TcpConnection, Failure> {
        let socket = self.open(Transport::Tcp, Some(to), asking)?;
        Ok(TcpConnection(Held { place: Arc::clone(self), socket, asking }))
    }

    /// An SCTP association that stays open until it is dropped.
    pub fn associate(
        self: &Arc<Self>,
        to: SocketAddr,
        asking: Asking,
    ) -> Result<TcpConnection, Failure> {
        let socket = self.open(Transport::Sctp, Some(to), asking)?;
        Ok(TcpConnection(Held { place: Arc::clone(self), socket, asking }))
    }

    /// A UDP socket connected to `to`, open until it is dropped.
    pub fn udp_connected(
        self: &Arc<Self>,
        to: SocketAddr,
        asking: Asking,
    ) -> Result<UdpSocket, Failure> {
        let socket = self.open(Transport::Udp, Some(to), asking)?;
        Ok(UdpSocket(Held { place: Arc::clone(self), socket, asking }))
    }

    /// An unconnected UDP socket in the family of `like`, open until it is dropped.
    pub fn udp_unconnected(
        self: &Arc<Self>,
        like: SocketAddr,
        asking: Asking,
    ) -> Result<UdpSocket, Failure> {
        let any = match like {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        };
        let bound = Asking { from: asking.from.or(Some(any)), ..asking };
        let socket = self.open(Transport::Udp, None, bound)?;
        Ok(UdpSocket(Held { place: Arc::clone(self), socket, asking }))
    }

    /// Asks again and again until the load is stopped.
    pub fn start_load(self: &Arc<Self>, mut load: Load) -> Result<RunningLoad, Failure> {
        load.timeout_ms = slowed_ms(load.timeout_ms);
        let number = opened(&self.agent.call(Op::StartLoad(load))?)?;
        Ok(RunningLoad { place: Arc::clone(self), number })
    }

    /// How many segments and datagrams came here with a wrong checksum so far.
    pub fn corrupted(&self) -> anyhow::Result<u64> {
        within(&self.netns, super::checksums::errors)
    }

    /// Lets this place serve on when the lab's owner ends.
    pub fn leave(&self) -> Result<(), Failure> {
        self.agent.leave()
    }

    /// Ends every process here.
    pub(super) fn end(&self) {
        self.agent.end();
    }

    fn open(
        &self,
        transport: Transport,
        to: Option<SocketAddr>,
        asking: Asking,
    ) -> Result<u64, Failure> {
        let (from, timeout_ms) = (asking.from, slowed_ms(asking.timeout_ms));
        opened(&self.agent.call(Op::Open { transport, to, from, timeout_ms })?)
    }

    fn ask_on(
        &self,
        socket: u64,
        to: Option<SocketAddr>,
        asking: Asking,
    ) -> Result<Answer, Failure> {
        let (size, timeout_ms) = (asking.size, slowed_ms(asking.timeout_ms));
        match self.agent.call(Op::Ask { socket, to, size, timeout_ms })? {
            Reply::Answer(answer) => Ok(answer),
            other @ (Reply::Done | Reply::Opened(_) | Reply::Loaded(_)) => Err(unexpected(&other)),
        }
    }

    fn close(&self, socket: u64) {
        // An agent that has ended has closed it.
        let _ = self.agent.call(Op::Close { socket });
    }
}

#[derive(Debug)]
struct Held {
    place: Arc<Place>,
    socket: u64,
    asking: Asking,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.place.close(self.socket);
    }
}

/// An open TCP connection, or an SCTP association.
#[derive(Debug)]
pub struct TcpConnection(Held);

impl TcpConnection {
    /// Asks once more on the same connection.
    pub fn ask(&self) -> Result<Answer, Failure> {
        self.0.place.ask_on(self.0.socket, None, self.0.asking)
    }
}

/// An open UDP socket.
#[derive(Debug)]
pub struct UdpSocket(Held);

impl UdpSocket {
    /// Asks on a connected socket.
    pub fn ask(&self) -> Result<Answer, Failure> {
        self.0.place.ask_on(self.0.socket, None, self.0.asking)
    }

    /// Asks on an unconnected socket.
    pub fn ask_to(&self, to: SocketAddr) -> Result<Answer, Failure> {
        self.0.place.ask_on(self.0.socket, Some(to), self.0.asking)
    }
}

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct RunningLoad {
    place: Arc<Place>,
    number: u64,
}

impl RunningLoad {
    /// Stops it and tells what it saw.
    pub fn stop(self) -> Result<Loaded, Failure> {
        match self.place.agent.call(Op::StopLoad { load: self.number })? {
            Reply::Loaded(loaded) => Ok(loaded),
            other @ (Reply::Done | Reply::Opened(_) | Reply::Answer(_)) => Err(unexpected(&other)),
        }
    }
}

pub(super) fn host(tool: &Path, lab: &str, node: NodeName) -> anyhow::Result<Place> {
    let cgroup = format!("{node}/host");
    let addresses = topology::node_addresses(node);
    Place::new(tool, lab, (node.as_str(), Some(node)), &cgroup, addresses)
}

pub(super) fn outside(tool: &Path, lab: &str) -> anyhow::Result<Place> {
    Place::new(tool, lab, ("outside", None), "outside", topology::OUTSIDE)
}

fn opened(reply: &Reply) -> Result<u64, Failure> {
    match reply {
        Reply::Opened(number) => Ok(*number),
        Reply::Done | Reply::Answer(_) | Reply::Loaded(_) => Err(unexpected(reply)),
    }
}

fn unexpected(reply: &Reply) -> Failure {
    let text = format!("the agent answered another question: {reply:?}");
    Failure { why: Why::Other, text, elapsed_ms: 0 }
}
