//! What plans and statuses come of pods in all their states.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use serde_json::{Value, json};

use super::{
    plan::{self, Act, Memory, Patience, Why},
    seen::{Sandbox, Seen, Stage, World},
    status::{self, Facts, Waiting},
};

const PATIENCE: Patience =
    Patience { first: Duration::from_secs(10), most: Duration::from_mins(5) };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).expect("a time")
}

fn pod(spec: &Value) -> Pod {
    let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "u"}, "spec": spec});
    serde_json::from_value(pod).expect("a pod")
}

fn container(name: &str) -> Value {
    json!({"name": name, "image": "i"})
}

fn with_sandbox(containers: Vec<Seen>) -> World {
    let sandbox = Sandbox {
        id: "s".into(),
        is_ready: true,
        attempt: 0,
        addresses: vec!["10.0.0.1".parse().expect("an address")],
    };
    World { sandboxes: vec![sandbox], containers }
}

fn seen(name: &str, stage: Stage, code: i32, restarts: u32) -> Seen {
    Seen {
        id: format!("{name}-{restarts}"),
        sandbox: "s".into(),
        name: name.into(),
        stage,
        restarts,
        hash: String::new(),
        created: at(0),
        started: Some(at(0)),
        finished: (stage == Stage::Exited).then(|| at(5)),
        code,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_id: "sha256:1".into(),
        log_path: String::new(),
    }
}

fn plan(pod: &Pod, world: &World, memory: &Memory, now: i64) -> Vec<Act> {
    plan::plan(pod, world, memory, PATIENCE, &BTreeMap::new(), at(now))
}

fn start(name: &str, restarts: u32) -> Act {
    Act::Start(name.into(), restarts)
}

#[test]
fn a_new_pod_gets_a_sandbox_and_then_its_containers() {
    let pod = pod(&json!({"containers": [container("a"), container("b")]}));
    let memory = Memory::default();
    assert_eq!(plan(&pod, &World::default(), &memory, 0), [Act::MakeSandbox(0)]);
    let world = with_sandbox(Vec::new());
    assert_eq!(plan(&pod, &world, &memory, 0), [start("a", 0), start("b", 0)]);
    let world = with_sandbox(vec![seen("a", Stage::Running, 0, 0)]);
    assert_eq!(plan(&pod, &world, &memory, 0), [start("b", 0)]);
}

#[test]
fn init_containers_run_one_after_another_and_sidecars_go_on() {
    let mut side = container("side");
    side["restartPolicy"] = json!("Always");
    side["startupProbe"] = json!({"exec": {"command": ["x"]}});
    let pod = pod(&json!({
        "initContainers": [container("first"), side, container("last")],
        "containers": [container("main")],
    }));
    let mut memory = Memory::default();
    let mut all = Vec::new();
    assert_eq!(plan(&pod, &with_sandbox(all.clone()), &memory, 0), [start("first", 0)]);
    all.push(seen("first", Stage::Running, 0, 0));
    assert_eq!(plan(&pod, &with_sandbox(all.clone()), &memory, 0), []);
    all[0] = seen("first", Stage::Exited, 0, 0);
    assert_eq!(plan(&pod, &with_sandbox(all.clone()), &memory, 6), [start("side", 0)]);
    all.push(seen("side", Stage::Running, 0, 0));
    assert_eq!(plan(&pod, &with_sandbox(all.clone()), &memory, 6), [], "it has not started yet");
    memory.started.insert("side-0".into(), true);
    assert_eq!(plan(&pod, &with_sandbox(all.clone()), &memory, 6), [start("last", 0)]);
    all.push(seen("last", Stage::Exited, 0, 0));
    assert_eq!(plan(&pod, &with_sandbox(all.clone()), &memory, 6), [start("main", 0)]);
    all.push(seen("main", Stage::Running, 0, 0));
    // A sidecar that ends is started again, whatever else runs.
    all[1] = seen("side", Stage::Exited, 1, 0);
    assert_eq!(plan(&pod, &with_sandbox(all), &memory, 6), [start("side", 1)]);
}

#[test]
fn a_container_that_ends_again_and_again_waits_ever_longer() {
    let pod = pod(&json!({"containers": [container("a")]}));
    let mut memory = Memory::default();
    let ended = seen("a", Stage::Exited, 1, 0);
    let world = with_sandbox(vec![ended.clone()]);
    assert_eq!(plan(&pod, &world, &memory, 5), [start("a", 1)], "the first time at once");
    let mut delays = Vec::new();
    for _ in 0..7 {
        memory.starts_again(&ended, at(5), PATIENCE);
        delays.push(memory.back_off["a"].delay.as_secs());
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(plan(&pod, &world, &memory, 6), [Act::Later("a".into(), Duration::from_secs(299))]);
    assert_eq!(plan(&pod, &world, &memory, 305), [start("a", 1)]);
    // One that has run for long begins anew.
    let mut late = ended;
    late.finished = Some(at(1_000));
    assert_eq!(memory.due(&late, PATIENCE), at(1_000));
    memory.starts_again(&late, at(1_000), PATIENCE);
    assert_eq!(memory.back_off["a"].delay.as_secs(), 10);
}

#[test]
fn policies_say_what_runs_again() {
    for (policy, code, expected) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let pod = pod(&json!({"restartPolicy": policy, "containers": [container("a")]}));
        let world = with_sandbox(vec![seen("a", Stage::Exited, code, 0)]);
        let acts = plan(&pod, &world, &Memory::default(), 6);
        assert_eq!(acts.contains(&start("a", 1)), expected, "{policy} {code}");
        assert_eq!(plan::is_over(&pod, &world), !expected, "{policy} {code}");
    }
}

#[test]
fn what_fails_its_probe_or_is_changed_is_ended() {
    let pod = pod(&json!({"containers": [container("a")]}));
    let world = with_sandbox(vec![seen("a", Stage::Running, 0, 3)]);
    let mut memory = Memory::default();
    let hashes = BTreeMap::from([("a".to_owned(), "other".to_owned())]);
    let acts = plan::plan(&pod, &world, &memory, PATIENCE, &hashes, at(0));
    assert_eq!(acts, [Act::Stop("a-3".into(), Why::Changed)]);
    memory.failing.insert("a-3".into(), Why::Liveness);
    assert_eq!(plan(&pod, &world, &memory, 0), [Act::Stop("a-3".into(), Why::Liveness)]);
}

#[test]
fn a_sandbox_that_died_is_replaced_with_what_ran_in_it() {
    let pod = pod(&json!({"containers": [container("a")]}));
    let mut world = with_sandbox(vec![seen("a", Stage::Exited, 137, 0)]);
    world.sandboxes[0].is_ready = false;
    assert_eq!(plan(&pod, &world, &Memory::default(), 6), [Act::MakeSandbox(1)]);
    let mut next = world.sandboxes[0].clone();
    (next.id, next.is_ready, next.attempt) = ("t".into(), true, 1);
    world.sandboxes.insert(0, next);
    assert_eq!(plan(&pod, &world, &Memory::default(), 6), [start("a", 1)]);
}

#[test]
fn sidecars_end_one_after_another_from_behind_once_the_pod_is_done() {
    let side = |name: &str| json!({"name": name, "restartPolicy": "Always"});
    let pod = pod(&json!({
        "restartPolicy": "Never", "initContainers": [side("s1"), side("s2")],
        "containers": [container("a")],
    }));
    let mut all = vec![
        seen("a", Stage::Exited, 0, 0),
        seen("s1", Stage::Running, 0, 0),
        seen("s2", Stage::Running, 0, 0),
    ];
    let acts = plan(&pod, &with_sandbox(all.clone()), &Memory::default(), 6);
    assert_eq!(acts, [Act::Stop("s2-0".into(), Why::Over)]);
    all[2] = seen("s2", Stage::Exited, 0, 0);
    let acts = plan(&pod, &with_sandbox(all), &Memory::default(), 6);
    assert_eq!(acts, [Act::Stop("s1-0".into(), Why::Over)]);
}

fn told(pod: &Pod, world: &World, waiting: &[(&str, &str)], ready: &[(&str, bool)]) -> PodStatus {
    let waiting = waiting.iter().map(|(name, reason)| {
        let waiting = Waiting { reason: (*reason).into(), message: String::new() };
        ((*name).to_owned(), waiting)
    });
    let ready = ready.iter().map(|(id, is)| ((*id).to_owned(), *is)).collect();
    let facts = Facts {
        world,
        waiting: &waiting.collect(),
        ready: &ready,
        started: &BTreeMap::new(),
        messages: &BTreeMap::new(),
        host: &["192.0.2.1".parse().expect("an address")],
        is_ending: false,
        now: at(10),
    };
    status::status(pod, &facts)
}

fn condition(status: &PodStatus, name: &str) -> (String, Option<String>) {
    let conditions = status.conditions.as_ref().expect("conditions");
    let condition = conditions.iter().find(|it| it.type_ == name).expect("a condition");
    (condition.status.clone(), condition.reason.clone())
}

fn first(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().expect("statuses")[0]
}

#[test]
fn a_pod_is_ready_once_all_its_probes_say_so() {
    let mut main = container("a");
    main["readinessProbe"] = json!({"tcpSocket": {"port": 1}});
    let pod = pod(&json!({"containers": [main]}));
    let world = with_sandbox(vec![seen("a", Stage::Running, 0, 0)]);
    let status = told(&pod, &world, &[], &[]);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Ready"), ("False".into(), Some("ContainersNotReady".into())));
    assert!(!first(&status).ready);
    let status = told(&pod, &world, &[], &[("a-0", true)]);
    assert_eq!(condition(&status, "Ready"), ("True".into(), None));
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.1"));
}

#[test]
fn a_container_that_waits_says_why_and_how_it_ended_before() {
    let pod = pod(&json!({"containers": [container("a")]}));
    let status = told(&pod, &with_sandbox(Vec::new()), &[("a", "ErrImagePull")], &[]);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let state = first(&status).state.as_ref().and_then(|it| it.waiting.as_ref());
    assert_eq!(state.and_then(|it| it.reason.as_deref()), Some("ErrImagePull"));
    let world = with_sandbox(vec![seen("a", Stage::Exited, 7, 2)]);
    let status = told(&pod, &world, &[("a", "CrashLoopBackOff")], &[]);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let last = first(&status).last_state.as_ref().and_then(|it| it.terminated.as_ref());
    assert_eq!(last.map(|it| it.exit_code), Some(7));
    assert_eq!(first(&status).restart_count, 2);
}

#[test]
fn a_pod_that_is_done_says_how() {
    for (policy, code, expected) in
        [("Never", 0, "Succeeded"), ("Never", 1, "Failed"), ("OnFailure", 0, "Succeeded")]
    {
        let pod = pod(&json!({"restartPolicy": policy, "containers": [container("a")]}));
        let world = with_sandbox(vec![seen("a", Stage::Exited, code, 0)]);
        let status = told(&pod, &world, &[], &[]);
        assert_eq!(status.phase.as_deref(), Some(expected), "{policy} {code}");
        assert_eq!(condition(&status, "Ready").0, "False");
    }
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let pod = pod(&json!({
        "restartPolicy": "Never", "initContainers": [container("i")], "containers": [container("a")],
    }));
    let world = with_sandbox(vec![seen("i", Stage::Exited, 3, 0)]);
    let status = told(&pod, &world, &[], &[]);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&status, "Initialized").0, "False");
}
