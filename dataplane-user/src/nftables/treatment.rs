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
    /// Among how many; at least one.
    pub among: u16,
    /// Whether they are those of the local view.
    pub is_local: bool,
    /// Whether the source is replaced.
    pub masquerades: bool,
}

/// What maps hold: a treatment, beside the seconds of session affinity of the service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plan {
    /// What is done.
    pub treatment: Treatment,
    /// Seconds for which a client stays with its endpoint; 0 for none, and where nothing is picked.
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

impl Treatment {
    const REFUSE: u32 = 1 << 18;
    const DROP: u32 = 1 << 19;
    const LOCAL: u32 = 1 << 16;
    const MASQUERADE: u32 = 1 << 17;

    /// The number that maps hold. No two treatments have the same.
    pub const fn code(self) -> u32 {
        match self {
            Self::Refuse => Self::REFUSE,
            Self::Drop => Self::DROP,
            Self::Pick(Pick { among, is_local, masquerades }) => {
                let local = if is_local { Self::LOCAL } else { 0 };
                let masquerade = if masquerades { Self::MASQUERADE } else { 0 };
                among as u32 | local | masquerade
            }
        }
    }

    /// The treatment of a number.
    pub const fn of(code: u32) -> Option<Self> {
        match code {
            Self::REFUSE => Some(Self::Refuse),
            Self::DROP => Some(Self::Drop),
            _ => {
                #[expect(clippy::cast_possible_truncation, reason = "the rest are other bits")]
                let among = code as u16;
                if among == 0 || code >= Self::REFUSE {
                    return None;
                }
                let is_local = code & Self::LOCAL != 0;
                let masquerades = code & Self::MASQUERADE != 0;
                Some(Self::Pick(Pick { among, is_local, masquerades }))
            }
        }
    }
}

impl Plan {
    /// The chain that does it.
    pub fn chain(self, place: Place) -> Name {
        let Treatment::Pick(pick) = self.treatment else {
            return match self.treatment {
                Treatment::Refuse => REFUSE.into(),
                Treatment::Drop | Treatment::Pick(_) => NO_LOCAL_ENDPOINT.into(),
            };
        };
        let node = match place {
            Place::Address => "",
            Place::Node => "node-",
        };
        let local = if pick.is_local { "-local" } else { "" };
        let masquerade = if pick.masquerades { "-masquerade" } else { "" };
        let among = pick.among;
        match self.affinity_s {
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
        for among in [1, 2, 300, u16::MAX] {
            for (is_local, masquerades) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                all.push(Treatment::Pick(Pick { among, is_local, masquerades }));
            }
        }
        for treatment in &all {
            assert_eq!(Treatment::of(treatment.code()), Some(*treatment));
        }
        for code in [0, 1 << 16, 1 << 20, (1 << 18) | 1] {
            assert_eq!(Treatment::of(code), None);
        }
    }
}
