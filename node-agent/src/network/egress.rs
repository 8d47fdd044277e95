//! The way out: what pods send to others than the cluster carries the node's address.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use super::Network;

/// The name of our table.
pub(crate) const TABLE: &str = "hashplane-egress";

/// Why pods have no way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A switch of the kernel.
    #[error("cannot switch on {name}: {cause}")]
    Switch {
        /// Which.
        name: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// The program.
    #[error("cannot start nft: {0}; install nftables")]
    Start(io::Error),
    /// The rules.
    #[error("nft does not take the rules of {TABLE}: {0}")]
    Rules(String),
}

/// Lets the node forward, and gives what leaves the cluster the node's address. Blocks.
pub(crate) fn allow(pods: &[Network], cluster: &[Network]) -> Result<(), Error> {
    switch("net/ipv4/ip_forward", "1")?;
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        switch("net/ipv6/conf/all/forwarding", "1")?;
    }
    load(&rules(pods, cluster))
}

fn switch(name: &'static str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|it| it.trim() == value) {
        return Ok(());
    }
    std::fs::write(path, value).map_err(|cause| Error::Switch { name, cause })
}

fn rules(pods: &[Network], cluster: &[Network]) -> String {
    let mut text = format!("table inet {TABLE} {{}}\ndelete table inet {TABLE}\n");
    text += "table inet hashplane-egress {\n  chain postrouting {\n";
    text.push_str("    type nat hook postrouting priority srcnat + 10;\n");
    for network in pods {
        let family = if network.address.is_ipv4() { "ip" } else { "ip6" };
        let inside: Vec<String> = cluster
            .iter()
            .filter(|it| it.address.is_ipv4() == network.address.is_ipv4())
            .map(Network::to_string)
            .collect();
        let others = if inside.is_empty() {
            String::new()
        } else {
            format!(" {family} daddr != {{ {} }}", inside.join(", "))
        };
        let rule = [family, " saddr ", &network.to_string(), &others].concat();
        text += &["    ", &rule, " oifname != \"hp*\" oifname != \"lo\" masquerade\n"].concat();
    }
    text.push_str("  }\n}\n");
    text
}

fn load(rules: &str) -> Result<(), Error> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::Start)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules.as_bytes()).map_err(Error::Start)?;
    }
    let output = child.wait_with_output().map_err(Error::Start)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Rules(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_in_the_cluster_keeps_its_address() {
        let networks = |texts: &[&str]| -> Vec<Network> {
            texts.iter().map(|it| it.parse().expect("a network")).collect()
        };
        let rules = rules(
            &networks(&["10.244.1.0/24", "fd00:1::/64"]),
            &networks(&["10.244.0.0/16", "fd00::/16"]),
        );
        assert!(rules.contains("ip saddr 10.244.1.0/24 ip daddr != { 10.244.0.0/16 }"), "{rules}");
        assert!(rules.contains("ip6 saddr fd00:1::/64 ip6 daddr != { fd00::/16 }"), "{rules}");
    }
}
