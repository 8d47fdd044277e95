//! What netlink says about links, addresses and default routes.

use std::{collections::BTreeMap, net::IpAddr};

use futures::{Stream, TryStreamExt, future::ready};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{InfoKind, LinkInfo, LinkAttribute, LinkMessage, LinkXdp, XdpAttached as Attached},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Error, XdpAttached};
use crate::model::Family;

/// A link as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Index of the bond or bridge that owns it.
    pub controller: Option<u32>,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// How an XDP program runs on it, if one does.
    pub xdp: Option<XdpAttached>,
}

/// An address as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Index of its link.
    pub link: u32,
    /// Not the first choice as a source: secondary, temporary or deprecated.
    pub secondary: bool,
}

/// A default route as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRoute {
    /// The family.
    pub family: Family,
    /// The route's priority; lower wins.
    pub metric: u32,
    /// Index of the link it leaves by.
    pub link: u32,
}

/// Everything netlink says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Links by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses in the kernel's order: primary ones first.
    pub addresses: Vec<Address>,
    /// Default routes, sorted.
    pub default_routes: Vec<DefaultRoute>,
}

/// Asks the kernel for everything.
pub async fn observe(handle: &Handle) -> Result<Seen, Error> {
    let links =
        collect("links", handle.link().get().execute(), |message| Some(link(message))).await?;
    let addresses =
        collect("addresses", handle.address().get().execute(), |message| address(&message)).await?;
    let mut default_routes = Vec::new();
    for (family, route) in [
        (Family::V4, RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()),
        (Family::V6, RouteMessageBuilder::<std::net::Ipv6Addr>::new().build()),
    ] {
        let routes = handle.route().get(route).execute();
        let found = collect("routes", routes, |route| Some(default_route(family, &route))).await?;
        default_routes.extend(found.into_iter().flatten());
    }
    default_routes.sort_unstable();
    default_routes.dedup();
    Ok(Seen { links: links.into_iter().collect(), addresses, default_routes })
}

async fn collect<M, T>(
    what: &'static str,
    stream: impl Stream<Item = Result<M, rtnetlink::Error>>,
    convert: impl Fn(M) -> Option<T>,
) -> Result<Vec<T>, Error> {
    stream
        .try_filter_map(|message| ready(Ok(convert(message))))
        .try_collect()
        .await
        .map_err(|source| Error::Dump { what, source: Box::new(source) })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has many attributes; we need these")]
fn link(message: LinkMessage) -> (u32, Link) {
    let loopback =
        message.header.link_layer_type == netlink_packet_route::link::LinkLayerType::Loopback;
    let mut link = Link { loopback, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::LinkInfo(parts) => {
                link.veth = parts.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            LinkAttribute::Xdp(parts) => link.xdp = parts.iter().find_map(xdp),
            _ => {}
        }
    }
    (message.header.index, link)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only the mode is needed")]
fn xdp(part: &LinkXdp) -> Option<XdpAttached> {
    match part {
        LinkXdp::Attached(Attached::None) => None,
        LinkXdp::Attached(Attached::Driver) => Some(XdpAttached::Driver),
        LinkXdp::Attached(Attached::SocketBuffer) => Some(XdpAttached::Generic),
        LinkXdp::Attached(_) => Some(XdpAttached::Other),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has many attributes; we need these")]
fn address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link `Address` is the other end and `Local` is ours.
    let (mut local, mut ours) = (None, None);
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => ours = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let failed = message.header.flags.contains(AddressHeaderFlags::Dadfailed);
    let ip = local.or(ours).filter(|_| !failed)?;
    // For IPv6 the bit of "secondary" means "temporary".
    let secondary = flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated);
    Some(Address { ip, link: message.header.index, secondary })
}

/// The default route that `message` is, if it is one of the main table.
#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has many attributes; we need these")]
fn default_route(family: Family, message: &RouteMessage) -> Option<DefaultRoute> {
    if !is_default(message) || message.header.address_family != address_family(family) {
        return None;
    }
    let (mut metric, mut link) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                link = link.or_else(|| hops.iter().map(|hop| hop.interface_index).min());
            }
            _ => {}
        }
    }
    link.map(|link| DefaultRoute { family, metric, link })
}

/// Whether `message` is about a default route of the main table.
pub(super) fn is_default(message: &RouteMessage) -> bool {
    let header = &message.header;
    header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
