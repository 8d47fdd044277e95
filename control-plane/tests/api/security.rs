//! What is written down of requests, and what of Secrets.

use serde_json::{Value, json};

use super::{Cluster, skipped};

#[test]
fn who_did_what_is_noted_and_secrets_are_encrypted() {
    if skipped("who_did_what_is_noted_and_secrets_are_encrypted") {
        return;
    }
    let mut cluster = Cluster::new();
    let log = cluster.folder.path().join("audit.log");
    cluster.audit = Some(log.clone());
    cluster.seals_secrets = true;
    cluster.begin();
    cluster.says(&["create", "secret", "generic", "password", "--from-literal=key=plain-as-day"]);
    assert_eq!(cluster.get("secret/password")["data"], json!({"key": "cGxhaW4tYXMtZGF5"}));
    cluster.run(&["get", "secrets", "--as=eve"]);
    cluster.end();
    let text = std::fs::read_to_string(&log).unwrap();
    let events: Vec<Value> = text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let of = |verb: &str, resource: &str| {
        let found =
            events.iter().find(|it| it["verb"] == verb && it["objectRef"]["resource"] == resource);
        found.cloned().unwrap_or_else(|| panic!("no {verb} of {resource} in {text}"))
    };
    let created = of("create", "secrets");
    assert_eq!(created["user"]["username"], "kubernetes-admin");
    assert_eq!(created["responseStatus"]["code"], 201);
    let refused = of("list", "secrets");
    assert_eq!(refused["impersonatedUser"]["username"], "eve");
    assert_eq!(refused["responseStatus"]["code"], 403);
    assert!(!text.contains("plain-as-day") && !text.contains("cGxhaW4tYXMtZGF5"), "{text}");
    let store = std::fs::read(cluster.folder.path().join("data/objects.redb")).unwrap();
    let holds = |text: &[u8]| store.windows(text.len()).any(|window| window == text);
    assert!(holds(b"kube-root-ca.crt") && !holds(b"cGxhaW4tYXMtZGF5"));
    cluster.begin();
    assert_eq!(cluster.get("secret/password")["data"], json!({"key": "cGxhaW4tYXMtZGF5"}));
}
