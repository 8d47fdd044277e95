//! What our tables look like but for their elements: sets, base chains, and the chains that pick.
//!
//! A packet's registers: the key of a frontend in 0 and up, and what `services` says of it, five
//! registers from [`Layout::value`] on. Each rule loads what it needs: the kernel promises nothing
//! about registers that another rule has written.

use super::{
    expression::{
        Base, Comparison, Expression, Found, Meta, Name, Refusal, Register, Track, Update, Verdict,
        status,
    },
    object::{Chain, ChainKind, Content, Hook, Rule, Seat, Set, SetKind, Type},
    treatment::{NO_LOCAL_ENDPOINT, Pick, Place, Plan, REFUSE, SOURCE_NOT_ALLOWED, Treatment},
};
use crate::model::{Family, Scope};

/// Frontend → service port, seconds of affinity, and the codes for host, pods and outside.
pub const SERVICES: &str = "services";
/// Seconds of affinity and a code → the chain, for frontends of one address.
pub const PLANS: &str = "plans";
/// The same for frontends of every address of the node.
pub const NODE_PLANS: &str = "node-plans";
/// View and index → endpoint.
pub const ENDPOINTS: &str = "endpoints";
/// Service port and client → the endpoint that the client stays with. Packets write it.
pub const AFFINITY: &str = "affinity";
/// View and endpoint, for service ports with affinity.
pub const MEMBERS: &str = "members";
/// Frontends whose Service has source ranges → service port.
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
const ENDPOINT4: &[Type] = &[Type::Address4, Type::Port];
const ENDPOINT6: &[Type] = &[Type::Address6, Type::Port];
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

    /// Behind the key of a frontend.
    const fn value(self) -> u8 {
        self.address() + 2
    }

    /// All sets and maps.
    pub fn sets(self) -> Vec<Set> {
        let of = |v4, v6| match self.family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let address = of(&ENDPOINT4[..1], &ENDPOINT6[..1]);
        let (frontend, endpoint) = (of(FRONTEND4, FRONTEND6), of(ENDPOINT4, ENDPOINT6));
        let (client, member) = (of(CLIENT4, CLIENT6), of(MEMBER4, MEMBER6));
        let dynamic = SetKind::Dynamic { size: AFFINITY_SIZE, timeout_ms: AFFINITY_TIMEOUT_MS };
        let set =
            |name: &'static str, key, content, kind| Set { name: name.into(), key, content, kind };
        let hash = SetKind::Hash;
        vec![
            set(SERVICES, frontend, Content::Data(NUMBERS), hash),
            set(PLANS, &NUMBERS[..2], Content::Verdict, hash),
            set(NODE_PLANS, &NUMBERS[..2], Content::Verdict, hash),
            set(ENDPOINTS, &NUMBERS[..2], Content::Data(endpoint), hash),
            set(AFFINITY, client, Content::Data(endpoint), dynamic),
            set(MEMBERS, member, Content::Nothing, hash),
            set(RANGED, frontend, Content::Data(&NUMBERS[..1]), hash),
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

    /// The chain of a plan, for those that pick an endpoint.
    pub fn pick(self, place: Place, plan: Plan) -> Option<Chain> {
        let Treatment::Pick(pick) = plan.treatment else { return None };
        let mut rules = Vec::new();
        if plan.affinity_s > 0 {
            let timeout_ms = u64::from(plan.affinity_s) * 1000;
            rules.push(self.stay(place, pick, timeout_ms));
            rules.push(self.choose_and_remember(place, pick, timeout_ms));
        }
        let random = Expression::Random { below: pick.among.into(), to: Register(1) };
        rules.push(self.choose(place, pick, random));
        if pick.among > 1 {
            // The number of endpoints and the endpoints are read one after the other. Should there
            // be fewer by then, the first one is still there.
            let first = Expression::Immediate { to: Register(1), value: vec![0; 4] };
            rules.push(self.choose(place, pick, first));
        }
        // The service has gone this moment; the client tries again.
        rules.push(vec![Expression::Verdict(Verdict::Drop)]);
        Some(Chain { name: plan.chain(place), seat: None, rules })
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

    /// Drops clients that the Service of a load balancer's frontend does not serve.
    fn check_source(self) -> Rule {
        let mut rule = self.frontend(Place::Address);
        rule.push(lookup(RANGED, Register(0), Found::Data(Register(0))));
        rule.push(number(Register(0), Register(0), 0));
        rule.push(self.ip_address(12, 8, 1));
        rule.push(lookup(SOURCE_RANGES, Register(0), Found::Missing));
        rule.push(Expression::Verdict(Verdict::Goto(SOURCE_NOT_ALLOWED.into())));
        rule
    }

    /// Finds the frontend and goes where its plan for this scope says.
    fn serve_at(self, place: Place, scope: Scope) -> Rule {
        let value = self.value();
        let (affinity, code) = match scope {
            Scope::Host => (value + 1, value + 2),
            Scope::Pod => (value + 1, value + 3),
            Scope::Outside => (value + 1, value + 4),
        };
        let mut rule = self.frontend(place);
        rule.push(lookup(SERVICES, Register(0), Found::Data(Register(value))));
        if code - affinity > 1 {
            rule.push(copy(Register(affinity), Register(code - 1)));
        }
        let plans = match place {
            Place::Address => PLANS,
            Place::Node => NODE_PLANS,
        };
        rule.push(lookup(plans, Register(code - 1), Found::Verdict));
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
        rule.push(lookup(SERVICES, Register(0), Found::Data(Register(0))));
        rule.push(view(Register(0), pick));
        rule.push(index);
        rule.push(lookup(ENDPOINTS, Register(0), Found::Data(Register(1))));
        rule.extend(self.translate(pick));
        rule
    }

    /// Loads service port and client to the registers behind the key, and the view to register 0.
    fn client(self, place: Place, pick: Pick) -> Rule {
        let value = Register(self.value());
        let mut rule = self.frontend(place);
        rule.push(lookup(SERVICES, Register(0), Found::Data(value)));
        rule.push(view(value, pick));
        rule.push(number(value, value, 0));
        rule.push(self.ip_address(12, 8, self.value() + 1));
        rule
    }

    fn remember(self, update: Update, timeout_ms: u64) -> Expression {
        let timeout_ms = match update {
            Update::Renew => Some(timeout_ms),
            // The kernel wants data for a map, whatever is done with it.
            Update::Remove => None,
        };
        let (key, data) = (Register(self.value()), Some(Register(1)));
        Expression::Update { set: AFFINITY.into(), update, key, data, timeout_ms }
    }

    /// Sends a client to its last endpoint, if that is still in the view.
    fn stay(self, place: Place, pick: Pick, timeout_ms: u64) -> Rule {
        let mut rule = self.client(place, pick);
        rule.push(lookup(AFFINITY, Register(self.value()), Found::Data(Register(1))));
        rule.push(lookup(MEMBERS, Register(0), Found::Nothing));
        rule.push(self.remember(Update::Renew, timeout_ms));
        rule.extend(self.translate(pick));
        rule
    }

    fn choose_and_remember(self, place: Place, pick: Pick, timeout_ms: u64) -> Rule {
        let mut rule = self.client(place, pick);
        rule.push(Expression::Random { below: pick.among.into(), to: Register(1) });
        rule.push(lookup(ENDPOINTS, Register(0), Found::Data(Register(1))));
        // Renewing keeps the endpoint of an element that is there.
        rule.push(self.remember(Update::Remove, timeout_ms));
        rule.push(self.remember(Update::Renew, timeout_ms));
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

fn copy(from: Register, to: Register) -> Expression {
    and_xor(from, to, u32::MAX, 0)
}

/// Puts the number of a view into register 0, from that of the service port.
fn view(service: Register, pick: Pick) -> Expression {
    number(service, Register(0), u32::from(pick.is_local))
}

/// The number of a service port, which is even, with this last bit. `nft` 1.0.6 cannot show a key
/// that begins with what was found in a map: it ends with a failed assertion.
fn number(from: Register, to: Register, last_bit: u32) -> Expression {
    and_xor(from, to, !1, last_bit)
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
