//! Which frontend a destination is, if any.

use dataplane_common::{Frontend, FrontendKey, gate};

use crate::{
    address::Ip,
    tables::{Ports, Tables},
};

/// Where a packet or a socket wants to go.
#[derive(Clone, Copy, Debug)]
pub struct Destination<const N: usize> {
    /// The address.
    pub addr: [u8; N],
    /// The port, in the machine's order.
    pub port: u16,
    /// The IANA protocol number.
    pub protocol: u8,
    /// Whose the loopback addresses are, seen from there.
    pub loopback: Loopback,
}

/// Whose the loopback addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// The client's own, or nobody's: never a frontend.
    Foreign,
    /// The node's. Frontends on every node address are not there.
    Node,
    /// The node's. Frontends on every node address are there too.
    NodePorts,
}

/// Why a destination has no frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It is nobody's.
    NotAService,
    /// A service owns the address, but none has this port.
    Unmapped,
}

/// The frontend of a destination: that of its address before that of every node address.
#[inline(always)]
pub fn frontend<T, const N: usize>(
    tables: &T,
    ports: &Ports,
    to: &Destination<N>,
) -> Result<Frontend, Miss>
where
    T: Tables<N>,
    [u8; N]: Ip,
{
    let is_loopback = to.addr.is_loopback();
    if is_loopback && to.loopback == Loopback::Foreign {
        return Err(Miss::NotAService);
    }
    let (word, mask) = gate::bit(&to.addr);
    let may_be_frontend = tables.gate(word, mask);
    if may_be_frontend
        && let Some(frontend) = tables.frontend(&FrontendKey::new(to.addr, to.port, to.protocol))
    {
        return Ok(frontend);
    }
    if ports.is_node(to.port)
        && (tables.is_node_address(&to.addr) || (is_loopback && to.loopback == Loopback::NodePorts))
        && let Some(frontend) =
            tables.frontend(&FrontendKey::any_node_address(to.port, to.protocol))
    {
        return Ok(frontend);
    }
    // Port and protocol 0 mark an address that belongs to a service as a whole.
    if may_be_frontend && tables.frontend(&FrontendKey::new(to.addr, 0, 0)).is_some() {
        return Err(Miss::Unmapped);
    }
    Err(Miss::NotAService)
}
