//! The chains of one service port, and what the chains of addresses need to know of it.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    fixed::Fixed,
    names::Chain,
    rule::{Match, Rule, Table, Target},
};
use crate::model::{
    Cidr, Endpoint, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortState,
    Protocol, Scope, Served, TrafficPolicy,
};

/// A table and a chain in it.
pub(super) type Place = (Table, Chain);

/// A frontend, as the chain of its address has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Front {
    /// Whose it is, for comments.
    pub(super) owner: Arc<str>,
    pub(super) kind: FrontendKind,
    /// Where those go who are served; `None` if nobody is.
    pub(super) to: Option<Chain>,
    /// The chain of the source ranges, in the table `filter`.
    pub(super) firewall: Option<Chain>,
    /// What those get who are not served, in whatever scope.
    pub(super) unserved: Option<Unserved>,
}

/// What clients get that no endpoint serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    Refused,
    Dropped,
}

/// What one service port adds to a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) chains: BTreeMap<Place, Vec<Rule>>,
    pub(super) fronts: Vec<(FrontendAddress, Protocol, u16, Front)>,
}

/// Compiles one service port.
pub(super) fn part(fixed: &Fixed, key: &PortKey, state: &PortState) -> Part {
    Compiler { fixed, key, state, owner: owner(key), part: Part::default() }.compile()
}

/// What comments call the service port: nothing in it ends a comment or a line.
pub(super) fn owner(key: &PortKey) -> Arc<str> {
    /// What a comment takes, less the longest text behind the name.
    const LEN_MAX: usize = 200;
    let mut text = format!("{}/{}", key.namespace, key.service);
    if !key.port.is_empty() {
        text = format!("{text}:{}", key.port);
    }
    let plain =
        |of: char| if of.is_ascii_alphanumeric() || "-._/:".contains(of) { of } else { '_' };
    text.chars().map(plain).take(LEN_MAX).collect::<String>().into()
}

struct Compiler<'a> {
    fixed: &'a Fixed,
    key: &'a PortKey,
    state: &'a PortState,
    owner: Arc<str>,
    part: Part,
}

impl Compiler<'_> {
    fn compile(mut self) -> Part {
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            if self.is_used(policy) {
                self.view(policy);
            }
        }
        for frontend in &self.state.frontends {
            let front = self.front(frontend);
            self.part.fronts.push((frontend.address, frontend.protocol, frontend.port, front));
        }
        self.part
    }

    fn served(&self, kind: FrontendKind, scope: Scope) -> Option<TrafficPolicy> {
        match self.state.clients(kind, scope).served {
            Served::By(policy) => Some(policy),
            Served::Refused | Served::Dropped => None,
        }
    }

    /// Whether any client of any frontend gets this view.
    fn is_used(&self, policy: TrafficPolicy) -> bool {
        let kinds = self.state.frontends.iter().map(|frontend| frontend.kind);
        let kinds = kinds.filter(|kind| !self.is_closed(*kind));
        let mut all = kinds.flat_map(|kind| SCOPES.map(|scope| (kind, scope)));
        all.any(|(kind, scope)| self.served(kind, scope) == Some(policy))
    }

    /// Whether source ranges keep everybody out.
    fn is_closed(&self, kind: FrontendKind) -> bool {
        let ranges = self.state.source_ranges.as_ref();
        kind == FrontendKind::LoadBalancer && ranges.is_some_and(Vec::is_empty)
    }

    fn view_chain(&self, policy: TrafficPolicy) -> Chain {
        let kind = match policy {
            TrafficPolicy::Cluster => "SVC",
            TrafficPolicy::Local => "SVL",
        };
        self.fixed.names.port(kind, self.key)
    }

    /// The chain that chooses an endpoint of a view, and those of the endpoints.
    fn view(&mut self, policy: TrafficPolicy) {
        let mut rules = Vec::new();
        // Cluster IPs share the chain with all others: only their clients outside are masqueraded.
        for frontend in &self.state.frontends {
            if let (FrontendKind::ClusterIp, FrontendAddress::Ip(address)) =
                (frontend.kind, frontend.address)
                && self.served(frontend.kind, Scope::Outside) == Some(policy)
            {
                let rule = Rule::jump(&self.fixed.mark_outside).to(Cidr::of(address));
                rules.push(
                    rule.protocol(frontend.protocol)
                        .comment(&self.owner, "cluster IP, from outside")
                        .with(Match::Ports(frontend.port, frontend.port)),
                );
            }
        }
        let endpoints: Vec<&Endpoint> = self.state.view(policy).collect();
        let chains: Vec<Chain> =
            endpoints.iter().map(|of| self.fixed.names.endpoint(self.key, of)).collect();
        if let Some(seconds) = self.state.affinity_s {
            let family = self.key.family;
            for list in &chains {
                let check = Match::RecentCheck { list: list.clone(), seconds, family };
                rules.push(Rule::jump(list).comment(&self.owner, "affinity").with(check));
            }
        }
        for (at, chain) in chains.iter().enumerate() {
            let mut rule = Rule::jump(chain).comment(&self.owner, "");
            let left = u32::try_from(chains.len() - at).unwrap_or(u32::MAX);
            if left > 1 {
                rule = rule.with(Match::Random(one_of(left)));
            }
            rules.push(rule);
        }
        for (endpoint, chain) in endpoints.into_iter().zip(chains) {
            self.endpoint(endpoint, chain);
        }
        self.part.chains.insert((Table::Nat, self.view_chain(policy)), rules);
    }

    fn endpoint(&mut self, endpoint: &Endpoint, chain: Chain) {
        let family = self.key.family;
        let Some(protocol) = self.state.frontends.first().map(|frontend| frontend.protocol) else {
            return;
        };
        let mut rules = Vec::new();
        // The host's own answers itself by whatever source: nothing has to come back through here.
        if endpoint.placement != Placement::Host {
            let rule = Rule::jump(&self.fixed.mark).from(Cidr::of(endpoint.address));
            rules.push(rule.comment(&self.owner, "hairpin"));
        }
        let to = std::net::SocketAddr::new(endpoint.address, endpoint.port);
        let mut rule = Rule::new(Target::Dnat(to)).protocol(protocol).comment(&self.owner, "");
        if self.state.affinity_s.is_some() {
            rule = rule.with(Match::RecentSet { list: chain.clone(), family });
        }
        rules.push(rule);
        self.part.chains.insert((Table::Nat, chain), rules);
    }

    fn front(&mut self, frontend: &Frontend) -> Front {
        let kind = frontend.kind;
        let mut to = if self.is_closed(kind) { None } else { self.clients_chain(kind) };
        let mut firewall = None;
        if let (FrontendKind::LoadBalancer, Some(ranges)) = (kind, &self.state.source_ranges) {
            let chain = self.fixed.names.port("FW", self.key);
            let rule =
                |of: Rule, range: &Cidr| of.from(*range).comment(&self.owner, "source range");
            if let Some(next) = &to {
                let rules = ranges.iter().map(|range| rule(Rule::goto(next), range)).collect();
                self.part.chains.insert((Table::Nat, chain.clone()), rules);
                to = Some(chain.clone());
            }
            let returns = ranges.iter().map(|range| rule(Rule::new(Target::Return), range));
            let drop = Rule::new(Target::Drop).comment(&self.owner, "in no source range");
            let rules = returns.chain([drop]).collect();
            self.part.chains.insert((Table::Filter, chain.clone()), rules);
            firewall = Some(chain);
        }
        Front { owner: self.owner.clone(), kind, to, firewall, unserved: self.unserved(kind) }
    }

    /// What they get who are not served. Who is refused in one scope and dropped in another does not
    /// come up: nobody is dropped unless the node's own clients are served.
    fn unserved(&self, kind: FrontendKind) -> Option<Unserved> {
        let of = |scope| match self.state.clients(kind, scope).served {
            Served::By(_) => None,
            Served::Refused => Some(Unserved::Refused),
            Served::Dropped => Some(Unserved::Dropped),
        };
        SCOPES.into_iter().find_map(of)
    }

    /// Where the clients of a frontend go first.
    fn clients_chain(&mut self, kind: FrontendKind) -> Option<Chain> {
        let [host, pod, outside] =
            SCOPES.map(|scope| self.served(kind, scope).map(|policy| self.view_chain(policy)));
        let masquerade = |scope| self.state.clients(kind, scope).masquerade;
        match kind {
            // Whom to masquerade is said in the view's chain, as far as there is somebody.
            FrontendKind::ClusterIp | FrontendKind::HostPort => return outside,
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {}
        }
        let mut rules = Vec::new();
        if (&host, &pod) == (&pod, &outside) {
            let next = outside?;
            if masquerade(Scope::Outside) {
                rules.push(Rule::jump(&self.fixed.mark).comment(&self.owner, "from anywhere"));
            }
            rules.push(Rule::goto(&next));
        } else {
            // The bit has another meaning in here: set are those who come from this node. Packets of
            // the host have it already, and keep it.
            let is_set = |set| Match::Mark { mask: self.fixed.mask, set };
            let go = |to: Option<Chain>| to.map_or(Target::Return, Target::Goto);
            rules
                .push(Rule::new(go(host)).comment(&self.owner, "from the host").with(is_set(true)));
            rules.push(Rule::jump(&self.fixed.mark_pods).comment(&self.owner, "from pods"));
            rules.push(
                Rule::new(go(outside)).comment(&self.owner, "from outside").with(is_set(false)),
            );
            rules.push(Rule::new(Target::ClearMark(self.fixed.mask)));
            rules.push(Rule::new(go(pod)));
        }
        let chain = self.fixed.names.port("EXT", self.key);
        self.part.chains.insert((Table::Nat, chain.clone()), rules);
        Some(chain)
    }
}

const SCOPES: [Scope; 3] = [Scope::Host, Scope::Pod, Scope::Outside];

/// As many of 2³¹ as one of `count` is.
fn one_of(count: u32) -> u32 {
    let half = u64::from(count / 2);
    u32::try_from(((1u64 << 31) + half) / u64::from(count)).unwrap_or(u32::MAX)
}
