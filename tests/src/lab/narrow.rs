//! Links of a lab that take shorter packets than those before them.

use super::{
    names::{self, NodeName},
    topology::{ip_batch, node_addresses},
};

/// Gives the link between the network and node B an MTU, and leads what node A sends to B's pods
/// over the router, which alone can say that a packet is too long for the link behind it.
pub(super) fn between_nodes(lab: &str, mtu: u32) -> anyhow::Result<()> {
    let (near, far) = (node_addresses(NodeName::A), node_addresses(NodeName::B));
    // A bridge takes the least MTU of its ports unless it is told; the link to node A stays wide.
    // The router tells pods about their packets: it has to know the way to them.
    ip_batch(
        &names::netns(lab, "fabric"),
        &format!(
            "link set br0 mtu 1500\nlink set nodeB mtu {mtu}\n\
             route add 10.244.2.0/24 via {} mtu {mtu}\nroute add fd44:2::/64 via {} mtu {mtu}\n\
             route add 10.244.1.0/24 via {}\nroute add fd44:1::/64 via {}\n",
            far.v4, far.v6, near.v4, near.v6
        ),
    )?;
    ip_batch(&names::netns(lab, NodeName::B.as_str()), &format!("link set eth0 mtu {mtu}\n"))?;
    ip_batch(
        &names::netns(lab, NodeName::A.as_str()),
        "route replace 10.244.2.0/24 via 192.168.77.1\nroute replace fd44:2::/64 via fd77::1\n",
    )
}

/// Gives the router's end of the link to the outside client an MTU. The client does not know.
pub(super) fn to_outside(lab: &str, mtu: u32) -> anyhow::Result<()> {
    ip_batch(&names::netns(lab, "fabric"), &format!("link set outside mtu {mtu}\n"))
}
