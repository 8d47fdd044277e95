//! Namespaces, links, addresses and routes of a lab, made with `ip` and `ethtool`.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use super::{
    names::{self, NodeName},
    place::Addresses,
    wait::{eventually, within},
    xdp_pass,
};
use crate::skip::can_load_programs;

/// MAC address of the host's end of every pod link; pods know it as their gateway's.
const POD_GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// A node's own addresses.
pub(super) const fn node_addresses(node: NodeName) -> Addresses {
    let last = 10 + node.number();
    Addresses {
        v4: Ipv4Addr::new(192, 168, 77, last),
        // fd77::11 and fd77::12 read like the IPv4 addresses.
        v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10 + node.number() as u16),
    }
}

/// The outside client's addresses.
pub(super) const OUTSIDE: Addresses = Addresses {
    v4: Ipv4Addr::new(192, 168, 88, 100),
    v6: Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 0x100),
};

/// The addresses of a node's pod number `number`, from 1.
pub(super) fn pod_addresses(node: NodeName, number: u32) -> Addresses {
    let last = u8::try_from(number).unwrap_or(u8::MAX);
    let node = node.number();
    Addresses {
        v4: Ipv4Addr::new(10, 244, node, last),
        v6: Ipv6Addr::new(0xfd44, node.into(), 0, 0, 0, 0, 0, last.into()),
    }
}

/// Builds everything but pods.
pub(super) fn build(lab: &str, rp_filter: u8) -> anyhow::Result<()> {
    let fabric = names::netns(lab, "fabric");
    let outside = names::netns(lab, "outside");
    let nodes = [NodeName::A, NodeName::B].map(|node| (node, names::netns(lab, node.as_str())));
    add_namespace(&fabric, true, 0)?;
    add_namespace(&outside, false, 0)?;
    for (_, netns) in &nodes {
        add_namespace(netns, true, rp_filter)?;
    }
    build_fabric(lab, &fabric, &outside)?;
    for (node, netns) in &nodes {
        build_node(*node, netns)?;
    }
    ip_batch(
        &outside,
        &format!(
            "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0\n\
         route add 192.168.77.0/24 via 192.168.88.1\nroute add fd77::/64 via fd88::1\n",
            OUTSIDE.v4, OUTSIDE.v6
        ),
    )?;
    // As on a wire, packets that reach a NIC carry whole checksums and are no longer than the MTU.
    for port in ["nodeA", "nodeB", "outside"] {
        ethtool(&fabric, &["-K", port, "tx", "off"])?;
    }
    if can_load_programs() {
        let program = names::folder(lab).join("bpf/pass");
        xdp_pass::pin(&program)?;
        let program = program.display();
        let attach =
            ["nodeA", "nodeB"].map(|port| format!("link set dev {port} xdpdrv pinned {program}\n"));
        ip_batch(&fabric, &attach.concat())?;
    }
    ethtool(&outside, &["-K", "eth0", "tx", "off"])?;
    settle(&outside)?;
    nodes.iter().try_for_each(|(_, netns)| settle(netns))
}

fn build_fabric(lab: &str, fabric: &str, outside: &str) -> anyhow::Result<()> {
    let mut batch = "link add br0 type bridge\nlink set br0 up\naddr add 192.168.77.1/24 dev br0\n\
                     addr add fd77::1/64 dev br0\n"
        .to_owned();
    for node in ["nodeA", "nodeB"] {
        let netns = names::netns(lab, node);
        writeln!(batch, "link add {node} type veth peer name eth0 netns {netns}")?;
        writeln!(batch, "link set {node} master br0 up")?;
    }
    writeln!(batch, "link add outside type veth peer name eth0 netns {outside}")?;
    writeln!(batch, "link set outside up")?;
    writeln!(batch, "addr add 192.168.88.1/24 dev outside\naddr add fd88::1/64 dev outside")?;
    ip_batch(fabric, &batch)
}

fn build_node(node: NodeName, netns: &str) -> anyhow::Result<()> {
    let own = node_addresses(node);
    let other = match node {
        NodeName::A => NodeName::B,
        NodeName::B => NodeName::A,
    };
    let (via, pods) = (node_addresses(other), other.number());
    ip_batch(
        netns,
        &format!(
            "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0\n\
         route add default via 192.168.77.1\nroute add default via fd77::1\n\
         route add 10.244.{pods}.0/24 via {}\nroute add fd44:{pods}::/64 via {}\n",
            own.v4, own.v6, via.v4, via.v6
        ),
    )
}

/// Makes a pod's namespace and its link to the node.
pub(super) fn add_pod(lab: &str, pod: &str, node: NodeName, own: Addresses) -> anyhow::Result<()> {
    let netns = names::netns(lab, pod);
    add_namespace(&netns, false, 0)?;
    ip_batch(
        &names::netns(lab, node.as_str()),
        &format!(
            "link add hp{pod} address {POD_GATEWAY_MAC} type veth peer name eth0 netns {netns}\n\
         link set hp{pod} up\nroute add {}/32 dev hp{pod}\nroute add {}/128 dev hp{pod}\n",
            own.v4, own.v6
        ),
    )?;
    ip_batch(
        &netns,
        &format!(
            "link set eth0 up\naddr add {}/32 dev eth0\naddr add {}/128 dev eth0\n\
         route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n\
         neigh add 169.254.1.1 lladdr {POD_GATEWAY_MAC} dev eth0 nud permanent\n\
         neigh add fe80::1 lladdr {POD_GATEWAY_MAC} dev eth0 nud permanent\n\
         route add default via fe80::1 dev eth0\n",
            own.v4, own.v6
        ),
    )?;
    settle(&netns)
}

/// Waits until no IPv6 address is tentative: the kernel keeps them so until it has noticed, up to a
/// second later, that the link is ready.
fn settle(netns: &str) -> anyhow::Result<()> {
    eventually(Duration::from_secs(10), || {
        let output = Command::new("ip")
            .args(["-n", netns, "-6", "address", "show", "tentative"])
            .output()
            .context("cannot start ip")?;
        let tentative = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(tentative.trim().is_empty(), "tentative addresses in {netns}: {tentative}");
        Ok(())
    })
}

pub(super) fn add_node_address(lab: &str, node: NodeName, more: Addresses) -> anyhow::Result<()> {
    let netns = names::netns(lab, node.as_str());
    ip_batch(
        &netns,
        &format!("addr add {}/24 dev eth0\naddr add {}/64 dev eth0\n", more.v4, more.v6),
    )?;
    settle(&netns)
}

pub(super) fn route_cluster_ips_from_outside(lab: &str) -> anyhow::Result<()> {
    let node = node_addresses(NodeName::A);
    let (v4, v6) = super::CLUSTER_IPS;
    let routes = |v4_via: Ipv4Addr, v6_via: Ipv6Addr| {
        format!("route add {v4}/16 via {v4_via}\nroute add {v6}/64 via {v6_via}\n")
    };
    ip_batch(&names::netns(lab, "fabric"), &routes(node.v4, node.v6))?;
    let gateway6 = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1);
    ip_batch(&names::netns(lab, "outside"), &routes(Ipv4Addr::new(192, 168, 88, 1), gateway6))
}

/// Sends what the outside client sends to `address` through a node.
pub(super) fn route_from_outside(lab: &str, address: IpAddr, node: NodeName) -> anyhow::Result<()> {
    let via = node_addresses(node);
    let route = |via: IpAddr| format!("route replace {address} via {via}\n");
    let (node, gateway): (IpAddr, IpAddr) = match address {
        IpAddr::V4(_) => (via.v4.into(), Ipv4Addr::new(192, 168, 88, 1).into()),
        IpAddr::V6(_) => (via.v6.into(), Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1).into()),
    };
    ip_batch(&names::netns(lab, "fabric"), &route(node))?;
    ip_batch(&names::netns(lab, "outside"), &route(gateway))
}

pub(super) fn offload(netns: &str, device: &str, feature: &str, on: bool) -> anyhow::Result<()> {
    ethtool(netns, &["-K", device, feature, if on { "on" } else { "off" }])
}

/// Deletes a namespace with its links, if it is there.
pub(super) fn remove_namespace(netns: &str) -> anyhow::Result<()> {
    let path = Path::new("/run/netns").join(netns);
    if !path.exists() {
        return Ok(());
    }
    let deleted = run(Command::new("ip").args(["netns", "delete", netns]));
    // Another process may be removing the same lab.
    if path.exists() { deleted } else { Ok(()) }
}

fn add_namespace(netns: &str, routes: bool, rp_filter: u8) -> anyhow::Result<()> {
    run(Command::new("ip").args(["netns", "add", netns]))?;
    let forward = if routes { "1" } else { "0" };
    let rp_filter = rp_filter.to_string();
    // Before any link exists: links take these settings from `default`.
    let settings = [
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv4/ip_forward", forward),
        ("ipv6/conf/all/forwarding", forward),
        ("ipv6/conf/default/forwarding", forward),
        ("ipv4/conf/all/rp_filter", &rp_filter),
        ("ipv4/conf/default/rp_filter", &rp_filter),
        // ICMP errors are part of what is tested; by default a host sends few of them.
        ("ipv4/icmp_ratemask", "0"),
    ];
    within(netns, || {
        for (name, value) in settings {
            let path = Path::new("/proc/sys/net").join(name);
            fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        }
        // Absent unless the bridge filter is loaded; a bridge in a lab has no rules to ask.
        for name in ["iptables", "ip6tables", "arptables"] {
            let _ = fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{name}"), "0");
        }
        Ok(())
    })?;
    ip_batch(netns, "link set lo up\n")
}

pub(super) fn ip_batch(netns: &str, batch: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-netns", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    let mut stdin = child.stdin.take().context("ip has no input")?;
    stdin.write_all(batch.as_bytes()).context("cannot write to ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip in {netns} failed: {}\nof:\n{batch}", said.trim());
    }
    Ok(())
}

fn ethtool(netns: &str, arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(["netns", "exec", netns, "ethtool"]).args(arguments))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
