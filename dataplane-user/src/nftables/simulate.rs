//! Does with a packet what the kernel would do with a program's chains and sets.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    change::number,
    edits::SetId,
    expression::{
        Base, Comparison, Expression, Found, Meta, Name, Refusal, Register, Track, Update, Verdict,
        status,
    },
    half::{Half, address, octets},
    image::wanted_verdict,
    layout::{AFFINITY, SOURCE_RANGES},
    object::Chain,
    program::{LOOPBACK6, Program},
    treatment::{NO_LOCAL_ENDPOINT, SOURCE_NOT_ALLOWED},
};
use crate::{
    backend::{Desired, Mode, Node},
    model::{DropCause, Family, Outcome, Packet, PortKey, PortState, Scope},
    simulate::Simulated,
};

/// An index that is not the loopback device's.
const DEVICE_INDEX: u32 = 2;
/// A device that is no pod's.
const OUTSIDE: &str = "outside0";

/// Where the first packet of a flow goes.
pub fn simulate(program: &Program, packet: &Packet) -> Outcome {
    match Family::of(packet.destination) {
        Family::V4 => Run { half: &program.v4, program, packet }.outcome(),
        Family::V6 => Run { half: &program.v6, program, packet }.outcome(),
    }
}

/// The limit that keeps packets like this one from being served.
pub fn cannot(packet: &Packet) -> Option<&'static str> {
    let is_loopback6 = packet.destination.is_ipv6() && packet.destination.is_loopback();
    (is_loopback6 && packet.scope == Scope::Host).then_some(LOOPBACK6.feature)
}

impl Simulated for Program {
    fn mode(&self) -> Mode {
        Mode::Nftables
    }

    fn set_node(&mut self, node: &Node) {
        Self::set_node(self, node);
    }

    fn compile(&mut self, table: &dyn Desired) {
        Self::compile(self, table);
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        Self::change(self, key, state);
    }

    fn simulate(&self, packet: &Packet) -> Outcome {
        simulate(self, packet)
    }

    fn cannot(&self, packet: &Packet) -> Option<&'static str> {
        cannot(packet)
    }
}

/// Where a packet ends in a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped(Name),
    Refused,
    Translated(SocketAddr),
    Masqueraded,
}

/// A packet on its way through the rules.
#[derive(Clone, Copy, Debug)]
struct State {
    registers: [u8; 64],
    mark: u32,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    translated: bool,
    affinity_s: Option<u32>,
}

struct Run<'a, const N: usize> {
    half: &'a Half<N>,
    program: &'a Program,
    packet: &'a Packet,
}

impl<const N: usize> Run<'_, N> {
    fn outcome(&self) -> Outcome {
        let hook = match self.packet.scope {
            Scope::Host => "output",
            Scope::Pod | Scope::Outside => "prerouting",
        };
        let Packet { source, destination, port, .. } = *self.packet;
        let state = State {
            registers: [0; 64],
            mark: 0,
            source,
            destination,
            port,
            translated: false,
            affinity_s: None,
        };
        let mut ends = Vec::new();
        self.chain(hook, state, &mut ends);
        let mut endpoints = BTreeMap::new();
        let mut affinity_s = None;
        for (end, state) in ends {
            match end {
                End::Refused => return Outcome::Refused,
                End::Dropped(chain) if chain == SOURCE_NOT_ALLOWED => {
                    return Outcome::Dropped(DropCause::SourceNotAllowed);
                }
                End::Dropped(chain) if chain == NO_LOCAL_ENDPOINT => {
                    return Outcome::Dropped(DropCause::NoLocalEndpoint);
                }
                // The guard of loopback addresses drops what the kernel would drop without us.
                End::Accepted | End::Masqueraded | End::Dropped(_) => return Outcome::NotOurs,
                End::Translated(to) => {
                    affinity_s = state.affinity_s;
                    endpoints.insert(to, self.is_replaced(to, state));
                }
            }
        }
        Outcome::To { endpoints, affinity_s }
    }

    /// Whether an endpoint sees another source than the client.
    fn is_replaced(&self, to: SocketAddr, state: State) -> bool {
        // What is for this host is not routed on.
        if self.program.addresses.contains(&to.ip()) {
            return false;
        }
        let state = State { destination: to.ip(), port: to.port(), translated: true, ..state };
        let mut ends = Vec::new();
        self.chain("postrouting", state, &mut ends);
        self.packet.scope == Scope::Host
            || ends.iter().any(|(end, _)| matches!(end, End::Masqueraded))
    }

    fn chain(&self, name: &str, state: State, ends: &mut Vec<(End, State)>) {
        match self.half.chains.get(name) {
            Some(chain) => self.rules(chain, 0, state, ends),
            None => ends.push((End::Accepted, state)),
        }
    }

    fn rules(&self, chain: &Chain, rule: usize, state: State, ends: &mut Vec<(End, State)>) {
        match chain.rules.get(rule) {
            Some(steps) => self.steps(chain, rule, steps, state, ends),
            None => ends.push((End::Accepted, state)),
        }
    }

    /// The steps of a rule, and then the rules behind it if it decides nothing.
    fn steps(
        &self,
        chain: &Chain,
        rule: usize,
        steps: &[Expression],
        mut state: State,
        ends: &mut Vec<(End, State)>,
    ) {
        for (at, step) in steps.iter().enumerate() {
            if let Expression::Random { below, to } = step {
                for number in 0..*below {
                    let mut state = state;
                    state.load(*to, &number.to_ne_bytes());
                    self.steps(chain, rule, &steps[at + 1..], state, ends);
                }
                return;
            }
            match self.step(step, &mut state) {
                Step::Next => {}
                Step::Break => return self.rules(chain, rule + 1, state, ends),
                Step::To(verdict) => return self.verdict(chain, verdict, state, ends),
                Step::End(end) => return ends.push((end, state)),
            }
        }
        self.rules(chain, rule + 1, state, ends);
    }

    fn verdict(&self, chain: &Chain, to: Verdict, state: State, ends: &mut Vec<(End, State)>) {
        match to {
            Verdict::Accept | Verdict::Return => ends.push((End::Accepted, state)),
            Verdict::Drop => ends.push((End::Dropped(chain.name.clone()), state)),
            // Our chains never come back.
            Verdict::Goto(name) | Verdict::Jump(name) => self.chain(&name, state, ends),
        }
    }

    fn step(&self, step: &Expression, state: &mut State) -> Step {
        match step {
            Expression::Payload { base, offset, len, to } => {
                let bytes = self.payload(*base, *offset, *len, state);
                state.load(*to, &bytes);
            }
            Expression::Meta { key, to } => state.load(*to, &self.meta(*key, state.mark)),
            Expression::SetMark(from) => state.mark = state.number(*from),
            Expression::Track { key, to } => {
                let status = if state.translated { status::DNAT } else { 0 };
                let value = match key {
                    Track::State => super::expression::state::NEW,
                    Track::Status => status,
                };
                state.load(*to, &value.to_ne_bytes());
            }
            Expression::Compare { from, by, with } => {
                let same = state.bytes(*from, with.len()) == with.as_slice();
                if same != (*by == Comparison::Equal) {
                    return Step::Break;
                }
            }
            Expression::Bitwise { from, to, mask, xor } => {
                let of = state.bytes(*from, mask.len());
                let value: Vec<u8> =
                    of.iter().zip(mask).zip(xor).map(|((a, mask), xor)| a & mask ^ xor).collect();
                state.load(*to, &value);
            }
            Expression::Immediate { to, value } => state.load(*to, value),
            Expression::Verdict(to) => return Step::To(to.clone()),
            Expression::Lookup { set, key, found } => return self.lookup(set, *key, *found, state),
            // Taken apart by the caller.
            Expression::Random { .. } | Expression::Counter => {}
            Expression::Update { update, timeout_ms, .. } => {
                if *update == Update::Renew {
                    let seconds = timeout_ms.unwrap_or(0) / 1000;
                    state.affinity_s = u32::try_from(seconds).ok();
                }
            }
            Expression::Dnat { address: at, port } => {
                let addr: Option<[u8; N]> = state.bytes(*at, N).try_into().ok();
                let port = port.map_or(state.port, |port| state.port_in(port));
                let to = addr.and_then(address);
                return to.map_or(Step::Break, |to| {
                    Step::End(End::Translated(SocketAddr::new(to, port)))
                });
            }
            Expression::Masquerade => return Step::End(End::Masqueraded),
            Expression::Refuse(Refusal::TcpReset | Refusal::PortUnreachable) => {
                return Step::End(End::Refused);
            }
        }
        Step::Next
    }

    fn payload(&self, base: Base, offset: u32, len: u32, state: &State) -> Vec<u8> {
        let (source, destination) = match self.half.layout.family {
            Family::V4 => (12, 16),
            Family::V6 => (8, 24),
        };
        let addr = |ip| octets::<N>(ip).map_or_else(Vec::new, |addr| addr.to_vec());
        let mut bytes = match (base, offset) {
            (Base::Network, at) if at == source => addr(state.source),
            (Base::Network, at) if at == destination => addr(state.destination),
            (Base::Transport, 2) => state.port.to_be_bytes().to_vec(),
            (Base::Network | Base::Transport, _) => Vec::new(),
        };
        bytes.truncate(len as usize);
        bytes
    }

    fn meta(&self, key: Meta, mark: u32) -> Vec<u8> {
        let name = || match self.packet.scope {
            Scope::Pod => self.half.pod_links.first().copied().unwrap_or_default(),
            Scope::Outside => super::half::device(OUTSIDE),
            Scope::Host => [0; 16],
        };
        match key {
            Meta::Mark => mark.to_ne_bytes().to_vec(),
            Meta::InputIndex | Meta::OutputIndex => DEVICE_INDEX.to_ne_bytes().to_vec(),
            Meta::InputName => name().to_vec(),
            Meta::OutputName => super::half::device(OUTSIDE).to_vec(),
            Meta::Protocol => vec![number(self.packet.protocol)],
        }
    }

    fn lookup(&self, set: &str, key: Register, found: Found, state: &mut State) -> Step {
        if set == AFFINITY {
            // Nobody has been here before.
            return Step::Break;
        }
        let sets = self.half.layout.sets();
        let len = sets.iter().find(|it| it.name == set).map_or(0, |it| it.key_len() as usize);
        let key = state.bytes(key, len).to_vec();
        let id = SetId::ALL.into_iter().find(|id| id.name() == set);
        let Some(id) = id else { return Step::Break };
        let value = if set == SOURCE_RANGES {
            self.half.serves(&key).then(Vec::new)
        } else {
            self.half.value(id, &key)
        };
        match (found, value) {
            (Found::Missing, None) | (Found::Nothing, Some(_)) => Step::Next,
            (Found::Missing, Some(_)) | (_, None) => Step::Break,
            (Found::Data(to), Some(value)) => {
                state.load(to, &value);
                Step::Next
            }
            (Found::Verdict, Some(_)) => wanted_verdict(id, &key).map_or(Step::Break, Step::To),
        }
    }
}

/// What becomes of a rule after one step.
enum Step {
    Next,
    Break,
    To(Verdict),
    End(End),
}

impl State {
    /// Writes a value, padded to whole registers.
    fn load(&mut self, to: Register, value: &[u8]) {
        let at = usize::from(to.0) * 4;
        let padded = value.len().next_multiple_of(4);
        if let Some(registers) = self.registers.get_mut(at..at + padded) {
            registers.fill(0);
            registers[..value.len()].copy_from_slice(value);
        }
    }

    fn bytes(&self, from: Register, len: usize) -> &[u8] {
        let at = usize::from(from.0) * 4;
        self.registers.get(at..at + len).unwrap_or(&[])
    }

    fn number(&self, from: Register) -> u32 {
        self.bytes(from, 4).first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn port_in(&self, from: Register) -> u16 {
        self.bytes(from, 2).first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }
}
