//! Who answers for an address: every node comes to the same result by itself.

use std::net::IpAddr;

use ring::digest::{SHA256, digest};

/// The node among `candidates` that answers for an address. Addresses spread over nodes, and only those of a
/// node that comes or goes move.
pub(super) fn winner<'n>(
    address: IpAddr,
    candidates: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let weight = |node: &str| {
        let digest = digest(&SHA256, format!("{address} {node}").as_bytes());
        digest.as_ref().to_vec()
    };
    candidates.into_iter().max_by_key(|node| (weight(node), *node))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn addresses_spread_and_only_those_of_who_goes_move() {
        let nodes = ["n1", "n2", "n3", "n4"];
        let addresses: Vec<IpAddr> = (0..200).map(|it| IpAddr::from([192, 0, 2, it])).collect();
        let of = |nodes: &[&'static str]| -> BTreeMap<IpAddr, &str> {
            let one = |it: &IpAddr| Some((*it, winner(*it, nodes.iter().copied())?));
            addresses.iter().filter_map(one).collect()
        };
        let (before, after) = (of(&nodes), of(&nodes[1..]));
        for node in nodes {
            let count = before.values().filter(|it| **it == node).count();
            assert!((25..=75).contains(&count), "{node}: {count}");
        }
        for (address, node) in &before {
            assert!(*node == "n1" || after[address] == *node, "{address}");
        }
        assert_eq!(winner(addresses[0], []), None);
    }
}
