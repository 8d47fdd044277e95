//! What can be done with the first packet of a flow, as the number that maps hold and the chain that
//! does it.

use super::expression::Name;

/// What the clients of one scope get of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Treatment {
    /// An answer at once that nobody is there.
    Refuse,
    /// No answer, since only other nodes have endpoints.
    Drop,
    /// An endpoint.
    Pick(Pick),
}

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pick {
    /// Among how many; at least one and at most [`AMONG_MAX`].
    pub among: u32,
    /// Whether they are those of the local view.
    pub is_local: bool,
    /// Whether the source is replaced.
    pub masquerades: bool,
    /// Seconds for which a client stays with its endpoint; 0 for none.
    pub affinity_s: u32,
}

/// Which frontends a packet found its own among.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Those of one address.
    Address,
    /// Those of every address of the node.
    Node,
}

/// How many endpoints one view of a service port can have.
pub const AMONG_MAX: u32 = (1 << 13) - 1;
/// More than the day that Kubernetes allows.
const AFFINITY_MAX_S: u32 = (1 << 17) - 1;

const LOCAL: u32 = 1 << 13;
const MASQUERADE: u32 = 1 << 14;
const AFFINITY_SHIFT: u32 = 15;
/// Without endpoints the other bits mean something else.
const REFUSES: u32 = LOCAL;
const DROPS: u32 = MASQUERADE;

impl Treatment {
    /// The number that maps hold. No two treatments have the same.
    pub const fn code(self) -> u32 {
        match self {
            Self::Refuse => REFUSES,
            Self::Drop => DROPS,
            Self::Pick(Pick { among, is_local, masquerades, affinity_s }) => {
                let local = if is_local { LOCAL } else { 0 };
                let masquerade = if masquerades { MASQUERADE } else { 0 };
                let affinity =
                    if affinity_s > AFFINITY_MAX_S { AFFINITY_MAX_S } else { affinity_s };
                among & AMONG_MAX | local | masquerade | affinity << AFFINITY_SHIFT
            }
        }
    }

    /// The treatment of a number.
    pub const fn of(code: u32) -> Option<Self> {
        let among = code & AMONG_MAX;
        match code {
            REFUSES => Some(Self::Refuse),
            DROPS => Some(Self::Drop),
            _ if among == 0 => None,
            _ => Some(Self::Pick(Pick {
                among,
                is_local: code & LOCAL != 0,
                masquerades: code & MASQUERADE != 0,
                affinity_s: code >> AFFINITY_SHIFT,
            })),
        }
    }

    /// The chain that does it.
    pub fn chain(self, place: Place) -> Name {
        let pick = match self {
            Self::Refuse => return REFUSE.into(),
            Self::Drop => return NO_LOCAL_ENDPOINT.into(),
            Self::Pick(pick) => pick,
        };
        let node = match place {
            Place::Address => "",
            Place::Node => "node-",
        };
        let local = if pick.is_local { "-local" } else { "" };
        let masquerade = if pick.masquerades { "-masquerade" } else { "" };
        let among = pick.among;
        match pick.affinity_s {
            0 => format!("{node}pick-{among}{local}{masquerade}").into(),
            seconds => format!("{node}pick-{among}{local}{masquerade}-stay-{seconds}s").into(),
        }
    }
}

/// The chain that refuses.
pub const REFUSE: &str = "refuse";
/// The chain that drops what a load balancer should have sent to another node.
pub const NO_LOCAL_ENDPOINT: &str = "no-local-endpoint";
/// The chain that drops clients in none of a Service's source ranges.
pub const SOURCE_NOT_ALLOWED: &str = "source-not-allowed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_treatment_has_a_number_of_its_own() {
        let mut all = vec![Treatment::Refuse, Treatment::Drop];
        for among in [1, 2, 300, AMONG_MAX] {
            for affinity_s in [0, 1, 86_400] {
                for (is_local, masquerades) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    let pick = Pick { among, is_local, masquerades, affinity_s };
                    all.push(Treatment::Pick(pick));
                }
            }
        }
        for treatment in &all {
            assert_eq!(Treatment::of(treatment.code()), Some(*treatment));
        }
        for code in [0, LOCAL | MASQUERADE, 1 << 20] {
            assert_eq!(Treatment::of(code), None);
        }
    }
}
