//! Who reaches whom and as whom: clients × frontends × traffic policies.

use dataplane_user::model::{
    DropCause, Masquerade, Packet, Protocol, Route, Scope, ServiceTable, route,
};

use crate::objects::{node, objects};

/// A Service with every kind of frontend, one endpoint here (.5) and one elsewhere (.6).
const WEB: &str = "
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  externalIPs: [203.0.113.20]
  ports: [{port: 80, nodePort: 30080}]
  POLICY
status: {loadBalancer: {ingress: [{ip: 203.0.113.10}]}}
---
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.1.0.5], nodeName: here, conditions: NEAR}
- {addresses: [10.1.1.6], nodeName: elsewhere, conditions: FAR}
";

/// kube-proxy's matrix. `all` and `here` are the endpoints; a star says that the source becomes this
/// node's. Without it, only a client that reaches itself is masqueraded.
const MATRIX: &str = "
client   frontend    Cluster   eTP-Local  iTP-Local
pod      ClusterIP   all       all        here
pod      NodePort    all*      all        all*
pod      LB          all*      all        all*
pod      external    all*      all        all*
host     ClusterIP   all*      all*       here*
host     NodePort    all*      all*       all*
host     LB          all*      all*       all*
host     external    all*      all*       all*
outside  ClusterIP   all*      all*       here*
outside  NodePort    all*      here       all*
outside  LB          all*      here       all*
outside  external    all*      here       all*
";

const POLICIES: [(&str, &str); 3] = [
    ("Cluster", "externalTrafficPolicy: Cluster"),
    ("eTP-Local", "externalTrafficPolicy: Local"),
    ("iTP-Local", "internalTrafficPolicy: Local"),
];

fn table(policy: &str, here: &str, elsewhere: &str) -> ServiceTable {
    let yaml = WEB.replace("POLICY", policy).replace("NEAR", here).replace("FAR", elsewhere);
    let mut table = ServiceTable::new(node());
    for event in objects(&yaml) {
        assert_eq!(table.apply(event), []);
    }
    table
}

fn ask(table: &ServiceTable, client: &str, frontend: &str) -> String {
    let (scope, source) = match client {
        "pod" => (Scope::Pod, "10.1.0.9"),
        "host" => (Scope::Host, "192.0.2.10"),
        "outside" => (Scope::Outside, "198.51.100.1"),
        other => panic!("{other} is no client"),
    };
    let (destination, port) = match frontend {
        "ClusterIP" => ("10.96.0.10", 80),
        "NodePort" => ("192.0.2.10", 30080),
        "LB" => ("203.0.113.10", 80),
        "external" => ("203.0.113.20", 80),
        other => panic!("{other} is no frontend"),
    };
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let packet = Packet { scope, source, destination, port, protocol: Protocol::Tcp };
    match route(table, &packet) {
        Route::NotOurs => "not ours".into(),
        Route::Refused => "refused".into(),
        Route::Dropped(DropCause::NoLocalEndpoint) => "dropped".into(),
        Route::Dropped(DropCause::SourceNotAllowed) => "not allowed".into(),
        Route::OneOf { endpoints, masquerade, .. } => {
            let names: Vec<&str> = endpoints
                .iter()
                .map(|it| if it.address.to_string() == "10.1.0.5" { "here" } else { "elsewhere" })
                .collect();
            let names = match names[..] {
                ["here", "elsewhere"] => "all".into(),
                _ => names.join(" "),
            };
            let star = if masquerade == Masquerade::Always { "*" } else { "" };
            format!("{names}{star}")
        }
    }
}

#[test]
fn clients_reach_endpoints_as_in_kube_proxys_matrix() {
    let mut cells = 0;
    for row in MATRIX.trim().lines().skip(1) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [client, frontend, expected @ ..] = &words[..] else { panic!("{row}") };
        for ((policy, field), expected) in POLICIES.iter().zip(expected) {
            let table = table(field, "{ready: true}", "{ready: true}");
            assert_eq!(&ask(&table, client, frontend), expected, "{client} {frontend} {policy}");
            cells += 1;
        }
    }
    assert_eq!(cells, 36, "27 of kube-proxy, and those of external IPs");
}

/// Traffic from outside, and of pods to the cluster IP, by where endpoints are and how they are.
/// L: `leaving`, terminating and still serving.
const FALLBACK: &str = "
here   elsewhere   eTP-Local:outside  eTP-Local:pod  iTP-Local:pod  Cluster:outside
ready  ready       here               all            here           all*
L      ready       here               elsewhere      here           elsewhere*
ready  L           here               here           here           here*
L      L           here               all            here           all*
gone   ready       dropped            elsewhere      dropped        elsewhere*
gone   L           dropped            elsewhere      dropped        elsewhere*
L      gone        here               here           here           here*
gone   gone        refused            refused        refused        refused
";

#[test]
fn policies_fall_back_to_endpoints_that_leave_each_by_itself() {
    let conditions = |state: &str| match state {
        "ready" => "{ready: true}",
        "L" => "{ready: false, serving: true, terminating: true}",
        "gone" => "{ready: false, serving: false, terminating: true}",
        other => panic!("{other} is no state"),
    };
    for row in FALLBACK.trim().lines().skip(1) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let of =
            |policy: usize| table(POLICIES[policy].1, conditions(words[0]), conditions(words[1]));
        assert_eq!(ask(&of(1), "outside", "NodePort"), words[2], "eTP Local, outside: {row}");
        assert_eq!(ask(&of(1), "outside", "LB"), words[2], "eTP Local, outside, LB: {row}");
        let inside = ask(&of(1), "pod", "NodePort");
        assert_eq!(inside, words[3], "eTP Local, pod: {row}");
        assert_eq!(ask(&of(2), "pod", "ClusterIP"), words[4], "iTP Local, pod: {row}");
        assert_eq!(ask(&of(0), "outside", "LB"), words[5], "Cluster, outside: {row}");
    }
}
