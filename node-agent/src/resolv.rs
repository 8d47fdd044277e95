//! How pods find names: `/etc/resolv.conf` as kubelets write it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::cri::wire::DnsConfig;

/// More of them the C library does not read.
const SERVERS_MAX: usize = 3;
/// As upstream.
const SEARCHES_MAX: usize = 32;

/// The servers, searched domains and options of a pod. `host` is the node's own file.
pub(crate) fn of(pod: &Pod, domain: &str, cluster: &[IpAddr], host: &str) -> DnsConfig {
    let Some(spec) = &pod.spec else { return DnsConfig::default() };
    let own = read(host);
    let on_host = spec.host_network == Some(true);
    let mut config = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        Some("ClusterFirstWithHostNet") => inside(pod, domain, cluster, &own),
        Some("Default") => own,
        _ if on_host || cluster.is_empty() => own,
        _ => inside(pod, domain, cluster, &own),
    };
    if let Some(more) = &spec.dns_config {
        let new = |into: &mut Vec<String>, from: &Option<Vec<String>>| {
            for it in from.iter().flatten() {
                if !into.contains(it) {
                    into.push(it.clone());
                }
            }
        };
        new(&mut config.servers, &more.nameservers);
        new(&mut config.searches, &more.searches);
        for option in more.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let is_same = |it: &String| it.split(':').next() == Some(name.as_str());
            config.options.retain(|it| !is_same(it));
            config.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    config.servers.truncate(SERVERS_MAX);
    config.searches.truncate(SEARCHES_MAX);
    config
}

fn inside(pod: &Pod, domain: &str, cluster: &[IpAddr], own: &DnsConfig) -> DnsConfig {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches =
        vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    searches.extend(own.searches.iter().cloned());
    DnsConfig {
        servers: cluster.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".into()],
    }
}

fn read(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search") => config.searches = words.collect(),
            Some("options") => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_pod(spec: &serde_json::Value) -> DnsConfig {
        let pod = json!({"metadata": {"namespace": "a"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let cluster = ["10.96.0.10".parse().expect("an address")];
        of(&pod, "cluster.local", &cluster, "nameserver 192.0.2.1\nsearch home\noptions edns0\n")
    }

    #[test]
    fn the_cluster_comes_first_unless_the_pod_says_otherwise() {
        let config = of_pod(&json!({"containers": []}));
        assert_eq!(config.servers, ["10.96.0.10"]);
        assert_eq!(
            config.searches,
            ["a.svc.cluster.local", "svc.cluster.local", "cluster.local", "home"]
        );
        assert_eq!(config.options, ["ndots:5"]);
        let config = of_pod(&json!({"containers": [], "hostNetwork": true}));
        assert_eq!(config.servers, ["192.0.2.1"]);
        let config = of_pod(&json!({"containers": [], "dnsPolicy": "Default"}));
        assert_eq!(
            (config.servers, config.options),
            (vec!["192.0.2.1".into()], vec!["edns0".into()])
        );
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]});
        let config = of_pod(&json!({"containers": [], "dnsPolicy": "None", "dnsConfig": own}));
        assert_eq!(config.servers, ["1.1.1.1"]);
        let config = of_pod(&json!({"containers": [], "dnsConfig": own}));
        assert_eq!(config.options, ["ndots:2"]);
    }
}
