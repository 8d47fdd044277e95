//! OpenAPI v3 of what is served: kubectl explains, validates and merges by it.
//!
//! Types and their descriptions come from `k8s-openapi`, what lists merge by from our own table, paths
//! from the table of resources.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::LazyLock,
};

use axum::body::Bytes;
use k8s_openapi::{
    api::{
        apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
        autoscaling::v1 as autoscaling, coordination::v1 as coordination, core::v1 as core,
        discovery::v1 as discovery, networking::v1 as networking, policy::v1 as policy,
        rbac::v1 as rbac, scheduling::v1 as scheduling,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
    schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings},
};
use serde_json::{Map, Value, json};

use crate::{
    patch::keys::{Merge, Place, merge_of},
    resource::{Part, RESOURCES, Resource, Verbs, api_version},
};

/// Where types are in a document.
const TYPES: &str = "#/components/schemas/";

/// The document of a group and version.
#[derive(Clone, Debug)]
pub struct Document {
    /// As JSON.
    pub text: Bytes,
    /// Changes when the text does.
    pub hash: String,
}

static DOCUMENTS: LazyLock<BTreeMap<String, Document>> = LazyLock::new(documents);

/// `/openapi/v3`: where the documents are.
pub fn index() -> Value {
    let path = |(name, document): (&String, &Document)| {
        let url = format!("/openapi/v3/{name}?hash={}", document.hash);
        (name.clone(), json!({"serverRelativeURL": url}))
    };
    json!({"paths": DOCUMENTS.iter().map(path).collect::<Map<String, Value>>()})
}

/// The document of `api/v1` or `apis/apps/v1`.
pub fn document(name: &str) -> Option<&'static Document> {
    DOCUMENTS.get(name)
}

/// `/openapi/v2`, for kubectl up to 1.28, which asks for it before it applies: without types, so that
/// it merges by those that it has compiled in. In protobuf (`openapiv2.Document` of gnostic) or JSON.
pub fn v2(in_protobuf: bool) -> Vec<u8> {
    const TITLE: &str = "Kubernetes";
    const VERSION: &str = "v1.33.0";
    if !in_protobuf {
        let info = json!({"title": TITLE, "version": VERSION});
        return json!({"swagger": "2.0", "info": info, "paths": {}}).to_string().into_bytes();
    }
    let field = |number: u32, bytes: &[u8]| {
        let mut text = Vec::new();
        prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut text);
        text
    };
    let info = [field(1, TITLE.as_bytes()), field(2, VERSION.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info), field(8, b"")].concat()
}

fn name_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn documents() -> BTreeMap<String, Document> {
    let (mut types, kinds) = types();
    for (name, schema) in &mut types {
        refine(name, schema);
    }
    for (kind, name) in &kinds {
        if let Some(schema) = types.get_mut(name) {
            let known = schema
                .as_object_mut()
                .map(|it| it.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([])));
            if let Some(Value::Array(all)) = known {
                all.push(gvk(kind.0, kind.1, kind.2));
            }
        }
    }
    let groups: BTreeSet<(&str, &str)> =
        RESOURCES.iter().map(|it| (it.group, it.version)).collect();
    groups
        .into_iter()
        .map(|(group, version)| {
            let paths = paths(group, version, &kinds);
            let text = json!({
                "openapi": "3.0.0",
                "info": {"title": "Kubernetes", "version": "v1.33.0"},
                "paths": paths,
                "components": {"schemas": used(&paths, &types)},
            });
            let text = text.to_string();
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            let hash = format!("{:016X}", hasher.finish());
            (name_of(group, version), Document { text: text.into(), hash })
        })
        .collect()
}

type Kind = (&'static str, &'static str, &'static str);

/// All types by their names, and which kinds they are.
fn types() -> (BTreeMap<String, Value>, BTreeMap<Kind, String>) {
    let settings = SchemaSettings::openapi3().with(|it| {
        it.definitions_path = "/components/schemas".into();
        it.transforms.clear();
    });
    let mut generator = SchemaGenerator::new(settings);
    let mut kinds = BTreeMap::new();
    macro_rules! kinds {
        ($($group:literal $module:ident: $($kind:ident)*;)*) => {$($(
            let _reference = generator.subschema_for::<$module::$kind>();
            let name = <$module::$kind as JsonSchema>::schema_name().into_owned();
            kinds.insert(($group, "v1", stringify!($kind)), name);
        )*)*};
    }
    kinds! {
        "" core: Namespace Node Pod Service Endpoints ConfigMap Secret Event ServiceAccount
            ReplicationController PodTemplate LimitRange Binding;
        "apps" apps: Deployment ReplicaSet;
        "autoscaling" autoscaling: Scale;
        "discovery.k8s.io" discovery: EndpointSlice;
        "coordination.k8s.io" coordination: Lease;
        "policy" policy: PodDisruptionBudget Eviction;
        "networking.k8s.io" networking: ServiceCIDR IPAddress;
        "rbac.authorization.k8s.io" rbac: Role RoleBinding ClusterRole ClusterRoleBinding;
        "scheduling.k8s.io" scheduling: PriorityClass;
        "authentication.k8s.io" authentication: TokenRequest TokenReview SelfSubjectReview;
        "authorization.k8s.io" authorization: SubjectAccessReview SelfSubjectAccessReview
            SelfSubjectRulesReview LocalSubjectAccessReview;
    }
    let _quantity = generator.subschema_for::<Quantity>();
    let mut types: BTreeMap<String, Value> = generator.take_definitions(true).into_iter().collect();
    for (kind, schema) in metrics() {
        let name = format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}");
        types.insert(name.clone(), schema);
        kinds.insert(("metrics.k8s.io", "v1beta1", kind), name);
    }
    (types, kinds)
}

/// What nodes and pods use, which `k8s-openapi` does not have. Source of the fields: `k8s.io/metrics`.
fn metrics() -> [(&'static str, Value); 2] {
    let refer = |name: String| json!({"$ref": format!("{TYPES}{name}")});
    let usage = json!({
        "type": "object", "description": "What was used in the window, by resource.",
        "additionalProperties": refer(Quantity::schema_name().into_owned()),
    });
    let schema = |what: &str, own: &str, property: Value| {
        json!({
            "type": "object", "description": what, "required": ["timestamp", "window", own],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": refer(ObjectMeta::schema_name().into_owned()),
                "timestamp": {
                    "type": "string", "format": "date-time", "description": "When the window ended.",
                },
                "window": {"type": "string", "description": "How long was measured: `10s`."},
                own: property,
            },
        })
    };
    let containers = json!({
        "type": "array", "description": "What each container of the pod used.",
        "items": {
            "type": "object", "required": ["name", "usage"],
            "properties": {"name": {"type": "string"}, "usage": usage},
        },
    });
    [
        ("NodeMetrics", schema("What a node uses.", "usage", usage)),
        ("PodMetrics", schema("What the containers of a pod use.", "containers", containers)),
    ]
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Adds what lists merge by, and gives references their descriptions in the way of OpenAPI 3.0.
fn refine(name: &str, schema: &mut Value) {
    let short = name.rsplit('.').next().unwrap_or(name).to_owned();
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (field, property) in properties {
        if let Some(map) = property.as_object_mut()
            && map.len() > 1
            && let Some(reference) = map.remove("$ref")
        {
            map.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        if property.get("type") == Some(&json!("array")) {
            match merge_of(place(&short, field)) {
                Merge::ByKey(key) => {
                    property["x-kubernetes-patch-merge-key"] = json!(key);
                    property["x-kubernetes-patch-strategy"] = json!("merge");
                }
                Merge::Set => property["x-kubernetes-patch-strategy"] = json!("merge"),
                Merge::Atomic => {}
            }
        }
    }
}

/// Where the lists of a type stand in objects.
fn place<'a>(short: &'a str, field: &'a str) -> Place<'a> {
    let around = match short {
        "Container" | "EphemeralContainer" => "containers",
        "ObjectMeta" => "metadata",
        _ if short.ends_with("Spec") => "spec",
        _ if short.ends_with("Status") => "status",
        _ => "",
    };
    let kind = short.strip_suffix("Spec").or_else(|| short.strip_suffix("Status"));
    Place { kind: kind.unwrap_or(short), around, field }
}

/// The types that some text refers to, and those that they refer to.
fn used(paths: &Value, types: &BTreeMap<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    let mut waiting = Vec::new();
    references(paths, &mut waiting);
    while let Some(name) = waiting.pop() {
        if let (None, Some(schema)) = (found.get(&name), types.get(&name)) {
            references(schema, &mut waiting);
            found.insert(name, schema.clone());
        }
    }
    found
}

fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            into.extend(reference.and_then(|it| it.strip_prefix(TYPES)).map(str::to_owned));
            map.values().for_each(|value| references(value, into));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn paths(group: &str, version: &str, kinds: &BTreeMap<Kind, String>) -> Value {
    let mut paths = Map::new();
    let root = format!("/{}", name_of(group, version));
    for resource in RESOURCES.iter().filter(|it| it.group == group && it.version == version) {
        let place = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let all = format!("{root}{place}/{}", resource.plural);
        let own = (resource.group, resource.version, resource.kind);
        let verbs: &[&str] = match resource.verbs {
            Verbs::All => &["list", "create", "deletecollection"],
            Verbs::CreateOnly => &["create"],
            Verbs::ReadOnly => &["list"],
        };
        paths.insert(all.clone(), operations(resource, own, verbs, kinds));
        if resource.namespaced && resource.verbs != Verbs::CreateOnly {
            let everywhere = format!("{root}/{}", resource.plural);
            paths.insert(everywhere, operations(resource, own, &["list"], kinds));
        }
        let one = format!("{all}/{{name}}");
        match resource.verbs {
            Verbs::All => {
                let verbs = ["get", "update", "patch", "delete"];
                paths.insert(one.clone(), operations(resource, own, &verbs, kinds));
            }
            Verbs::ReadOnly => {
                paths.insert(one.clone(), operations(resource, own, &["get"], kinds));
            }
            Verbs::CreateOnly => {}
        }
        for part in resource.parts {
            let of = kind_of(resource, part);
            paths.insert(
                format!("{one}/{}", part.name),
                operations(resource, of, part.verbs, kinds),
            );
        }
    }
    Value::Object(paths)
}

fn kind_of(resource: &Resource, part: &Part) -> Kind {
    if part.kind.is_empty() {
        (resource.group, resource.version, resource.kind)
    } else if part.version.is_empty() {
        (resource.group, resource.version, part.kind)
    } else {
        (part.group, part.version, part.kind)
    }
}

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    json!({
        "name": name, "in": place, "required": place == "path",
        "schema": {"type": kind, "uniqueItems": true},
    })
}

/// The operations of one path.
fn operations(
    resource: &Resource,
    kind: Kind,
    verbs: &[&str],
    kinds: &BTreeMap<Kind, String>,
) -> Value {
    let schema = kinds.get(&kind).map_or_else(
        || json!({"type": "object"}),
        |name| json!({"$ref": format!("{TYPES}{name}")}),
    );
    let media = |types: &[&str]| -> Value {
        let content = |it: &&str| ((*it).to_owned(), json!({"schema": schema}));
        types.iter().map(content).collect::<Map<String, Value>>().into()
    };
    let bodies = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    let mut all = Map::new();
    for verb in verbs {
        let (method, action) = match *verb {
            "get" => ("get", "get"),
            "list" => ("get", "list"),
            "create" => ("post", "post"),
            "update" => ("put", "put"),
            "patch" => ("patch", "patch"),
            "delete" => ("delete", "delete"),
            "deletecollection" => ("delete", "deletecollection"),
            _ => continue,
        };
        let mut parameters = vec![parameter("pretty", "query", "string")];
        if matches!(*verb, "create" | "update" | "patch" | "delete" | "deletecollection") {
            parameters.push(parameter("dryRun", "query", "string"));
        }
        if matches!(*verb, "create" | "update" | "patch") {
            parameters.push(parameter("fieldManager", "query", "string"));
            parameters.push(parameter("fieldValidation", "query", "string"));
        }
        let mut operation = json!({
            "tags": [api_version(resource.group, resource.version)],
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": media(&bodies)}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(kind.0, kind.1, kind.2),
        });
        match *verb {
            "create" | "update" => operation["requestBody"] = json!({"content": media(&bodies)}),
            "patch" => {
                let types = [
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    "application/apply-patch+yaml",
                ];
                operation["requestBody"] = json!({"content": media(&types)});
            }
            _ => {}
        }
        all.insert(method.into(), operation);
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_a_document_leads_somewhere() {
        for (name, document) in DOCUMENTS.iter() {
            let text: Value = serde_json::from_slice(&document.text).expect("JSON");
            let mut wanted = Vec::new();
            references(&text, &mut wanted);
            assert!(!wanted.is_empty(), "{name} has no types");
            for reference in wanted {
                let found = &text["components"]["schemas"][&reference];
                assert!(found.is_object(), "{name}: {reference}");
            }
        }
    }

    #[test]
    fn a_patch_says_its_kind_and_that_it_validates_and_lists_say_what_they_merge_by() {
        let document = document("apis/apps/v1").expect("apps");
        let text: Value = serde_json::from_slice(&document.text).expect("JSON");
        let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = &text["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let names = patch["parameters"].as_array().expect("parameters").iter();
        assert!(names.map(|it| &it["name"]).any(|it| it == "fieldValidation"));
        let types = &text["components"]["schemas"];
        let pod = &types["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(pod["containers"]["x-kubernetes-patch-merge-key"], "name");
        let container = &types["io.k8s.api.core.v1.Container"]["properties"];
        assert_eq!(container["ports"]["x-kubernetes-patch-merge-key"], "containerPort");
        assert_eq!(container["args"]["x-kubernetes-patch-merge-key"], Value::Null);
        let own = &types["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"];
        assert_eq!(own, &json!([gvk("apps", "v1", "Deployment")]));
    }
}
