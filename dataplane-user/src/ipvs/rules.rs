//! The nftables table around IPVS: who gets to it, who is refused, whose source is replaced.
//!
//! IPVS looks at packets for this host after the input hook's filters (at 99), and at those of its own
//! sockets after the output hook's translation (at -98); what it sends on passes output and
//! postrouting. All our rules are for the first packets of connections.

use super::treatment::{Action, MARKS, MARKS_MASK, Treatment};
use crate::{
    model::{Family, Scope},
    nftables::{
        expression::{
            Base, Comparison, Expression, Found, Meta, Refusal, Register, Track, Verdict, state,
        },
        object::{Chain, ChainKind, Content, Hook, Rule, Seat, Set, SetKind, Type},
    },
};

/// Frontend → the chain of its treatment.
pub(super) const SERVICES: &str = "services";
/// Frontend → the mark of clients on this node.
pub(super) const SERVER_MARKS: &str = "server-marks";
/// Frontends, and addresses that they serve.
pub(super) const RANGES: &str = "source-ranges";
/// Addresses whose other ports are refused.
pub(super) const CLOSED: &str = "closed-addresses";
/// Addresses of the node.
pub(super) const NODES: &str = "node-addresses";
/// Endpoints, as source and destination.
pub(super) const HAIRPINS: &str = "hairpins";
/// Devices by which pods of this node send.
pub(super) const POD_LINKS: &str = "pod-links";

const REFUSE: &str = "refuse";
/// Before IPVS, and after everybody's filters.
const INPUT: i32 = 90;
/// After connection tracking (-200), before IPVS. What nftables translates at -100 is not for IPVS.
const OUTPUT: i32 = -110;
/// Where sources are translated.
const SOURCE: i32 = 100;
/// After that.
const AFTER_SOURCE: i32 = 110;
/// The index of the loopback device, in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// What IPVS serves: TCP, UDP and SCTP.
const TCP: u8 = 6;
const PROTOCOLS: [u8; 3] = [TCP, 17, 132];

const FRONTEND4: &[Type] = &[Type::Address4, Type::Protocol, Type::Port];
const FRONTEND6: &[Type] = &[Type::Address6, Type::Protocol, Type::Port];
const RANGE4: &[Type] = &[Type::Address4, Type::Protocol, Type::Port, Type::Address4];
const RANGE6: &[Type] = &[Type::Address6, Type::Protocol, Type::Port, Type::Address6];
const PAIR4: &[Type] = &[Type::Address4, Type::Address4];
const PAIR6: &[Type] = &[Type::Address6, Type::Address6];

/// The shape of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// The family of the table.
    pub(super) family: Family,
    /// The bit of the mark that says "masquerade" between two hooks.
    pub(super) masquerade_bit: u32,
}

impl Rules {
    /// All sets and maps.
    pub(super) fn sets(self) -> Vec<Set> {
        let (frontend, range, pair) = match self.family {
            Family::V4 => (FRONTEND4, RANGE4, PAIR4),
            Family::V6 => (FRONTEND6, RANGE6, PAIR6),
        };
        let set = |name: &'static str, key, content| Set {
            name: name.into(),
            key,
            content,
            kind: SetKind::Hash,
        };
        vec![
            set(SERVICES, frontend, Content::Verdict),
            set(SERVER_MARKS, frontend, Content::Data(&[Type::Number])),
            Set { kind: SetKind::Ranges, ..set(RANGES, range, Content::Nothing) },
            set(CLOSED, &pair[..1], Content::Nothing),
            set(NODES, &pair[..1], Content::Nothing),
            set(HAIRPINS, pair, Content::Nothing),
            set(POD_LINKS, &[Type::Device], Content::Nothing),
        ]
    }

    /// All chains; those that others lead to come first.
    pub(super) fn chains(self) -> Vec<Chain> {
        let base = |name: &'static str, kind, hook, priority, rules| Chain {
            name: name.into(),
            seat: Some(Seat { kind, hook, priority }),
            rules,
        };
        let mut chains = vec![Chain { name: REFUSE.into(), seat: None, rules: refuse() }];
        chains.extend(Treatment::all().map(|treatment| Chain {
            name: treatment.chain().into(),
            seat: None,
            rules: self.treat(treatment),
        }));
        let (filter, nat) = (ChainKind::Filter, ChainKind::Nat);
        let mut input = vec![vec![
            // The host's own packets were judged where they were sent.
            meta(Meta::InputIndex),
            compare(Comparison::Equal, LOOPBACK_INDEX),
            Expression::Verdict(Verdict::Accept),
        ]];
        input.extend(self.judge());
        chains.extend([
            base("input", filter, Hook::Input, INPUT, input),
            base("output", filter, Hook::Output, OUTPUT, self.judge()),
            base("postrouting", nat, Hook::Postrouting, SOURCE, self.postrouting()),
            base("unmark", filter, Hook::Postrouting, AFTER_SOURCE, self.unmark()),
        ]);
        chains
    }

    const fn address_len(self) -> u8 {
        match self.family {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    fn source(self, to: u8) -> Expression {
        self.address(12, 8, to)
    }

    fn destination(self, to: u8) -> Expression {
        self.address(16, 24, to)
    }

    fn address(self, offset4: u32, offset6: u32, to: u8) -> Expression {
        let offset = match self.family {
            Family::V4 => offset4,
            Family::V6 => offset6,
        };
        let len = u32::from(self.address_len()) * 4;
        Expression::Payload { base: Base::Network, offset, len, to: Register(to) }
    }

    /// Loads the key of the packet's frontend to register 0 and those that follow.
    fn frontend(self) -> Rule {
        let protocol = self.address_len();
        let (base, to) = (Base::Transport, Register(protocol + 1));
        vec![
            self.destination(0),
            Expression::Meta { key: Meta::Protocol, to: Register(protocol) },
            Expression::Payload { base, offset: 2, len: 2, to },
        ]
    }

    /// What is done with packets that IPVS will see.
    fn judge(self) -> Vec<Rule> {
        let mut rules = vec![vec![
            Expression::Track { key: Track::State, to: Register(0) },
            masked(state::NEW),
            compare(Comparison::Equal, 0),
            Expression::Verdict(Verdict::Accept),
        ]];
        let mut find = self.frontend();
        find.push(lookup(SERVICES, Found::Verdict));
        rules.push(find);
        rules.extend(PROTOCOLS.map(|protocol| {
            vec![
                meta(Meta::Protocol),
                is_protocol(protocol),
                self.destination(0),
                lookup(CLOSED, Found::Nothing),
                goto(REFUSE),
            ]
        }));
        rules
    }

    /// The chain of a treatment.
    fn treat(self, treatment: Treatment) -> Vec<Rule> {
        let mut rules = Vec::new();
        if treatment.ranged {
            let mut rule = self.frontend();
            rule.push(self.source(self.address_len() + 2));
            rule.push(lookup(RANGES, Found::Missing));
            rule.push(Expression::Verdict(Verdict::Drop));
            rules.push(rule);
        }
        // Only what this host sends has a device to leave by here.
        let of_host = vec![meta(Meta::OutputIndex), compare(Comparison::NotEqual, 0)];
        let of_pod = vec![meta(Meta::InputName), lookup(POD_LINKS, Found::Nothing)];
        let scopes = [(Scope::Host, of_host), (Scope::Pod, of_pod), (Scope::Outside, Vec::new())];
        for (scope, mut rule) in scopes {
            if treatment.marked && scope != Scope::Outside {
                rule.extend(self.frontend());
                rule.push(lookup(SERVER_MARKS, Found::Data(Register(0))));
                rule.push(Expression::SetMark(Register(0)));
                rule.push(Expression::Verdict(Verdict::Accept));
            } else {
                rule.extend(self.act(treatment.action(scope)));
            }
            rules.push(rule);
        }
        rules
    }

    fn act(self, action: Action) -> Rule {
        match action {
            Action::Serve => vec![Expression::Verdict(Verdict::Accept)],
            Action::Masquerade => vec![
                meta(Meta::Mark),
                bits(!self.masquerade_bit, self.masquerade_bit),
                Expression::SetMark(Register(0)),
                Expression::Verdict(Verdict::Accept),
            ],
            Action::Refuse => vec![goto(REFUSE)],
            Action::Drop => vec![Expression::Verdict(Verdict::Drop)],
        }
    }

    /// Whose source is replaced.
    fn postrouting(self) -> Vec<Rule> {
        let stays = vec![
            meta(Meta::OutputIndex),
            compare(Comparison::Equal, LOOPBACK_INDEX),
            Expression::Verdict(Verdict::Accept),
        ];
        let asked = vec![
            meta(Meta::Mark),
            masked(self.masquerade_bit),
            compare(Comparison::Equal, self.masquerade_bit),
            Expression::Masquerade,
        ];
        // A mark that finds a virtual server has no room for more: processes of the host are told
        // by their source, which is the node's own or one that IPVS has made it.
        let own = [NODES, CLOSED].map(|set| {
            vec![
                meta(Meta::Mark),
                masked(MARKS_MASK),
                compare(Comparison::Equal, MARKS),
                self.source(0),
                lookup(set, Found::Nothing),
                Expression::Masquerade,
            ]
        });
        let hairpin = vec![
            self.source(0),
            self.destination(self.address_len()),
            lookup(HAIRPINS, Found::Nothing),
            Expression::Masquerade,
        ];
        let mut rules = vec![stays, asked];
        rules.extend(own);
        rules.push(hairpin);
        rules
    }

    /// Clears our marks, which a tunnel would carry on.
    fn unmark(self) -> Vec<Rule> {
        let server = vec![
            meta(Meta::Mark),
            masked(MARKS_MASK),
            compare(Comparison::Equal, MARKS),
            Expression::Immediate { to: Register(0), value: vec![0; 4] },
            Expression::SetMark(Register(0)),
            Expression::Verdict(Verdict::Accept),
        ];
        let masquerade = vec![
            meta(Meta::Mark),
            masked(self.masquerade_bit),
            compare(Comparison::Equal, self.masquerade_bit),
            meta(Meta::Mark),
            bits(!self.masquerade_bit, 0),
            Expression::SetMark(Register(0)),
        ];
        vec![server, masquerade]
    }
}

/// Answers that nobody is there.
fn refuse() -> Vec<Rule> {
    vec![
        vec![meta(Meta::Protocol), is_protocol(TCP), Expression::Refuse(Refusal::TcpReset)],
        vec![Expression::Refuse(Refusal::PortUnreachable)],
    ]
}

fn meta(key: Meta) -> Expression {
    Expression::Meta { key, to: Register(0) }
}

fn compare(by: Comparison, with: u32) -> Expression {
    Expression::Compare { from: Register(0), by, with: with.to_ne_bytes().to_vec() }
}

fn is_protocol(number: u8) -> Expression {
    Expression::Compare { from: Register(0), by: Comparison::Equal, with: vec![number] }
}

fn bits(mask: u32, xor: u32) -> Expression {
    let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
    Expression::Bitwise { from: Register(0), to: Register(0), mask, xor }
}

fn masked(mask: u32) -> Expression {
    bits(mask, 0)
}

fn lookup(set: &'static str, found: Found) -> Expression {
    Expression::Lookup { set: set.into(), key: Register(0), found }
}

fn goto(chain: &'static str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.into()))
}
