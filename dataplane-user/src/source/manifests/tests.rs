//! What a directory of manifests says, through every way in which files change.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::scan::FILE_BYTES_MAX;
use crate::{
    model::{Kind, ObjectEvent, ObjectName, ObjectRef},
    source::{Error, Health, ManifestSource, ProblemScope, SourceEvent},
};

const WAIT_MAX: Duration = Duration::from_secs(10);

/// Everything that the events said, taken together.
struct Seen {
    directory: TempDir,
    events: mpsc::Receiver<SourceEvent>,
    health: watch::Receiver<Health>,
    /// Service or slice, to its file and its first port.
    objects: BTreeMap<String, (String, i32)>,
    problems: BTreeMap<ProblemScope, Vec<String>>,
    log: Vec<String>,
}

impl Seen {
    async fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let source = ManifestSource::open(directory.path()).unwrap();
        let health = source.health();
        let (sender, events) = mpsc::channel(16);
        tokio::spawn(source.run(sender));
        let (objects, problems) = (BTreeMap::new(), BTreeMap::new());
        let mut seen = Self { directory, events, health, objects, problems, log: Vec::new() };
        seen.until(|seen| seen.log.iter().any(|line| line == "synced")).await;
        seen
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// Writes beside and renames, as editors do.
    fn replace(&self, name: &str, text: &str) {
        let beside = self.path().join(format!(".{name}.new"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path().join(name)).unwrap();
    }

    fn delete(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap();
    }

    async fn until(&mut self, is_reached: impl Fn(&Self) -> bool) {
        while !is_reached(self) {
            let event = timeout(WAIT_MAX, self.events.recv()).await;
            let state = (&self.objects, &self.problems);
            let event = event.unwrap_or_else(|_| panic!("nothing more came: {state:?}"));
            match event.expect("the source runs") {
                SourceEvent::Objects(list) => list.into_iter().for_each(|event| self.object(event)),
                SourceEvent::Problems { scope, list } => {
                    let list: Vec<String> = list.iter().map(ToString::to_string).collect();
                    self.problems.insert(scope, list);
                }
            }
        }
    }

    async fn until_port(&mut self, object: &str, port: i32) {
        self.until(|seen| seen.objects.get(object).is_some_and(|(_, is)| *is == port)).await;
    }

    /// Ends only after the source has seen everything that was written before.
    async fn settle(&mut self) {
        self.replace("zz-settle.yaml", &service("settle", 1));
        self.until_port("Service default/settle", 1).await;
        self.delete("zz-settle.yaml");
        self.until(|seen| !seen.objects.contains_key("Service default/settle")).await;
    }

    fn object(&mut self, event: ObjectEvent) {
        let (name, file, port) = match event {
            ObjectEvent::Service { object, file } => {
                let port = object.spec.and_then(|spec| Some(spec.ports?.first()?.port));
                (reference(Kind::Service, object.metadata), file, port)
            }
            ObjectEvent::EndpointSlice { object, file } => {
                let port = object.ports.and_then(|ports| ports.first()?.port);
                (reference(Kind::EndpointSlice, object.metadata), file, port)
            }
            ObjectEvent::Pod { object, file } => {
                let host_port = |pod: k8s_openapi::api::core::v1::PodSpec| {
                    pod.containers.first()?.ports.as_ref()?.first()?.host_port
                };
                let port = object.spec.and_then(host_port);
                (reference(Kind::Pod, object.metadata), file, port)
            }
            ObjectEvent::Node { object, file } => {
                (reference(Kind::Node, object.metadata), file, None)
            }
            ObjectEvent::Gone(name) => {
                self.log.push(format!("gone {name}"));
                assert!(self.objects.remove(&name.to_string()).is_some(), "{name} was there");
                return;
            }
            ObjectEvent::ListBegin(kind) => return self.log.push(format!("begin {}", kind.name())),
            ObjectEvent::ListEnd(kind) => return self.log.push(format!("end {}", kind.name())),
            ObjectEvent::Synced => return self.log.push("synced".into()),
        };
        self.log.push(name.clone());
        let file = file.expect("objects of files name their file").to_string();
        self.objects.insert(name, (file, port.unwrap_or(0)));
    }

    fn of_file(&self, name: &str) -> &[String] {
        self.problems.get(&ProblemScope::File(name.into())).map_or(&[], Vec::as_slice)
    }

    fn of_source(&self) -> &[String] {
        self.problems.get(&ProblemScope::Source).map_or(&[], Vec::as_slice)
    }
}

type Metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn reference(kind: Kind, metadata: Metadata) -> String {
    let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap());
    ObjectRef { kind, name: ObjectName::new(&namespace, &name) }.to_string()
}

fn service(name: &str, port: i32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.96.0.1\n  \
         ports:\n  - port: {port}\n"
    )
}

fn slice(name: &str, port: i32) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  \
         namespace: shop\naddressType: IPv4\nports:\n- port: {port}\nendpoints: []\n"
    )
}

#[tokio::test]
async fn the_first_scan_names_everything_and_then_says_so() {
    let both = format!(
        "# ours\n---\n{}---\n\n--- # slices\n{}...\n",
        service("web", 80),
        slice("web-1", 8080)
    );
    // The Pod runs nowhere, which is for the table to see.
    let others = "kind: Node\napiVersion: v1\nmetadata: {name: node-1, namespace: lost}\n---\nkind: Pod\n\
                  apiVersion: v1\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    \
                  ports: [{containerPort: 80, hostPort: 8080}]\n";
    let files = [
        ("a.yaml", both.as_str()),
        ("b.yml", &service("dns", 53)),
        ("c.txt", "{"),
        ("d.yaml", others),
    ];
    let seen = Seen::start(&files).await;
    let log = [
        "begin Service",
        "Service default/dns",
        "Service default/web",
        "end Service",
        "begin EndpointSlice",
        "EndpointSlice shop/web-1",
        "end EndpointSlice",
        "begin Pod",
        "Pod default/p",
        "end Pod",
        "begin Node",
        "Node node-1",
        "end Node",
        "synced",
    ];
    assert_eq!(seen.log, log);
    assert_eq!(seen.objects["Service default/dns"], ("b.yml".into(), 53));
    assert_eq!(seen.objects["Pod default/p"], ("d.yaml".into(), 8080));
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    assert!(seen.health.borrow().connected);
    assert!(seen.health.borrow().last_event.is_some());
}

#[tokio::test]
async fn an_empty_directory_is_in_sync_at_once() {
    let seen = Seen::start(&[]).await;
    assert!(seen.objects.is_empty());
}

#[tokio::test]
async fn only_differences_are_told() {
    let two = service("a", 1) + "---\n" + &service("b", 2);
    let mut seen = Seen::start(&[("two.yaml", &two)]).await;
    seen.log.clear();
    seen.replace("two.yaml", &two.replace("port: 2", "port: 3"));
    seen.until_port("Service default/b", 3).await;
    seen.write("two.yaml", &format!("# a comment more\n{}", service("a", 1)));
    seen.until(|seen| seen.objects.len() == 1).await;
    assert_eq!(seen.log, ["Service default/b", "gone Service default/b"]);
}

#[tokio::test]
async fn a_deleted_file_takes_its_objects_away() {
    let mut seen = Seen::start(&[("a.yaml", &service("a", 1)), ("b.yaml", &slice("b", 2))]).await;
    seen.delete("b.yaml");
    seen.until(|seen| seen.objects.len() == 1).await;
    assert!(seen.objects.contains_key("Service default/a"));
}

#[tokio::test]
async fn the_items_of_a_list_are_objects() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "managedFields": [{}]},
         "spec": {"ports": [{"port": 1, "targetPort": "http"}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "other"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"},
         "spec": {"ports": [{"port": "http"}]}}]}"#;
    let mut seen = Seen::start(&[("list.yaml", list)]).await;
    seen.until(|seen| !seen.of_file("list.yaml").is_empty()).await;
    assert_eq!(seen.objects.len(), 1);
    let [problem] = seen.of_file("list.yaml") else { panic!("{:?}", seen.problems) };
    let expected = "list.yaml: document 1: Service default/bad: items[2].spec.ports[0].port: ";
    assert!(problem.starts_with(expected), "{problem}");
}

#[tokio::test]
async fn a_document_that_is_no_yaml_keeps_what_its_file_said_last() {
    let two = service("a", 1) + "---\n" + &service("b", 2);
    let mut seen = Seen::start(&[("two.yaml", &two)]).await;
    let broken = service("a", 7) + "---\nkind: Service\nmetadata: [\n---\n" + &service("c", 3);
    seen.replace("two.yaml", &broken);
    seen.until_port("Service default/a", 7).await;
    assert_eq!(seen.objects["Service default/b"].1, 2);
    assert_eq!(seen.objects["Service default/c"].1, 3);
    let [problem] = seen.of_file("two.yaml") else { panic!("{:?}", seen.problems) };
    assert!(problem.starts_with("two.yaml: document 2: line 1"), "{problem}");
    seen.replace("two.yaml", &service("a", 8));
    seen.until_port("Service default/a", 8).await;
    assert_eq!(seen.objects.len(), 1);
    assert!(seen.of_file("two.yaml").is_empty());
}

#[tokio::test]
async fn a_field_of_the_wrong_type_is_named_with_its_object_and_line() {
    let mut seen = Seen::start(&[("a.yaml", &service("a", 1))]).await;
    let broken = service("b", 1) + "---\n" + &service("a", 1).replace("port: 1", "port: http");
    seen.replace("a.yaml", &broken);
    seen.until(|seen| seen.objects.len() == 2).await;
    assert_eq!(seen.objects["Service default/a"].1, 1);
    let [problem] = seen.of_file("a.yaml") else { panic!("{:?}", seen.problems) };
    let expected = "a.yaml: document 2: Service default/a: spec.ports[0].port (line 17): ";
    assert!(problem.starts_with(expected), "{problem}");
}

#[tokio::test]
async fn an_object_without_a_name_is_a_problem_and_the_others_are_read() {
    let nameless = "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {}\n---\n";
    let kindless = "---\nmetadata:\n  name: what\n";
    let text = format!("{nameless}{}{kindless}", service("a", 1));
    let mut seen = Seen::start(&[("a.yaml", &text)]).await;
    seen.until(|seen| !seen.of_file("a.yaml").is_empty()).await;
    let expected = [
        "a.yaml: document 1: metadata.name: the Service has no name",
        "a.yaml: document 3: kind: is missing",
    ];
    assert_eq!(seen.of_file("a.yaml"), expected);
    assert!(seen.objects.contains_key("Service default/a"));
}

#[tokio::test]
async fn the_first_file_by_name_has_an_object_that_is_in_two() {
    let mut seen = Seen::start(&[("b.yaml", &service("web", 2))]).await;
    seen.write("c.yaml", &service("web", 3));
    seen.until(|seen| !seen.of_file("c.yaml").is_empty()).await;
    assert_eq!(seen.objects["Service default/web"], ("b.yaml".into(), 2));
    let twice = "c.yaml: document 1: Service default/web: is in b.yaml too; that one is used";
    assert_eq!(seen.of_file("c.yaml"), [twice]);
    seen.write("a.yaml", &service("web", 1));
    seen.until_port("Service default/web", 1).await;
    assert_eq!(seen.of_file("b.yaml").len(), 1);
    seen.delete("a.yaml");
    seen.until_port("Service default/web", 2).await;
    seen.delete("b.yaml");
    seen.until_port("Service default/web", 3).await;
    assert!(seen.of_file("b.yaml").is_empty() && seen.of_file("c.yaml").is_empty());
    assert!(!seen.log.iter().any(|line| line.starts_with("gone")), "{:?}", seen.log);
}

#[tokio::test]
async fn the_swap_of_a_mounted_config_map_is_one_change() {
    let directory = tempfile::tempdir().unwrap();
    let mount = |version: &str, port| {
        let data = directory.path().join(version);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("web.yaml"), service("web", port)).unwrap();
        symlink(version, directory.path().join("..data_tmp")).unwrap();
        fs::rename(directory.path().join("..data_tmp"), directory.path().join("..data")).unwrap();
    };
    mount("..1", 1);
    symlink("..data/web.yaml", directory.path().join("web.yaml")).unwrap();
    let source = ManifestSource::open(directory.path()).unwrap();
    let mut seen = Seen::start(&[]).await;
    let (sender, events) = mpsc::channel(16);
    (seen.events, seen.health) = (events, source.health());
    tokio::spawn(source.run(sender));
    seen.until_port("Service default/web", 1).await;
    mount("..2", 2);
    fs::remove_dir_all(directory.path().join("..1")).unwrap();
    seen.until_port("Service default/web", 2).await;
    assert!(!seen.log.iter().any(|line| line.starts_with("gone")), "{:?}", seen.log);
}

#[test]
fn a_directory_that_is_not_there_is_one_clear_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = ManifestSource::open(&missing).unwrap_err();
    assert!(matches!(error, Error::Directory { .. }));
    let expected = format!("cannot read manifests from {}: No such file", missing.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = ManifestSource::open(&file).unwrap_err();
    assert!(error.to_string().contains("Not a directory"), "{error}");
}

#[tokio::test]
async fn a_directory_that_vanishes_is_told_and_waited_for() {
    let mut seen = Seen::start(&[("a.yaml", &service("a", 1))]).await;
    let path = seen.path().to_owned();
    fs::rename(&path, path.with_extension("away")).unwrap();
    seen.until(|seen| !seen.of_source().is_empty()).await;
    assert!(seen.of_source()[0].contains("cannot read: No such file"), "{:?}", seen.of_source());
    assert!(!seen.health.borrow().connected);
    assert_eq!(seen.objects.len(), 1);
    fs::remove_dir_all(path.with_extension("away")).unwrap();
    fs::create_dir(&path).unwrap();
    seen.write("b.yaml", &service("b", 2));
    seen.until_port("Service default/b", 2).await;
    seen.until(|seen| seen.objects.len() == 1 && seen.of_source().is_empty()).await;
    assert!(seen.health.borrow().connected);
    seen.write("b.yaml", &service("b", 3));
    seen.until_port("Service default/b", 3).await;
}

#[tokio::test]
async fn a_file_that_is_no_text_keeps_what_it_said_last() {
    let mut seen = Seen::start(&[("a.yaml", &service("a", 1))]).await;
    fs::write(seen.path().join("a.yaml"), [b'a', 0xff, 0xfe]).unwrap();
    seen.until(|seen| !seen.of_file("a.yaml").is_empty()).await;
    assert!(seen.of_file("a.yaml")[0].starts_with("a.yaml: cannot read: "));
    seen.settle().await;
    assert!(seen.objects.contains_key("Service default/a"));
    seen.delete("a.yaml");
    seen.until(|seen| seen.objects.is_empty() && seen.of_file("a.yaml").is_empty()).await;
}

#[tokio::test]
async fn half_a_file_is_not_read_while_its_writer_has_it_open() {
    use std::io::Write;

    let two = service("a", 1) + "---\n" + &service("b", 2);
    let mut seen = Seen::start(&[("two.yaml", &two)]).await;
    let mut file = fs::File::create(seen.path().join("two.yaml")).unwrap();
    file.write_all(service("a", 5).as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    file.write_all(format!("---\n{}", service("b", 2)).as_bytes()).unwrap();
    drop(file);
    seen.until_port("Service default/a", 5).await;
    assert!(!seen.log.iter().any(|line| line.starts_with("gone")), "{:?}", seen.log);
}

#[tokio::test]
async fn a_list_of_all_services_of_a_large_cluster_is_read() {
    // With more nodes than the YAML parser takes unasked.
    let item = |i| {
        let at = format!("{{port: {}}}", i % 65_535 + 1);
        format!(
            "- {{apiVersion: v1, kind: Service, metadata: {{name: s{i}}}, spec: {{ports: [{at}]}}}}\n"
        )
    };
    let items: String = (0..20_000).map(item).collect();
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{items}");
    let seen = Seen::start(&[("all.yaml", &list)]).await;
    assert_eq!(seen.objects.len(), 20_000, "{:?}", seen.problems);
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_named_and_the_others_are_read() {
    let mut seen = Seen::start(&[("a.yaml", &service("a", 1))]).await;
    // A hole: it takes no room on the disk.
    let file = fs::File::create(seen.path().join("big.yaml")).unwrap();
    file.set_len(FILE_BYTES_MAX + 1).unwrap();
    drop(file);
    seen.until(|seen| !seen.of_file("big.yaml").is_empty()).await;
    assert!(seen.of_file("big.yaml")[0].contains("has 134217729 bytes"), "{:?}", seen.problems);
    assert!(seen.objects.contains_key("Service default/a"));
}

#[tokio::test]
async fn an_alias_bomb_is_a_problem() {
    let line = |i: u32| {
        let items = i.checked_sub(1).map_or_else(|| "x".into(), |below| format!("*a{below}"));
        format!("a{i}: &a{i} [{}]\n", vec![items; 10].join(", "))
    };
    let bomb: String = (0..10).map(line).collect();
    let mut seen = Seen::start(&[("a.yaml", &service("a", 1)), ("bomb.yaml", &bomb)]).await;
    seen.until(|seen| !seen.of_file("bomb.yaml").is_empty()).await;
    assert!(seen.objects.contains_key("Service default/a"));
}
