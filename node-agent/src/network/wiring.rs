//! Links of pods: a pair of veth devices each, with host routes, and no question of who has which address.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    path::Path,
    time::Duration,
};

use futures::TryStreamExt as _;
use netlink_packet_route::{
    address::AddressHeaderFlags, link::LinkAttribute, neighbour::NeighbourState, route::RouteScope,
};
use nix::sched::{CloneFlags, setns};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::Network;

/// The name of a pod's device inside it.
pub const INSIDE: &str = "eth0";
/// The hardware address of all host ends: pods find their way out by it.
const OUTSIDE_MAC: [u8; 6] = [0xee; 6];
/// Where pods send what is not for themselves; nobody has these addresses (RFC 3927, RFC 4291).
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// How long one pod's links may take.
const WITHIN: Duration = Duration::from_secs(20);

/// Why a pod has no link.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel said no.
    #[error("cannot {doing}: {cause}")]
    Kernel {
        /// What failed.
        doing: String,
        /// Why.
        cause: Box<rtnetlink::Error>,
    },
    /// The namespace.
    #[error("cannot enter the network namespace {path}: {cause}")]
    Namespace {
        /// Which.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// It takes too long.
    #[error("the kernel has made no links in {WITHIN:?}")]
    Late,
}

fn failed(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let doing = doing.into();
    move |cause| Error::Kernel { doing, cause: Box::new(cause) }
}

/// What a pod's link should be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Name of the host end.
    pub outside: String,
    /// Name of the pod's end.
    pub inside: String,
    /// The pod's network namespace.
    pub netns: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The largest packet, in bytes.
    pub mtu: u32,
}

/// The gateway that pods of a family use.
pub fn gateway(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

/// Makes the link and everything that belongs to it; gives the pod's hardware address. Blocks.
pub fn connect(wish: &Wish) -> Result<[u8; 6], Error> {
    let netns = open(&wish.netns)?;
    let pod_mac = mac_of(&wish.addresses);
    on_runtime(async {
        let handle = connection()?;
        remove_link(&handle, &wish.outside).await?;
        // Made here and moved with its last name: the name may be taken on the node.
        let passing = format!("{}p", wish.outside);
        let link = LinkVeth::new(&wish.outside, &passing).mtu(wish.mtu).address(OUTSIDE_MAC.into());
        let made = handle.link().add(link.build()).execute().await;
        made.map_err(failed(format!("make the link {}", wish.outside)))?;
        let inner = index(&handle, &passing).await?;
        let change = LinkUnspec::new_with_index(inner)
            .address(pod_mac.into())
            .mtu(wish.mtu)
            .setns_by_fd(netns.as_raw_fd());
        let moved = handle.link().set(change.build()).execute().await;
        moved.map_err(failed(format!("move {passing} into {}", wish.netns)))?;
        let outer = index(&handle, &wish.outside).await?;
        set_up(&handle, outer, &wish.outside).await?;
        for address in &wish.addresses {
            route_to(&handle, *address, outer).await?;
            neighbour(&handle, outer, *address, pod_mac).await?;
        }
        Ok::<(), Error>(())
    })?;
    inside(wish)?;
    Ok(pod_mac)
}

/// Removes the host end, and with it the pod's. Blocks.
pub fn disconnect(outside: &str) -> Result<(), Error> {
    on_runtime(async {
        let handle = connection()?;
        remove_link(&handle, outside).await
    })
}

/// Sets the loopback device of a namespace up. Blocks.
pub fn loopback(path: &str) -> Result<(), Error> {
    on_thread(path, async {
        let handle = connection()?;
        set_up(&handle, index(&handle, "lo").await?, "lo").await
    })
}

/// The host ends that are there. Blocks.
pub fn links() -> Vec<String> {
    let all = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = all.filter_map(|it| it.file_name().into_string().ok());
    names.filter(|it| is_ours(it)).collect()
}

/// Ten hexadecimal digits follow two letters.
fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix("hp");
    digits.is_some_and(|it| it.len() == 10 && it.bytes().all(|it| it.is_ascii_hexdigit()))
}

/// Whether the host end is there. Blocks.
pub fn is_connected(outside: &str) -> bool {
    Path::new("/sys/class/net").join(outside).exists()
}

fn open(path: &str) -> Result<File, Error> {
    File::open(path).map_err(|cause| Error::Namespace { path: path.into(), cause })
}

fn on_runtime<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|cause| Error::Namespace { path: "of this thread".into(), cause })?;
    runtime.block_on(async { tokio::time::timeout(WITHIN, work).await.unwrap_or(Err(Error::Late)) })
}

fn connection() -> Result<Handle, Error> {
    let made = rtnetlink::new_connection();
    let (connection, handle, _) =
        made.map_err(|cause| Error::Namespace { path: "of this thread".into(), cause })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Does something in a namespace, on a thread of its own that ends in it.
fn on_thread(
    path: &str,
    work: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<(), Error> {
    let netns = open(path)?;
    let path = path.to_owned();
    let thread = std::thread::spawn(move || {
        setns(&netns, CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::Namespace { path, cause: error.into() })?;
        on_runtime(work)
    });
    thread.join().unwrap_or(Err(Error::Late))
}

/// What happens inside the pod's namespace.
fn inside(wish: &Wish) -> Result<(), Error> {
    let path = wish.netns.clone();
    let wish = wish.clone();
    on_thread(&path, async move {
        let handle = connection()?;
        let passing = format!("{}p", wish.outside);
        let inner = index(&handle, &passing).await?;
        let change = LinkUnspec::new_with_index(inner).name(wish.inside.clone());
        let renamed = handle.link().set(change.build()).execute().await;
        renamed.map_err(failed(format!("name the pod's link {}", wish.inside)))?;
        set_up(&handle, inner, &wish.inside).await?;
        for address in &wish.addresses {
            let mut add = handle.address().add(inner, *address, Network::bits(*address));
            if address.is_ipv6() {
                // Nobody else can have it: it is routed here.
                add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            add.execute().await.map_err(failed(format!("give the pod {address}")))?;
            let gateway = gateway(*address);
            neighbour(&handle, inner, gateway, OUTSIDE_MAC).await?;
            route_to(&handle, gateway, inner).await?;
            default_by(&handle, gateway, inner).await?;
        }
        Ok(())
    })
}

/// A hardware address that follows from the pod's first address: locally administered.
fn mac_of(addresses: &[IpAddr]) -> [u8; 6] {
    let last: [u8; 4] = match addresses.first() {
        Some(IpAddr::V4(address)) => address.octets(),
        Some(IpAddr::V6(address)) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    [0x0a, 0x58, last[0], last[1], last[2], last[3]]
}

async fn index(handle: &Handle, name: &str) -> Result<u32, Error> {
    let doing = || format!("find the link {name}");
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await.map_err(failed(doing()))? {
        Some(link) => Ok(link.header.index),
        None => Err(failed(doing())(rtnetlink::Error::RequestFailed)),
    }
}

async fn set_up(handle: &Handle, index: u32, name: &str) -> Result<(), Error> {
    let change = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(change).execute().await.map_err(failed(format!("set the link {name} up")))
}

async fn remove_link(handle: &Handle, name: &str) -> Result<(), Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let Ok(Some(link)) = links.try_next().await else { return Ok(()) };
    let is_named = |it: &LinkAttribute| matches!(it, LinkAttribute::IfName(own) if own == name);
    if !link.attributes.iter().any(is_named) {
        return Ok(());
    }
    let removed = handle.link().del(link.header.index).execute().await;
    removed.map_err(failed(format!("remove the link {name}")))
}

async fn neighbour(handle: &Handle, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
    let add = handle.neighbours().add(index, ip).link_layer_address(&mac);
    let add = add.state(NeighbourState::Permanent).replace();
    add.execute().await.map_err(failed(format!("say where {ip} is")))
}

/// A route to one address behind a link.
async fn route_to(handle: &Handle, address: IpAddr, link: u32) -> Result<(), Error> {
    let route = match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .scope(RouteScope::Link)
            .output_interface(link)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .output_interface(link)
            .build(),
    };
    let add = handle.route().add(route).replace();
    add.execute().await.map_err(failed(format!("route {address}")))
}

async fn default_by(handle: &Handle, gateway: IpAddr, link: u32) -> Result<(), Error> {
    let route = match gateway {
        IpAddr::V4(gateway) => {
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(link).build()
        }
        IpAddr::V6(gateway) => {
            RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(link).build()
        }
    };
    let add = handle.route().add(route).replace();
    add.execute().await.map_err(failed(format!("route the rest by {gateway}")))
}
