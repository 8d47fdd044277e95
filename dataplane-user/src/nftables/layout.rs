//! What our tables look like but for their elements: sets, base chains, and the chains that pick.
//!
//! A packet's registers: the key of a frontend in 0 and up, and behind it what `services` says of it.
//! Each rule loads what it needs: the kernel promises nothing about registers that another rule has
//! written.
//!
//! `nft` knows of what is found in a map only its first register, as something without a length. A
//! key that begins there makes version 1.0.6 end with a failed assertion when it lists the table.
//! So data begin with a field that is in no key, and the registers of the others are loaded with
//! something before ([`Layout::found`]).

use super::{
    expression::{
        Base, Comparison, Expression, Found, Meta, Name, Refusal, Register, Track, Update, Verdict,
        status,
    },
    object::{Chain, ChainKind, Content, Hook, Rule, Seat, Set, SetKind, Type},
    treatment::{NO_LOCAL_ENDPOINT, Pick, Place, REFUSE, SOURCE_NOT_ALLOWED, Treatment},
};
use crate::model::{Family, Scope};

/// Frontend → its kind, its service port, and the treatments of host, pods and outside.
pub const SERVICES: &str = "services";
/// Treatment → the chain, for frontends of one address.
pub const PLANS: &str = "plans";
/// The same for frontends of every address of the node.
pub const NODE_PLANS: &str = "node-plans";
/// View and index → the view again, and an endpoint.
pub const ENDPOINTS: &str = "endpoints";
/// Service port and client → the view, and the endpoint that the client stays with. Packets write it.
pub const AFFINITY: &str = "affinity";
/// View and endpoint, for service ports with affinity.
pub const MEMBERS: &str = "members";
/// Frontends whose Service has source ranges → nothing of interest, and their service port.
pub const RANGED: &str = "ranged";
/// Service port and clients that it serves.
pub const SOURCE_RANGES: &str = "source-ranges";
/// Every endpoint, as source and destination.
pub const HAIRPINS: &str = "hairpins";
/// Addresses whose other ports are refused.
pub const CLUSTER_IPS: &str = "cluster-ips";
/// Addresses with frontends on every address of the node.
pub const NODE_ADDRESSES: &str = "node-addresses";
/// Devices by which pods send.
pub const POD_LINKS: &str = "pod-links";
/// The loopback network, if it has frontends on every address of the node.
pub const LOOPBACK: &str = "loopback";

/// Clients that can stay with an endpoint at one time.
const AFFINITY_SIZE: u32 = 1 << 20;
/// Ten minutes; rules give a timeout of their own.
const AFFINITY_TIMEOUT_MS: u64 = 600_000;
/// The index of the loopback device, in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// The kernel's priorities for translating destination and source.
const DESTINATION: i32 = -100;
const SOURCE: i32 = 100;
/// Holds the mark while it is changed.
const MARK: Register = Register(15);
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

const FRONTEND4: &[Type] = &[Type::Address4, Type::Protocol, Type::Port];
const FRONTEND6: &[Type] = &[Type::Address6, Type::Protocol, Type::Port];
const CLIENT4: &[Type] = &[Type::Number, Type::Address4];
const CLIENT6: &[Type] = &[Type::Number, Type::Address6];
const MEMBER4: &[Type] = &[Type::Number, Type::Address4, Type::Port];
const MEMBER6: &[Type] = &[Type::Number, Type::Address6, Type::Port];
const PAIR4: &[Type] = &[Type::Address4, Type::Address4];
const PAIR6: &[Type] = &[Type::Address6, Type::Address6];
const NUMBERS: &[Type] = &[Type::Number; 5];

/// The shape of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The family of the table.
    pub family: Family,
    /// The bit of the mark that says "masquerade" between two hooks.
    pub masquerade_bit: u32,
}

impl Layout {
    /// How many registers an address takes.
    const fn address(self) -> u8 {
        match self.family {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    /// The register behind the key of a frontend: what is found for it goes there.
    const fn value(self) -> u8 {
        self.address() + 2
    }

    /// The register of the service port that was found.
    const fn service(self) -> Register {
        Register(self.value() + 1)
    }

    /// All sets and maps.
    pub fn sets(self) -> Vec<Set> {
        let of = |v4, v6| match self.family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let address = of(&FRONTEND4[..1], &FRONTEND6[..1]);
        let (frontend, client) = (of(FRONTEND4, FRONTEND6), of(CLIENT4, CLIENT6));
        let member = of(MEMBER4, MEMBER6);
        let dynamic = SetKind::Dynamic { size: AFFINITY_SIZE, timeout_ms: AFFINITY_TIMEOUT_MS };
        let set =
            |name: &'static str, key, content, kind| Set { name: name.into(), key, content, kind };
        let hash = SetKind::Hash;
        vec![
            set(SERVICES, frontend, Content::Data(NUMBERS), hash),
            set(PLANS, &NUMBERS[..1], Content::Verdict, hash),
            set(NODE_PLANS, &NUMBERS[..1], Content::Verdict, hash),
            set(ENDPOINTS, &NUMBERS[..2], Content::Data(member), hash),
            set(AFFINITY, client, Content::Data(member), dynamic),
            set(MEMBERS, member, Content::Nothing, hash),
            set(RANGED, frontend, Content::Data(&NUMBERS[..2]), hash),
            set(SOURCE_RANGES, client, Content::Nothing, SetKind::Ranges),
            set(HAIRPINS, of(PAIR4, PAIR6), Content::Nothing, hash),
            set(CLUSTER_IPS, address, Content::Nothing, hash),
            set(NODE_ADDRESSES, address, Content::Nothing, hash),
            set(POD_LINKS, &[Type::Device], Content::Nothing, hash),
            set(LOOPBACK, address, Content::Nothing, hash),
        ]
    }

    /// All chains that are always there; those that others lead to come first.
    pub fn chains(self) -> Vec<Chain> {
        let chain = |name: &'static str, rules| Chain { name: name.into(), seat: None, rules };
        let base = |name: &'static str, hook, priority, rules| Chain {
            name: name.into(),
            seat: Some(Seat { kind: ChainKind::Nat, hook, priority }),
            rules,
        };
        let dropped = || vec![vec![Expression::Counter, Expression::Verdict(Verdict::Drop)]];
        let goto = |chain: &'static str| Expression::Verdict(Verdict::Goto(chain.into()));
        let from_pod = vec![
            Expression::Meta { key: Meta::InputName, to: Register(0) },
            lookup(POD_LINKS, Register(0), Found::Nothing),
            goto(FROM_PODS),
        ];
        let mut prerouting = vec![from_pod, vec![goto(FROM_OUTSIDE)]];
        prerouting.splice(0..0, self.guard());
        vec![
            chain(REFUSE, refuse()),
            chain(NO_LOCAL_ENDPOINT, dropped()),
            chain(SOURCE_NOT_ALLOWED, dropped()),
            chain(FROM_PODS, self.serve(Scope::Pod)),
            chain(FROM_OUTSIDE, self.serve(Scope::Outside)),
            base("prerouting", Hook::Prerouting, DESTINATION, prerouting),
            base("output", Hook::Output, DESTINATION, self.serve(Scope::Host)),
            base("postrouting", Hook::Postrouting, SOURCE, self.postrouting()),
        ]
    }

    /// The chain of a treatment, for those that pick an endpoint.
    pub fn pick(self, place: Place, treatment: Treatment) -> Option<Chain> {
        let Treatment::Pick(pick) = treatment else { return None };
        let mut rules = Vec::new();
        if pick.affinity_s > 0 {
            rules.push(self.stay(place, pick));
            rules.push(self.choose_and_remember(place, pick));
        }
        let random = Expression::Random { below: pick.among, to: Register(1) };
        rules.push(self.choose(place, pick, random));
        if pick.among > 1 {
            // The number of endpoints and the endpoints are read one after the other. Should there
            // be fewer by then, the first one is still there.
            let first = Expression::Immediate { to: Register(1), value: vec![0; 4] };
            rules.push(self.choose(place, pick, first));
        }
        // The service has gone this moment; the client tries again.
        rules.push(vec![Expression::Verdict(Verdict::Drop)]);
        Some(Chain { name: treatment.chain(place), seat: None, rules })
    }

    fn source(self) -> Expression {
        self.ip_address(12, 8, 0)
    }

    fn destination(self) -> Expression {
        self.ip_address(16, 24, 0)
    }

    fn ip_address(self, offset4: u32, offset6: u32, to: u8) -> Expression {
        let offset = match self.family {
            Family::V4 => offset4,
            Family::V6 => offset6,
        };
        let len = u32::from(self.address()) * 4;
        Expression::Payload { base: Base::Network, offset, len, to: Register(to) }
    }

    /// Loads protocol and port, behind the address in register 0.
    fn port(self) -> [Expression; 2] {
        let to = self.address();
        [
            Expression::Meta { key: Meta::Protocol, to: Register(to) },
            Expression::Payload { base: Base::Transport, offset: 2, len: 2, to: Register(to + 1) },
        ]
    }

    /// Loads the key of the packet's frontend.
    fn frontend(self, place: Place) -> Vec<Expression> {
        let address = match place {
            Place::Address => self.destination(),
            Place::Node => Expression::Immediate {
                to: Register(0),
                value: vec![0; usize::from(self.address()) * 4],
            },
        };
        std::iter::once(address).chain(self.port()).collect()
    }

    /// What is done with the first packets of one scope.
    fn serve(self, scope: Scope) -> Vec<Rule> {
        let mut rules = vec![self.check_source(), self.serve_at(Place::Address, scope)];
        if scope == Scope::Host && self.family == Family::V4 {
            let mut rule = vec![self.destination(), network(Register(0))];
            rule.push(lookup(LOOPBACK, Register(0), Found::Nothing));
            let mut steps = self.serve_at(Place::Node, scope);
            // Nobody else could answer a loopback address.
            let plan = steps.pop();
            rule.extend(steps);
            rule.extend(self.mark());
            rule.extend(plan);
            rules.push(rule);
        }
        let mut rule =
            vec![self.destination(), lookup(NODE_ADDRESSES, Register(0), Found::Nothing)];
        rule.extend(self.serve_at(Place::Node, scope));
        rules.push(rule);
        rules.push(vec![
            self.destination(),
            lookup(CLUSTER_IPS, Register(0), Found::Nothing),
            Expression::Verdict(Verdict::Goto(REFUSE.into())),
        ]);
        rules
    }

    /// Looks the frontend up in `map`; `used` is the register of the result that a key begins with.
    fn found(self, map: &'static str, used: Register) -> [Expression; 2] {
        let found = Found::Data(Register(self.value()));
        [Expression::Meta { key: Meta::Mark, to: used }, lookup(map, Register(0), found)]
    }

    /// Drops clients that the Service of a load balancer's frontend does not serve.
    fn check_source(self) -> Rule {
        let mut rule = self.frontend(Place::Address);
        rule.extend(self.found(RANGED, self.service()));
        rule.push(self.ip_address(12, 8, self.service().0 + 1));
        rule.push(lookup(SOURCE_RANGES, self.service(), Found::Missing));
        rule.push(Expression::Verdict(Verdict::Goto(SOURCE_NOT_ALLOWED.into())));
        rule
    }

    /// Finds the frontend and goes where its treatment for this scope says.
    fn serve_at(self, place: Place, scope: Scope) -> Rule {
        let behind = match scope {
            Scope::Host => 1,
            Scope::Pod => 2,
            Scope::Outside => 3,
        };
        let code = Register(self.service().0 + behind);
        let plans = match place {
            Place::Address => PLANS,
            Place::Node => NODE_PLANS,
        };
        let mut rule = self.frontend(place);
        rule.extend(self.found(SERVICES, code));
        rule.push(lookup(plans, code, Found::Verdict));
        rule
    }

    /// Sets the bit that says "masquerade".
    fn mark(self) -> [Expression; 3] {
        [
            Expression::Meta { key: Meta::Mark, to: MARK },
            and_xor(MARK, MARK, !self.masquerade_bit, self.masquerade_bit),
            Expression::SetMark(MARK),
        ]
    }

    /// Clears the bit that says "masquerade".
    fn unmark(self) -> [Expression; 3] {
        [
            Expression::Meta { key: Meta::Mark, to: MARK },
            and_xor(MARK, MARK, !self.masquerade_bit, 0),
            Expression::SetMark(MARK),
        ]
    }

    /// Sends the connection to the endpoint whose address is in register 1.
    fn translate(self, pick: Pick) -> Vec<Expression> {
        let mut steps = Vec::new();
        if pick.masquerades {
            steps.extend(self.mark());
        }
        let port = Some(Register(1 + self.address()));
        steps.push(Expression::Dnat { address: Register(1), port });
        steps
    }

    /// Picks an endpoint by the number that `index` puts into register 1.
    fn choose(self, place: Place, pick: Pick, index: Expression) -> Rule {
        let mut rule = self.frontend(place);
        rule.extend(self.found(SERVICES, self.service()));
        rule.push(self.view(pick, Register(0)));
        rule.push(index);
        rule.push(lookup(ENDPOINTS, Register(0), Found::Data(Register(0))));
        rule.extend(self.translate(pick));
        rule
    }

    /// Loads the number of a view: that of the service port, which is even, or the next one.
    fn view(self, pick: Pick, to: Register) -> Expression {
        and_xor(self.service(), to, !1, u32::from(pick.is_local))
    }

    /// Finds the service port, and loads the client behind it.
    fn client(self, place: Place) -> Rule {
        let mut rule = self.frontend(place);
        rule.extend(self.found(SERVICES, self.service()));
        rule.push(self.ip_address(12, 8, self.service().0 + 1));
        rule
    }

    fn remember(self, update: Update, pick: Pick) -> Expression {
        let timeout_ms = match update {
            Update::Renew => Some(u64::from(pick.affinity_s) * 1000),
            Update::Remove => None,
        };
        // The kernel wants data for a map, whatever is done with it.
        let data = Some(Register(0));
        Expression::Update { set: AFFINITY.into(), update, key: self.service(), data, timeout_ms }
    }

    /// Sends a client to its last endpoint, if that is still in the view.
    fn stay(self, place: Place, pick: Pick) -> Rule {
        let mut rule = self.client(place);
        rule.push(self.ip_address(12, 8, 1));
        rule.push(lookup(AFFINITY, self.service(), Found::Data(Register(0))));
        // The client may have found its endpoint in the other view.
        rule.push(self.view(pick, Register(0)));
        rule.push(lookup(MEMBERS, Register(0), Found::Nothing));
        rule.push(self.remember(Update::Renew, pick));
        rule.extend(self.translate(pick));
        rule
    }

    fn choose_and_remember(self, place: Place, pick: Pick) -> Rule {
        let mut rule = self.client(place);
        rule.push(self.view(pick, Register(13)));
        rule.push(Expression::Random { below: pick.among, to: Register(14) });
        // For `nft`, as above: the endpoint's address is as long, and its view is the same.
        rule.push(self.ip_address(12, 8, 1));
        rule.push(lookup(ENDPOINTS, Register(13), Found::Data(Register(0))));
        rule.push(self.view(pick, Register(0)));
        // Renewing would keep the endpoint of an element that is there.
        rule.push(self.remember(Update::Remove, pick));
        rule.push(self.remember(Update::Renew, pick));
        rule.extend(self.translate(pick));
        rule
    }

    /// Drops what comes from another device for a loopback address, which the sysctl that loopback
    /// frontends need would let in.
    fn guard(self) -> Option<Rule> {
        let rule = || {
            vec![
                self.destination(),
                network(Register(0)),
                lookup(LOOPBACK, Register(0), Found::Nothing),
                Expression::Meta { key: Meta::InputIndex, to: Register(0) },
                compare(Comparison::NotEqual, LOOPBACK_INDEX),
                Expression::Counter,
                Expression::Verdict(Verdict::Drop),
            ]
        };
        (self.family == Family::V4).then(rule)
    }

    fn postrouting(self) -> Vec<Rule> {
        // What stays on this host keeps its source.
        let mut stays = vec![
            Expression::Meta { key: Meta::OutputIndex, to: Register(0) },
            compare(Comparison::Equal, LOOPBACK_INDEX),
        ];
        stays.extend(self.unmark());
        stays.push(Expression::Verdict(Verdict::Accept));
        let bit = self.masquerade_bit;
        let mut marked = vec![
            Expression::Meta { key: Meta::Mark, to: Register(0) },
            and_xor(Register(0), Register(0), bit, 0),
            compare(Comparison::Equal, bit),
        ];
        marked.extend(self.unmark());
        marked.push(Expression::Masquerade);
        let hairpin = vec![
            Expression::Track { key: Track::Status, to: Register(0) },
            and_xor(Register(0), Register(0), status::DNAT, 0),
            compare(Comparison::NotEqual, 0),
            self.source(),
            self.ip_address(16, 24, self.address()),
            lookup(HAIRPINS, Register(0), Found::Nothing),
            Expression::Masquerade,
        ];
        vec![stays, marked, hairpin]
    }
}

/// The chain of packets that pods of this node send.
const FROM_PODS: &str = "from-pods";
/// The chain of packets that arrive by other devices.
const FROM_OUTSIDE: &str = "from-outside";

fn lookup(set: &'static str, key: Register, found: Found) -> Expression {
    Expression::Lookup { set: Name::from(set), key, found }
}

fn and_xor(from: Register, to: Register, mask: u32, xor: u32) -> Expression {
    let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
    Expression::Bitwise { from, to, mask, xor }
}

fn compare(by: Comparison, with: u32) -> Expression {
    Expression::Compare { from: Register(0), by, with: with.to_ne_bytes().to_vec() }
}

/// Leaves the first byte of an IPv4 address.
fn network(at: Register) -> Expression {
    Expression::Bitwise { from: at, to: at, mask: vec![255, 0, 0, 0], xor: vec![0; 4] }
}

fn refuse() -> Vec<Rule> {
    let of = |protocol, refusal| {
        vec![
            Expression::Meta { key: Meta::Protocol, to: Register(0) },
            Expression::Compare { from: Register(0), by: Comparison::Equal, with: vec![protocol] },
            Expression::Counter,
            Expression::Refuse(refusal),
        ]
    };
    vec![
        of(TCP, Refusal::TcpReset),
        of(UDP, Refusal::PortUnreachable),
        of(SCTP, Refusal::PortUnreachable),
    ]
}
