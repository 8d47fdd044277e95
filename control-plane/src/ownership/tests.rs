//! Applying and updating, by example and by property.

use proptest::prelude::*;

use super::*;
use crate::resource;

fn deployments() -> &'static Resource {
    resource::by_path("apps", "v1", "deployments").expect("deployments")
}

fn writer(name: &str, operation: Operation) -> Writer<'_> {
    Writer { name, operation, part: "", now: "2026-01-01T00:00:00Z" }
}

fn applied(live: &Value, config: &Value, name: &str, force: bool) -> Result<Value, Failure> {
    apply(live, config, deployments(), &writer(name, Operation::Apply), force)
}

fn update(old: &Value, new: &Value, name: &str) -> Value {
    let mut new = new.clone();
    updated(old, &mut new, deployments(), &writer(name, Operation::Update));
    new
}

fn config(more: &Value) -> Value {
    let mut config =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
    config["spec"] = more.clone();
    config
}

fn owned(object: &Value, name: &str) -> Value {
    let owners = owners(object);
    owners.iter().find(|it| it.name == name).map_or(Value::Null, |it| it.fields.write())
}

#[test]
fn what_left_the_configuration_goes_unless_somebody_else_owns_it() {
    let first = config(&json!({"replicas": 3, "paused": true, "minReadySeconds": 5}));
    let object = applied(&json!({}), &first, "a", false).expect("no conflict");
    assert_eq!(
        owned(&object, "a"),
        json!({"f:spec": {"f:minReadySeconds": {}, "f:paused": {}, "f:replicas": {}}})
    );
    let object =
        applied(&object, &config(&json!({"paused": true})), "b", false).expect("the same value");
    let object = applied(&object, &config(&json!({"replicas": 4})), "a", false).expect("its own");
    assert_eq!(object["spec"], json!({"replicas": 4, "paused": true}));
    assert_eq!(owned(&object, "b"), json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn others_fields_change_by_force_alone() {
    let object = applied(&json!({}), &config(&json!({"replicas": 3})), "a", false).expect("new");
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = json!(5);
    let object = update(&object, &scaled, "kubectl");
    assert_eq!(owned(&object, "a"), Value::Null);
    assert_eq!(owned(&object, "kubectl"), json!({"f:spec": {"f:replicas": {}}}));
    let failure =
        applied(&object, &config(&json!({"replicas": 3})), "a", false).expect_err("taken");
    let status = failure.status();
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let same =
        applied(&object, &config(&json!({"replicas": 5})), "a", false).expect("the same value");
    assert_eq!(owned(&same, "kubectl"), json!({"f:spec": {"f:replicas": {}}}));
    let forced = applied(&object, &config(&json!({"replicas": 3})), "a", true).expect("forced");
    assert_eq!((&forced["spec"]["replicas"], owned(&forced, "kubectl")), (&json!(3), Value::Null));
}

#[test]
fn items_of_lists_are_merged_by_what_tells_them_apart() {
    let containers = |all: Value| config(&json!({"template": {"spec": {"containers": all}}}));
    let web = json!([{"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}]}]);
    let object = applied(&json!({}), &containers(web), "a", false).expect("new");
    let side = json!([{"name": "side", "image": "side:1"}]);
    let object = applied(&object, &containers(side), "b", false).expect("another item");
    let names = |object: &Value| {
        let all = object["spec"]["template"]["spec"]["containers"].as_array().cloned();
        all.into_iter()
            .flatten()
            .map(|it| it["name"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&object), ["web", "side"]);
    let image = json!([{"name": "web", "image": "web:2"}]);
    let object = applied(&object, &containers(image), "a", false).expect("its own");
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"][0],
        json!({"name": "web", "image": "web:2"})
    );
    let object = applied(&object, &config(&json!({})), "b", false).expect("nothing left");
    assert_eq!(names(&object), ["web"]);
}

#[test]
fn an_update_that_changes_nothing_notes_nothing() {
    let object = applied(&json!({}), &config(&json!({"replicas": 3})), "a", false).expect("new");
    assert_eq!(update(&object, &object, "b"), object);
    let mut bare = object.clone();
    bare["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    assert_eq!(update(&object, &bare, "b"), object);
}

#[test]
fn many_writers_become_ancient() {
    let mut object = config(&json!({}));
    for number in 0..14 {
        let mut new = object.clone();
        new["metadata"]["labels"][format!("l{number}")] = json!("x");
        let name = format!("w{number}");
        let now = format!("2026-01-01T00:00:{number:02}Z");
        let writer = Writer { name: &name, operation: Operation::Update, part: "", now: &now };
        updated(&object, &mut new, deployments(), &writer);
        object = new;
    }
    assert_eq!(owners(&object).len(), UPDATES_MAX + 1);
    let all: usize = owners(&object).iter().map(|it| it.fields.paths().len()).sum();
    assert_eq!(all, 14);
}

/// Some of a few fields with some of a few values.
fn configs() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..3);
    let envs = proptest::collection::btree_map("[AB]", "[12]", 0..3);
    (labels, envs, proptest::option::of(0..3_i64), proptest::option::of(proptest::bool::ANY))
        .prop_map(|(labels, envs, replicas, paused)| {
            let mut all = config(&json!({}));
            if !labels.is_empty() {
                all["metadata"]["labels"] = json!(labels);
            }
            if let Some(replicas) = replicas {
                all["spec"]["replicas"] = json!(replicas);
            }
            if let Some(paused) = paused {
                all["spec"]["paused"] = json!(paused);
            }
            let envs: Vec<Value> =
                envs.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            if !envs.is_empty() {
                all["spec"]["template"]["spec"]["containers"] =
                    json!([{"name": "web", "env": envs}]);
            }
            all
        })
}

fn clean(object: &Value) -> Value {
    ownable(object, deployments(), "")
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in configs(), second in configs()) {
        let object = applied(&json!({}), &first, "a", false).expect("new");
        let once = applied(&object, &second, "b", true).expect("forced");
        let twice = applied(&once, &second, "b", false).expect("nobody else's");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn who_applies_alone_gets_exactly_what_it_says(first in configs(), second in configs()) {
        let object = applied(&json!({}), &first, "a", false).expect("new");
        let object = applied(&object, &second, "a", false).expect("its own");
        let mut expected = clean(&second);
        let mut found = clean(&object);
        // An empty map that was left behind says nothing.
        for it in [&mut expected, &mut found] {
            if it["spec"] == json!({}) || it["spec"].is_null() {
                map(it, &[]).remove("spec");
            }
        }
        prop_assert_eq!(found, expected);
        let shape = shape_of(deployments());
        let own = owners(&object).first().map(|it| it.fields.clone()).unwrap_or_default();
        prop_assert_eq!(own, walk::fields(&clean(&second), shape));
    }

    #[test]
    fn without_a_conflict_the_order_of_two_writers_does_not_matter(first in configs(), second in configs()) {
        let start = json!({});
        let ab = applied(&start, &first, "a", false).and_then(|it| applied(&it, &second, "b", false));
        let ba = applied(&start, &second, "b", false).and_then(|it| applied(&it, &first, "a", false));
        prop_assert_eq!(ab.is_ok(), ba.is_ok());
        if let (Ok(ab), Ok(ba)) = (ab, ba) {
            let sorted = |object: &Value| {
                let mut object = clean(object);
                let env = object.pointer_mut("/spec/template/spec/containers/0/env");
                if let Some(Value::Array(env)) = env {
                    env.sort_by_key(ToString::to_string);
                }
                object
            };
            prop_assert_eq!(sorted(&ab), sorted(&ba));
        }
    }
}
