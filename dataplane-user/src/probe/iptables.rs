//! Which `iptables-restore` there is, and which extensions it and the kernel know.

use std::fs;

use super::{
    Answer, Feature, Probes, sentence,
    tools::{self, Tools, Variant},
};

/// Nobody shares our namespace, so the host's lock has nothing to protect here.
pub(super) const LOCK_FILE: &str = "/run/hashplane-probe-xtables.lock";
/// Both tables that hold services.
const TABLES: &str =
    "*nat\n:HASHPLANE-PROBE - [0:0]\nCOMMIT\n*filter\n:HASHPLANE-PROBE - [0:0]\nCOMMIT\n";

/// Table and rule; `{refusal}` differs by family.
const EXTENSIONS: [(Feature, &str, &str); 8] = [
    (
        Feature::IptablesStatistic,
        "nat",
        "-A POSTROUTING -m statistic --mode random --probability 0.5 -j RETURN",
    ),
    (Feature::IptablesConntrack, "filter", "-A FORWARD -m conntrack --ctstate NEW -j RETURN"),
    (
        Feature::IptablesMark,
        "nat",
        "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MARK --set-xmark 0x0/0x4000",
    ),
    (Feature::IptablesComment, "nat", "-A POSTROUTING -m comment --comment \"a b\" -j RETURN"),
    (Feature::IptablesAddrtype, "nat", "-A PREROUTING -m addrtype --dst-type LOCAL -j RETURN"),
    (
        Feature::IptablesRecent,
        "nat",
        "-A PREROUTING -m recent --name HASHPLANE-PROBE --rcheck --seconds 10 --reap -j RETURN",
    ),
    (Feature::IptablesReject, "filter", "-A FORWARD -j REJECT --reject-with {refusal}"),
    (Feature::IptablesRandomFully, "nat", "-A POSTROUTING -j MASQUERADE --random-fully"),
];

pub(super) fn run(probes: &mut Probes) {
    let mut first = None;
    for variant in Variant::ALL {
        let feature = match variant {
            Variant::Nft => Feature::IptablesNft,
            Variant::Legacy => Feature::IptablesLegacy,
        };
        let answer = match found(variant) {
            Ok(both) => {
                let text = format!("{}, {}", both[0].restore, both[0].version);
                first.get_or_insert(both);
                Answer::Found(text)
            }
            Err(error) => Answer::Missing(sentence(&error)),
        };
        probes.set(feature, answer);
    }
    for (feature, table, rule) in EXTENSIONS {
        let answer = match &first {
            Some(both) => extension(both, table, rule).into(),
            None => Answer::Untried("there is no iptables".to_owned()),
        };
        probes.set(feature, answer);
    }
    let _none_is_fine = fs::remove_file(LOCK_FILE);
}

/// The programs of both families, if both work with nat and filter.
fn found(variant: Variant) -> Result<[Tools; 2], tools::Error> {
    let both = [variant.tools("iptables")?, variant.tools("ip6tables")?];
    for tools in &both {
        restore(tools, TABLES)?;
    }
    Ok(both)
}

fn extension(both: &[Tools; 2], table: &str, rule: &str) -> Result<(), tools::Error> {
    let refusals = ["icmp-port-unreachable", "icmp6-port-unreachable"];
    for (tools, refusal) in both.iter().zip(refusals) {
        let rule = rule.replace("{refusal}", refusal);
        restore(tools, &format!("*{table}\n{rule}\nCOMMIT\n"))?;
    }
    Ok(())
}

fn restore(tools: &Tools, rules: &str) -> Result<(), tools::Error> {
    tools::run(&tools.restore, &["--noflush"], rules, Some(LOCK_FILE)).map(drop)
}
