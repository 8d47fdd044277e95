//! Which backend follows from which features, and what a real kernel answers.

use super::*;
use crate::backend::Mode;

fn all_but(lacking: &[Feature]) -> Probes {
    let answer = |feature: &Feature| {
        if lacking.contains(feature) {
            Answer::Missing("not here".to_owned())
        } else {
            Answer::yes()
        }
    };
    Feature::ALL.iter().map(|feature| (*feature, answer(feature))).collect()
}

#[test]
fn the_first_mode_that_has_everything_is_picked() {
    let pick = |lacking: &[Feature]| choose(&all_but(lacking)).mode;
    assert_eq!(pick(&[]), Some(Mode::Ebpf));
    assert_eq!(pick(&[Feature::SocketPrograms]), Some(Mode::Nftables));
    assert_eq!(pick(&[Feature::Bpf, Feature::NftNumgen]), Some(Mode::Ipvs));
    assert_eq!(pick(&[Feature::Bpf, Feature::NfTables]), Some(Mode::Iptables));
    assert_eq!(pick(&[Feature::Bpf, Feature::ConntrackNetlink]), None);
    assert_eq!(pick(&[Feature::Root]), None);
}

#[test]
fn one_of_two_ways_is_enough() {
    let pick = |lacking: &[Feature]| choose(&all_but(lacking)).mode;
    assert_eq!(pick(&[Feature::Tcx]), Some(Mode::Ebpf));
    assert_eq!(pick(&[Feature::Clsact]), Some(Mode::Ebpf));
    assert_ne!(pick(&[Feature::Tcx, Feature::Clsact]), Some(Mode::Ebpf));
    let rest = [Feature::Bpf, Feature::NfTables];
    assert_eq!(pick(&[&rest[..], &[Feature::IptablesNft]].concat()), Some(Mode::Iptables));
    let neither = [&rest[..], &[Feature::IptablesNft, Feature::IptablesLegacy]].concat();
    assert_eq!(pick(&neither), None);
}

#[test]
fn what_only_makes_a_mode_better_does_not_decide() {
    for feature in [Feature::XdpPrograms, Feature::ConntrackSctp, Feature::RouteLocalnet] {
        assert_eq!(choose(&all_but(&[feature])).mode, Some(Mode::Ebpf), "{feature:?}");
    }
    let lacking = [Feature::Bpf, Feature::NfTables, Feature::IptablesRecent];
    assert_eq!(choose(&all_but(&lacking)).mode, Some(Mode::Iptables));
}

#[test]
fn every_other_mode_has_its_reason() {
    let choice = choose(&all_but(&[Feature::Cgroup2, Feature::Dummy]));
    let said: Vec<String> = choice.others.iter().map(|other| other.why.clone()).collect();
    let expected = [
        "ebpf lacks cgroup2 is mounted (not here)",
        "ipvs lacks dummy device (not here)",
        "iptables could run too, and comes after nftables",
    ];
    assert_eq!(said, expected);
    assert_eq!(
        choice.why,
        "nftables is the first of ebpf, nftables, ipvs, iptables that has what it needs"
    );
}

#[test]
fn a_feature_that_a_mode_lacks_is_one_that_it_needs() {
    for mode in Mode::ALL {
        for group in Feature::needed(mode) {
            let named = |why: &str| group.iter().all(|feature| why.contains(feature.name()));
            let lacks = choose::lacks(&all_but(group), mode);
            assert!(lacks.iter().any(|why| named(why)), "{mode} {group:?}: {lacks:?}");
        }
        assert!(choose::lacks(&all_but(&[]), mode).is_empty(), "{mode}");
    }
}

#[test]
fn a_table_shows_every_feature_once() {
    let rows = table::rows(&all_but(&[Feature::Tcx]));
    assert_eq!(rows.len(), Feature::ALL.len());
    let text = table::text(&rows);
    for feature in Feature::ALL {
        let lines = text.lines().filter(|line| line.starts_with(&format!("{}  ", feature.name())));
        assert_eq!(lines.count(), 1, "{feature:?}:\n{text}");
    }
    let tcx = rows.iter().find(|row| row.feature == "tcx").unwrap();
    assert_eq!((tcx.found, tcx.consequence), (Some(false), Feature::Tcx.consequence(false)));
}

#[test]
fn every_feature_gets_an_answer_from_this_kernel() {
    let probes = run();
    let answered: Vec<Feature> = probes.iter().map(|(feature, _)| feature).collect();
    assert_eq!(answered, Feature::ALL);
    for (feature, answer) in probes.iter() {
        assert!(answer.is_found() || !answer.detail().is_empty(), "{feature:?} without a reason");
        assert!(!answer.detail().contains('\n'), "{feature:?}: {}", answer.detail());
    }
}

/// Nothing of what the probe makes is seen outside its namespace.
#[test]
fn what_the_probe_tries_leaves_no_trace() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a network namespace of our own needs root");
        return;
    }
    let devices = || nix::net::if_::if_nameindex().unwrap().iter().count();
    let before = devices();
    run();
    assert_eq!(devices(), before);
    assert!(!std::path::Path::new(iptables::LOCK_FILE).exists());
}
