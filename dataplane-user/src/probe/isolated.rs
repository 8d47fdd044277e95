//! Everything that makes rules, in a network namespace that ends with the thread that made it.

use std::{fs, thread};

use nix::sched::{CloneFlags, unshare};

use super::{Answer, Feature, Probes, iptables, ipvs, nftables};

/// What is tried in the namespace.
const FEATURES: &[Feature] = &[
    Feature::Clsact,
    Feature::NfTables,
    Feature::NftConcatenation,
    Feature::NftNumgen,
    Feature::NftNat,
    Feature::NftMasquerade,
    Feature::NftDynamicSets,
    Feature::NftReject,
    Feature::ConntrackNetlink,
    Feature::ConntrackSctp,
    Feature::Ipvs,
    Feature::IpvsScheduler,
    Feature::Dummy,
    Feature::IptablesNft,
    Feature::IptablesLegacy,
    Feature::IptablesStatistic,
    Feature::IptablesConntrack,
    Feature::IptablesMark,
    Feature::IptablesComment,
    Feature::IptablesAddrtype,
    Feature::IptablesRecent,
    Feature::IptablesReject,
    Feature::IptablesRandomFully,
    Feature::RouteLocalnet,
];

pub(super) fn run(probes: &mut Probes) {
    let outcome = thread::scope(|scope| scope.spawn(tried).join());
    let found = match outcome {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => untried(&format!("no network namespace could be made: {error}")),
        Err(_) => untried("the probe's thread ended too early"),
    };
    for (feature, answer) in found.iter() {
        probes.set(feature, answer.clone());
    }
}

fn untried(why: &str) -> Probes {
    FEATURES.iter().map(|feature| (*feature, Answer::Untried(why.to_owned()))).collect()
}

/// Runs on a thread of its own: the namespace is that thread's, and its children's.
fn tried() -> Result<Probes, nix::Error> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut probes = Probes::default();
    probes.set(Feature::Clsact, clsact());
    nftables::run(&mut probes);
    ipvs::run(&mut probes);
    iptables::run(&mut probes);
    // Last: rules of both kinds have made conntrack come up by now.
    probes.set(Feature::ConntrackSctp, conntrack_sctp());
    probes.set(Feature::RouteLocalnet, route_localnet());
    Ok(probes)
}

fn clsact() -> Answer {
    aya::programs::tc::qdisc_add_clsact("lo").into()
}

/// Timeouts of SCTP are there exactly where the kernel tracks it.
fn conntrack_sctp() -> Answer {
    let path = "/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established";
    match fs::metadata(path) {
        Ok(_) => Answer::yes(),
        Err(_) => Answer::Missing("this kernel tracks no SCTP connections".to_owned()),
    }
}

/// Read-only in containers that may not change the host's settings.
fn route_localnet() -> Answer {
    fs::write("/proc/sys/net/ipv4/conf/lo/route_localnet", "1").into()
}
