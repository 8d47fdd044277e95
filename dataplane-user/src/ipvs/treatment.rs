//! What becomes of a new connection to a frontend before IPVS sees it, by where the client is.

use std::fmt;

use crate::model::{Clients, FrontendKind, PortState, Scope, Served, TrafficPolicy};

/// What becomes of a new connection of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// IPVS serves it; the endpoint sees the client.
    Serve,
    /// IPVS serves it; the endpoint sees the node, unless it is the node itself.
    Masquerade,
    /// It is refused at once.
    Refuse,
    /// It is dropped.
    Drop,
}

impl Action {
    const fn letter(self) -> char {
        match self {
            Self::Serve => 's',
            Self::Masquerade => 'm',
            Self::Refuse => 'r',
            Self::Drop => 'd',
        }
    }

    /// Whether IPVS gets it.
    pub const fn is_served(self) -> bool {
        match self {
            Self::Serve | Self::Masquerade => true,
            Self::Refuse | Self::Drop => false,
        }
    }

    const fn of(clients: Clients) -> Self {
        match (clients.served, clients.masquerade) {
            (Served::By(_), true) => Self::Masquerade,
            (Served::By(_), false) => Self::Serve,
            (Served::Refused, _) => Self::Refuse,
            (Served::Dropped, _) => Self::Drop,
        }
    }
}

/// What becomes of new connections to a frontend. Each kind has a chain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Treatment {
    /// Only clients in the frontend's source ranges get on.
    pub ranged: bool,
    /// Clients on this node get a mark, by which IPVS finds another virtual server than by address.
    pub marked: bool,
    /// Processes of the host.
    pub host: Action,
    /// Pods of this node.
    pub pod: Action,
    /// Everybody else.
    pub outside: Action,
}

use Action::{Drop, Masquerade, Refuse, Serve};

/// Actions for the host, pods and outside that [`Treatment::of`] may give.
const ACTIONS: [[Action; 3]; 9] = [
    [Masquerade, Serve, Masquerade],
    [Masquerade, Masquerade, Masquerade],
    [Masquerade, Serve, Serve],
    [Masquerade, Serve, Refuse],
    [Masquerade, Serve, Drop],
    [Refuse, Refuse, Serve],
    [Refuse, Refuse, Refuse],
    [Refuse, Refuse, Drop],
    [Drop, Drop, Drop],
];

impl Treatment {
    /// Every one that can occur.
    pub fn all() -> impl Iterator<Item = Self> {
        ACTIONS.into_iter().flat_map(|[host, pod, outside]| {
            let may_be_marked = pod.is_served() && outside.is_served();
            let of = move |ranged, marked| Self { ranged, marked, host, pod, outside };
            [of(false, false), of(true, false), of(false, true), of(true, true)]
                .into_iter()
                .filter(move |it| !it.marked || may_be_marked)
        })
    }

    /// That of a frontend of this kind.
    pub fn of(state: &PortState, kind: FrontendKind) -> Self {
        let action = |scope| Action::of(state.clients(kind, scope));
        // Whatever address a process of the host has bound, or got for connecting to an address
        // that is the host's own, answers must find the way back to this node.
        let host = match action(Scope::Host) {
            Serve | Masquerade => Masquerade,
            Refuse => Refuse,
            Drop => Drop,
        };
        Self {
            ranged: kind == FrontendKind::LoadBalancer && state.source_ranges.is_some(),
            marked: split(state, kind).is_some(),
            host,
            pod: action(Scope::Pod),
            outside: action(Scope::Outside),
        }
    }

    /// What becomes of a new connection of this scope.
    pub const fn action(&self, scope: Scope) -> Action {
        match scope {
            Scope::Host => self.host,
            Scope::Pod => self.pod,
            Scope::Outside => self.outside,
        }
    }

    /// The same, but without a mark unless there is one.
    pub(super) const fn marked_if(self, has_mark: bool) -> Self {
        Self { marked: self.marked && has_mark, ..self }
    }

    /// The name of its chain.
    pub fn chain(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [host, pod, outside] = [self.host, self.pod, self.outside].map(Action::letter);
        write!(f, "clients-{host}{pod}{outside}")?;
        f.write_str(if self.ranged { "-ranges" } else { "" })?;
        f.write_str(if self.marked { "-mark" } else { "" })
    }
}

/// The view that the virtual server found by address gives, and the one found by mark if clients on
/// this node get another one. Those outside have the better half, since IPVS cannot keep a client
/// with its endpoint if the server has a mark and the endpoint another port than the frontend.
pub fn views(
    state: &PortState,
    kind: FrontendKind,
) -> (Option<TrafficPolicy>, Option<TrafficPolicy>) {
    let of = |scope| match state.clients(kind, scope).served {
        Served::By(policy) => Some(policy),
        Served::Refused | Served::Dropped => None,
    };
    let (inside, outside) = (of(Scope::Pod), of(Scope::Outside));
    (outside.or(inside), split(state, kind))
}

/// The view of clients on this node, if it is not that of those outside.
fn split(state: &PortState, kind: FrontendKind) -> Option<TrafficPolicy> {
    let of = |scope| match state.clients(kind, scope).served {
        Served::By(policy) => Some(policy),
        Served::Refused | Served::Dropped => None,
    };
    let (inside, outside) = (of(Scope::Pod)?, of(Scope::Outside)?);
    let differ = inside != outside && !state.view(inside).eq(state.view(outside));
    differ.then_some(inside)
}

/// The mark of IPVS's clients on this node, for a server with this number.
pub const fn mark(number: u16) -> u32 {
    MARKS | number as u32
}

/// The upper half of all our marks. IPVS compares the whole mark of a packet, so it must be one that
/// nobody else uses.
pub const MARKS: u32 = 0x6870_0000;
/// The bits of a mark that say whether it is one of ours.
pub const MARKS_MASK: u32 = 0xffff_0000;
/// The bit that asks for another source address, as kube-proxy has it.
pub const MASQUERADE: u32 = 0x4000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn chains_have_names_of_their_own_that_nftables_takes() {
        let names: BTreeSet<String> = Treatment::all().map(|it| it.chain()).collect();
        assert_eq!(names.len(), Treatment::all().count());
        assert!(names.iter().all(|name| name.len() < 32), "{names:?}");
    }
}
