//! Commands of every kubectl that is installed, and what each of them prints.

use std::{path::Path, process::Command};

use super::{
    Cluster,
    apply::kubectls,
    rollout::{Nodes, deployment},
    skipped,
};

/// One version of kubectl and a cluster.
struct Session<'c> {
    program: &'c Path,
    cluster: &'c Cluster,
}

impl Session<'_> {
    fn run(&self, line: &str) -> (bool, String) {
        let output = Command::new(self.program)
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HOME", self.cluster.folder.path())
            .env("KUBE_EDITOR", "sed -i s/web:4/web:5/")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// A command that works, and something that it prints.
    fn prints(&self, line: &str, expected: &str) {
        let (worked, text) = self.run(line);
        assert!(worked && text.contains(expected), "{} {line}: {text}", self.program.display());
    }

    /// A command that does not, and something that it complains of.
    fn refuses(&self, line: &str, expected: &str) {
        let (worked, text) = self.run(line);
        assert!(!worked && text.contains(expected), "{} {line}: {text}", self.program.display());
    }
}

fn rollouts(kubectl: &Session<'_>) {
    let ready = "deployment \"web\" successfully rolled out";
    kubectl.prints("rollout status deployment/web --timeout=60s", ready);
    kubectl.prints("set image deployment/web web=web:2", "deployment.apps/web image updated");
    kubectl.prints("rollout status deployment/web --timeout=60s", ready);
    kubectl.prints(
        "rollout history deployment/web",
        "REVISION  CHANGE-CAUSE\n1         <none>\n2         <none>",
    );
    kubectl.prints("rollout history deployment/web --revision=2", "Image:\tweb:2");
    kubectl.prints("rollout undo deployment/web", "deployment.apps/web rolled back");
    kubectl.prints("rollout status deployment/web --timeout=60s", ready);
    kubectl.prints(
        "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}",
        "web:1",
    );
    kubectl.prints("rollout pause deployment/web", "deployment.apps/web paused");
    kubectl.refuses("rollout undo deployment/web", "cannot rollback a paused deployment");
    kubectl.prints("set image deployment/web web=web:3", "image updated");
    kubectl.prints("rollout resume deployment/web", "deployment.apps/web resumed");
    kubectl.prints("rollout restart deployment/web", "deployment.apps/web restarted");
    kubectl.prints("rollout status deployment/web --timeout=60s", ready);
    kubectl.prints(
        "scale deployment/web --replicas=2 --current-replicas=3",
        "deployment.apps/web scaled",
    );
    kubectl.refuses(
        "scale deployment/web --replicas=2 --current-replicas=9",
        "Expected replicas to be 9, was 2",
    );
    kubectl.prints(
        "wait deployment/web --for=jsonpath={.status.readyReplicas}=2 --timeout=60s",
        "condition met",
    );
}

fn changes(kubectl: &Session<'_>) {
    kubectl.prints("set image deployment/web web=web:4", "image updated");
    kubectl.prints("edit deployment web", "deployment.apps/web edited");
    kubectl.prints("get deployment web -o wide", "web:5");
    kubectl.prints("label deployment web tier=front", "deployment.apps/web labeled");
    kubectl.refuses("label deployment web tier=back", "already has a value (front)");
    kubectl.prints("annotate deployment web note=x", "deployment.apps/web annotate");
    kubectl.prints("set env deployment/web A=b", "deployment.apps/web env updated");
    kubectl
        .prints("set resources deployment web --requests=cpu=10m", "resource requirements updated");
    kubectl.prints("get deployments -l tier=front -o name", "deployment.apps/web");
    kubectl.prints("get deployment web -o go-template={{.metadata.name}}", "web");
    kubectl.prints("get deployments --sort-by=.metadata.name --no-headers", "web");
    kubectl.prints(
        "patch deployment web --type=merge -p {\"spec\":{\"minReadySeconds\":0}}",
        "deployment.apps/web patched",
    );
    kubectl.refuses(
        "patch deployment web -p {\"spec\":{\"selector\":{\"matchLabels\":{\"a\":\"b\"}}}}",
        "field is immutable",
    );
    kubectl.refuses("get deployments --field-selector spec.nothing=1", "field label not supported");
}

fn others(kubectl: &Session<'_>) {
    kubectl.prints("expose deployment web --port=80 --target-port=8080", "service/web exposed");
    kubectl.prints("get service web", "80/TCP");
    kubectl.prints("describe service web", "TargetPort:");
    kubectl.prints("run busy --image=busy:1 --labels=app=busy", "pod/busy created");
    kubectl.prints("wait pod/busy --for=condition=Ready --timeout=60s", "pod/busy condition met");
    kubectl.prints("describe pod busy", "QoS Class:                   BestEffort");
    kubectl.prints(
        "get events --field-selector involvedObject.name=busy",
        "Successfully assigned default/busy to simulated-",
    );
    kubectl.prints("events --for pod/busy", "Scheduled");
    kubectl.prints("delete pod busy --now", "pod \"busy\" deleted");
    kubectl.prints("create namespace shop", "namespace/shop created");
    kubectl.prints("create quota q --hard=pods=1 --dry-run=client -o yaml", "kind: ResourceQuota");
    kubectl.prints("create configmap a --from-literal=k=v -n shop", "configmap/a created");
    kubectl.prints("get configmap a -n shop -o yaml", "k: v");
    kubectl.prints(
        "create pdb web --selector=app=web --min-available=2",
        "poddisruptionbudget.policy/web created",
    );
    kubectl.prints("delete namespace shop --timeout=30s", "namespace \"shop\" deleted");
    kubectl.prints("api-resources --api-group=apps", "deployments");
    kubectl.prints("api-versions", "discovery.k8s.io/v1");
    kubectl.prints("cluster-info", "Kubernetes control plane");
    kubectl.prints("version", "Server Version");
    kubectl.prints("auth can-i --list", "*.*");
    kubectl.prints("auth can-i create pods/eviction", "yes");
    kubectl.prints("get --raw /metrics", "apiserver_request_total{verb=\"LIST\"");
    // Simulated nodes measure nothing.
    kubectl.refuses("top pods", "metrics not available yet");
    kubectl.prints("explain podmetrics.containers.usage", "What was used in the window");
    kubectl.refuses("get unicorns", "the server doesn't have a resource type \"unicorns\"");
    kubectl.refuses("get pod nobody", "pods \"nobody\" not found");
}

fn nodes(kubectl: &Session<'_>) {
    kubectl.prints("get nodes", "Ready");
    kubectl.prints("describe node simulated-0", "Lease:");
    kubectl.prints("taint node simulated-0 k=v:PreferNoSchedule", "node/simulated-0 tainted");
    kubectl.prints("taint node simulated-0 k-", "node/simulated-0 untainted");
    kubectl.prints("cordon simulated-0", "node/simulated-0 cordoned");
    kubectl.prints("uncordon simulated-0", "node/simulated-0 uncordoned");
    // The budget lets nobody go who would be missed.
    kubectl.prints("rollout status deployment/web --timeout=60s", "successfully rolled out");
    kubectl.prints("delete pdb web", "deleted");
    kubectl
        .prints("drain simulated-1 --ignore-daemonsets --timeout=60s", "node/simulated-1 drained");
    kubectl.prints("uncordon simulated-1", "uncordoned");
}

#[test]
fn every_kubectl_gets_what_it_expects() {
    if skipped("every_kubectl_gets_what_it_expects") {
        return;
    }
    // The oldest, one between and the newest: each takes half a minute.
    let mut programs = kubectls();
    programs.sort();
    let last = programs.len() - 1;
    for index in std::collections::BTreeSet::from([0, last / 2, last]) {
        let program = programs[index].clone();
        let cluster = Cluster::start();
        let _nodes = Nodes::start(&cluster, 3);
        cluster.created(&deployment("web", 3, "web:1"));
        let kubectl = Session { program: &program, cluster: &cluster };
        rollouts(&kubectl);
        changes(&kubectl);
        others(&kubectl);
        nodes(&kubectl);
        kubectl.prints("delete deployment,service web", "deleted");
    }
}
