//! What kubectl sends in protobuf, and what Go clients get in it.

use serde_json::json;

use super::{Cluster, skipped};

#[test]
fn what_kubectl_sends_in_protobuf_is_understood() {
    if skipped("what_kubectl_sends_in_protobuf_is_understood") {
        return;
    }
    let cluster = Cluster::start();
    cluster.says(&["create", "namespace", "shop"]);
    cluster.says(&["create", "deployment", "web", "--image=web:1", "--replicas=0", "-n", "shop"]);
    let text = cluster.says(&["get", "deployment", "web", "-n", "shop", "-o", "json"]);
    let deployment: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], json!({"app": "web"}));
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["name"], &container["image"]), (&json!("web"), &json!("web:1")));
    cluster.says(&["create", "configmap", "settings", "--from-literal=key=value"]);
    assert_eq!(cluster.get("configmap/settings")["data"], json!({"key": "value"}));
    cluster.says(&["create", "secret", "generic", "password", "--from-literal=key=value"]);
    assert_eq!(cluster.get("secret/password")["data"], json!({"key": "dmFsdWU="}));
    cluster.says(&["create", "service", "clusterip", "web", "--tcp=80:8080"]);
    assert_eq!(cluster.get("service/web")["spec"]["ports"][0]["targetPort"], 8080);
    cluster.says(&["create", "serviceaccount", "bot"]);
    let token = cluster.says(&["create", "token", "bot"]);
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    assert_eq!(cluster.says(&["auth", "can-i", "delete", "pods"]).trim(), "yes");
    let bot = ["auth", "can-i", "delete", "pods", "--as=system:serviceaccount:default:bot"];
    assert!(!cluster.run(&bot).status.success());
    cluster.says(&["create", "role", "reader", "--verb=get,list", "--resource=pods"]);
    cluster.says(&[
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        "--serviceaccount=default:bot",
    ]);
    cluster.says(&["delete", "deployment", "web", "-n", "shop"]);
}
