//! Floors of the modules inside `dataplane-user`.

use super::{File, Finding, line_of, words};

/// What a module must not name, and why.
#[derive(Debug)]
struct Wall {
    /// The module, a child of the crate's root.
    module: &'static str,
    /// Modules of the same crate.
    modules: &'static [&'static str],
    /// Crates, as code names them.
    crates: &'static [&'static str],
    /// Why.
    reason: &'static str,
}

/// Crates that reach the kernel.
const KERNEL: &[&str] = &["aya", "libc", "nix", "rtnetlink", "netlink_sys", "netlink_packet_route"];

/// Who must not know whom. Only `daemon` knows everybody.
const WALLS: [Wall; 12] = [
    Wall {
        module: "model",
        modules: &[
            "source",
            "backend",
            "netlink",
            "conntrack",
            "ebpf",
            "nftables",
            "iptables",
            "ipvs",
            "probe",
            "shadow",
            "sync",
            "devices",
            "daemon",
            "http",
            "view",
        ],
        crates: KERNEL,
        reason: "the model says what should be; it knows neither where that comes from nor who \
                 brings it about",
    },
    Wall {
        module: "source",
        modules: &[
            "backend",
            "netlink",
            "conntrack",
            "ebpf",
            "nftables",
            "iptables",
            "ipvs",
            "probe",
            "shadow",
            "sync",
            "devices",
            "daemon",
            "http",
            "view",
        ],
        crates: &["aya"],
        reason: "a source turns objects into a table, whichever backend reads it",
    },
    Wall {
        module: "ebpf",
        modules: &["source", "sync", "daemon", "http"],
        crates: &["kube", "k8s_openapi"],
        reason: "a backend compiles the model; where objects come from is not its business",
    },
    Wall {
        module: "devices",
        modules: &["source", "sync", "daemon", "http"],
        crates: &["kube", "k8s_openapi"],
        reason: "devices and addresses are the kernel's, not the cluster's",
    },
    Wall {
        module: "backend",
        modules: &[
            "source", "sync", "daemon", "http", "view", "ebpf", "nftables", "iptables", "ipvs",
            "devices",
        ],
        crates: &["kube", "k8s_openapi"],
        reason: "the words between loop and backends know neither",
    },
    Wall {
        module: "nftables",
        modules: &["source", "sync", "daemon", "http", "view", "ebpf", "iptables", "ipvs"],
        crates: &["kube", "k8s_openapi"],
        reason: "a backend compiles the model and knows no other backend",
    },
    Wall {
        module: "iptables",
        modules: &["source", "sync", "daemon", "http", "view", "ebpf", "nftables", "ipvs"],
        crates: &["kube", "k8s_openapi"],
        reason: "a backend compiles the model and knows no other backend",
    },
    Wall {
        module: "ipvs",
        modules: &["source", "sync", "daemon", "http", "view", "ebpf", "iptables"],
        crates: &["kube", "k8s_openapi"],
        reason: "a backend compiles the model; IPVS may use what nftables offers",
    },
    Wall {
        module: "conntrack",
        modules: &["source", "sync", "daemon", "http", "view", "nftables", "iptables", "ipvs"],
        crates: &["kube", "k8s_openapi"],
        reason: "connections are the kernel's, whoever translated them",
    },
    Wall {
        module: "netlink",
        modules: &[
            "source",
            "sync",
            "daemon",
            "http",
            "view",
            "model",
            "backend",
            "ebpf",
            "nftables",
            "iptables",
            "ipvs",
            "conntrack",
            "devices",
        ],
        crates: &["kube", "k8s_openapi"],
        reason: "messages know nothing of services",
    },
    Wall {
        module: "probe",
        modules: &["model", "source", "sync", "daemon", "http", "devices", "conntrack"],
        crates: &["kube", "k8s_openapi"],
        reason: "what a node can do does not depend on what it should do",
    },
    Wall {
        module: "leftovers",
        modules: &["model", "source", "sync", "daemon", "http", "view", "devices", "conntrack"],
        crates: &["kube", "k8s_openapi"],
        reason: "what others left is told by its name, not by what services there are",
    },
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let Some(path) = file.path.strip_prefix("dataplane-user/src/") else { return Vec::new() };
    let module = path.split(['/', '.']).next().unwrap_or_default();
    let mut findings = Vec::new();
    for wall in WALLS.iter().filter(|wall| wall.module == module) {
        let named = imports(&file.code).into_iter().filter(|(_, name)| wall.modules.contains(name));
        let crates = wall.crates.iter().flat_map(|name| {
            words::occurrences(&file.code, name)
                .filter(|at| file.code[at + name.len()..].starts_with("::"))
                .map(move |at| (at, *name))
        });
        for (at, name) in named.chain(crates) {
            let rule = format!("`{module}` names `{name}`: {}", wall.reason);
            findings.push(Finding::new(file, line_of(&file.code, at), rule));
        }
    }
    findings
}

/// Offset and name of every module that follows `crate::`, also inside braces.
fn imports(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let from = at + prefix.len();
        match code[from..].strip_prefix('{') {
            None => found.push((from, word(&code[from..]))),
            Some(group) => found.extend(first_words(group).map(|(at, name)| (from + 1 + at, name))),
        }
    }
    found
}

/// Offset and first word of every item of a `{a::b, c::{d, e}}`, given what follows its brace.
fn first_words(group: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut depth = 0_i32;
    let mut fresh = true;
    group
        .char_indices()
        .take_while(move |(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth >= 0
        })
        .scan(0_i32, |depth, (at, c)| {
            *depth += i32::from(c == '{') - i32::from(c == '}');
            Some((at, c, *depth))
        })
        .filter_map(move |(at, c, depth)| {
            if depth == 0 && c == ',' {
                fresh = true;
            }
            let begins = fresh && (c.is_alphabetic() || c == '_');
            fresh &= !begins;
            begins.then(|| (at, word(&group[at..])))
        })
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&File::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn the_model_must_not_name_a_backend_or_a_kernel_api() {
        let text = "//! A.\nuse crate::ebpf::Maps;\nfn f(map: &aya::maps::MapData) {}\n";
        assert_eq!(lines("dataplane-user/src/model/table.rs", text), [2, 3]);
        assert_eq!(lines("dataplane-user/src/model.rs", text), [2, 3]);
        assert_eq!(lines("dataplane-user/src/daemon.rs", text), [0; 0]);
    }

    #[test]
    fn a_backend_must_not_name_a_source_inside_braces() {
        let text = "//! A.\nuse crate::{\n    model::{Family, source_of},\n    source::Kube,\n};\n";
        assert_eq!(lines("dataplane-user/src/ebpf/compile.rs", text), [4]);
    }

    #[test]
    fn a_source_may_name_the_model_but_not_a_backend() {
        let text = "//! A.\nuse crate::model::Family;\nuse crate::sync::Loop;\n";
        assert_eq!(lines("dataplane-user/src/source/kube.rs", text), [3]);
    }
}
