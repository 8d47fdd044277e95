//! Tables of kube-proxy's nftables mode.

use super::{Act, Error, Leftover, Outcome};
use crate::netlink::{
    self, Attributes, Message, Socket, attributes,
    netfilter::{batch, family, message, parse, subsystem},
};

/// Its table, in either family.
const NAME: &str = "kube-proxy";
const FAMILIES: [(u8, &str); 2] = [(family::IPV4, "ip"), (family::IPV6, "ip6")];

const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const TABLE_NAME: u16 = 1;
const ACK: u16 = 0x4;

pub(super) fn kube_proxy(act: Act, outcome: &mut Outcome) {
    let failed = |what| move |source| Error::Tables { what, source };
    let found = match all() {
        Ok(found) => found,
        Err(error) => return outcome.failed.push(failed("list")(error)),
    };
    for (number, name) in FAMILIES {
        if !found.contains(&(number, NAME.to_owned())) {
            continue;
        }
        if act == Act::Remove
            && let Err(error) = delete(number)
        {
            outcome.failed.push(failed("delete")(error));
            continue;
        }
        let what = format!("nftables table {name} {NAME}");
        outcome.leftovers.push(Leftover { of: "kube-proxy".to_owned(), what });
    }
}

/// Family and name of every table, whoever has made it. Where there is no `nf_tables` there are none.
pub(super) fn all() -> Result<Vec<(u8, String)>, netlink::Error> {
    match names() {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        other => other,
    }
}

fn names() -> Result<Vec<(u8, String)>, netlink::Error> {
    let ask = message(subsystem::NFTABLES, GET_TABLE, family::UNSPEC, 0, Attributes::new());
    let tables = Socket::open(libc::NETLINK_NETFILTER)?.dump("list nftables tables", &ask)?;
    let name = |table: &netlink::Received| {
        let (family, body) = parse(table, subsystem::NFTABLES, NEW_TABLE)?;
        let name = attributes(body).find(|attribute| attribute.kind == TABLE_NAME)?;
        Some((family, name.text().to_owned()))
    };
    Ok(tables.iter().filter_map(name).collect())
}

fn delete(family: u8) -> Result<(), netlink::Error> {
    let mut attributes = Attributes::new();
    attributes.text(TABLE_NAME, NAME);
    let delete: Message = message(subsystem::NFTABLES, DELETE_TABLE, family, ACK, attributes);
    let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
    socket.transact("delete a table", batch(subsystem::NFTABLES, vec![delete]), 1)
}

fn is_absent(error: &netlink::Error) -> bool {
    matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EPROTONOSUPPORT))
}
