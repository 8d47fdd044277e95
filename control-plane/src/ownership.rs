//! Who owns which field: `metadata.managedFields`, and server-side apply, which follows from it.
//!
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/>

mod set;
mod shape;
mod walk;

use serde_json::{Value, json};

use self::{set::Set, shape::Shape};
use crate::{
    api::status::{Cause, Failure, Reason},
    object::{self, map, text},
    resource::Resource,
    schema,
};

/// More entries of writers that do not apply are put together into one.
const UPDATES_MAX: usize = 10;
/// The writer in the place of those.
const ANCIENT: &str = "ancient-changes";
/// Fields of `metadata` that nobody owns.
const NOBODYS: [&str; 11] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
    "managedFields",
];

/// How somebody writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The server's own parts, whose fields nobody has to know of.
    Internal,
    /// By replacing and patching.
    Update,
    /// By applying.
    Apply,
}

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Its name.
    pub name: &'a str,
    /// How.
    pub operation: Operation,
    /// Through which subresource; empty for the object itself.
    pub part: &'a str,
    /// The time, as objects carry it.
    pub now: &'a str,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Owner {
    name: String,
    applies: bool,
    version: String,
    part: String,
    time: String,
    fields: Set,
}

impl Owner {
    fn parse(entry: &Value) -> Option<Self> {
        let of = |field: &str| text(entry, &[field]).to_owned();
        let fields = Set::parse(entry.get("fieldsV1")?);
        Some(Self {
            name: of("manager"),
            applies: text(entry, &["operation"]) == "Apply",
            version: of("apiVersion"),
            part: of("subresource"),
            time: of("time"),
            fields,
        })
    }

    fn write(&self) -> Value {
        let mut entry = json!({
            "manager": self.name, "operation": if self.applies { "Apply" } else { "Update" },
            "apiVersion": self.version, "time": self.time, "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.write(),
        });
        if !self.part.is_empty() {
            entry["subresource"] = json!(self.part);
        }
        entry
    }

    fn is(&self, writer: &Writer<'_>, version: &str) -> bool {
        self.name == writer.name
            && self.applies == (writer.operation == Operation::Apply)
            && self.version == version
            && self.part == writer.part
    }
}

/// The owners that an object names; `[{}]` and what is none count as nobody.
fn owners(object: &Value) -> Vec<Owner> {
    object::list(object, &["metadata", "managedFields"]).iter().filter_map(Owner::parse).collect()
}

fn set_owners(object: &mut Value, mut owners: Vec<Owner>) {
    owners.retain(|owner| !owner.fields.is_empty());
    let updates = owners.iter().filter(|owner| !owner.applies && owner.name != ANCIENT).count();
    if updates > UPDATES_MAX {
        put_together(&mut owners, updates - UPDATES_MAX);
    }
    let metadata = map(object, &["metadata"]);
    if owners.is_empty() {
        metadata.remove("managedFields");
    } else {
        let all: Vec<Value> = owners.iter().map(Owner::write).collect();
        metadata.insert("managedFields".into(), json!(all));
    }
}

/// The oldest entries become one.
fn put_together(owners: &mut Vec<Owner>, count: usize) {
    let mut times: Vec<String> = owners
        .iter()
        .filter(|owner| !owner.applies && owner.name != ANCIENT)
        .map(|owner| owner.time.clone())
        .collect();
    times.sort();
    let Some(last) = times.get(count.saturating_sub(1)).cloned() else { return };
    let is_old = |owner: &Owner| !owner.applies && (owner.name == ANCIENT || owner.time <= last);
    let old: Vec<Owner> = owners.extract_if(.., |owner| is_old(owner)).collect();
    let Some(mut ancient) = old.first().cloned() else { return };
    for owner in &old {
        ancient.fields.add(&owner.fields);
    }
    ANCIENT.clone_into(&mut ancient.name);
    ancient.part.clear();
    owners.push(ancient);
}

/// The shape of a kind's objects.
fn shape_of(resource: &Resource) -> Shape {
    let Some(message) = schema::of(&resource.api_version(), resource.kind) else {
        return Shape::Whole;
    };
    Shape::Fields(resource.kind, message)
}

/// What somebody may own of an object, when writing through a part of it.
fn ownable(object: &Value, resource: &Resource, part: &str) -> Value {
    let mut object = object.clone();
    let top = map(&mut object, &[]);
    top.remove("apiVersion");
    top.remove("kind");
    if resource.has_status() && part != "status" {
        top.remove("status");
    }
    if part == "status" {
        top.retain(|field, _| field == "status" || field == "metadata");
    }
    if top.contains_key("metadata") {
        let metadata = map(&mut object, &["metadata"]);
        for field in NOBODYS {
            metadata.remove(field);
        }
        if metadata.is_empty() {
            map(&mut object, &[]).remove("metadata");
        }
    }
    object
}

/// Notes who made a new object.
pub fn created(object: &mut Value, resource: &Resource, writer: &Writer<'_>) {
    if writer.operation != Operation::Update {
        return;
    }
    map(object, &["metadata"]).remove("managedFields");
    updated(&json!({}), object, resource, writer);
}

/// Notes who changed an object.
pub fn updated(old: &Value, new: &mut Value, resource: &Resource, writer: &Writer<'_>) {
    if writer.operation != Operation::Update {
        return;
    }
    let given = object::at(new, &["metadata", "managedFields"]).is_some();
    let mut owners = owners(if given { new } else { old });
    let shape = shape_of(resource);
    let (before, after) =
        (ownable(old, resource, writer.part), ownable(new, resource, writer.part));
    let changed = walk::differing(Some(&before), &after, shape);
    let mut gone = walk::fields(&before, shape);
    gone.subtract(&walk::fields(&after, shape));
    if !changed.is_empty() || !gone.is_empty() {
        let version = resource.api_version();
        for owner in &mut owners {
            owner.fields.subtract(&gone);
            if !owner.is(writer, &version) {
                owner.fields.subtract(&changed);
            }
        }
        own(&mut owners, writer, &version, |fields| fields.add(&changed));
    }
    set_owners(new, owners);
}

/// Changes what a writer owns, and when it did last.
fn own(owners: &mut Vec<Owner>, writer: &Writer<'_>, version: &str, change: impl FnOnce(&mut Set)) {
    if let Some(owner) = owners.iter_mut().find(|owner| owner.is(writer, version)) {
        let before = owner.fields.clone();
        change(&mut owner.fields);
        if owner.fields != before {
            writer.now.clone_into(&mut owner.time);
        }
        return;
    }
    let mut fields = Set::default();
    change(&mut fields);
    owners.push(Owner {
        name: writer.name.to_owned(),
        applies: writer.operation == Operation::Apply,
        version: version.to_owned(),
        part: writer.part.to_owned(),
        time: writer.now.to_owned(),
        fields,
    });
}

/// Applies a configuration: what it says is put in, what its writer said before and says no longer is
/// taken out unless others own it. Others' fields are changed only by force.
pub fn apply(
    live: &Value,
    applied: &Value,
    resource: &Resource,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Failure> {
    let shape = shape_of(resource);
    let version = resource.api_version();
    let wished = ownable(applied, resource, writer.part);
    let now = walk::fields(&wished, shape);
    let mut owners = owners(live);
    let before = owners.iter().find(|owner| owner.is(writer, &version));
    let before = before.map(|owner| owner.fields.clone()).unwrap_or_default();
    let mut object = walk::merged(Some(live), &wished, shape);
    let changed = walk::differing(Some(live), &object, shape);
    let mut conflicts = Vec::new();
    let mut others = Set::default();
    for owner in owners.iter_mut().filter(|owner| !owner.is(writer, &version)) {
        let contested = owner.fields.both(&changed);
        if !contested.is_empty() {
            if !force {
                conflicts.push((owner.clone(), contested.paths()));
            }
            owner.fields.subtract(&contested);
        }
        others.add(&owner.fields);
    }
    if !conflicts.is_empty() {
        return Err(refused(&conflicts));
    }
    let mut gone = before;
    gone.subtract(&now);
    gone.subtract(&others);
    walk::remove(&mut object, &gone, shape);
    own(&mut owners, writer, &version, |fields| *fields = now);
    set_owners(&mut object, owners);
    Ok(object)
}

fn refused(conflicts: &[(Owner, Vec<String>)]) -> Failure {
    let mut causes = Vec::new();
    let mut words = Vec::new();
    for (owner, paths) in conflicts {
        let part = match owner.part.as_str() {
            "" => String::new(),
            part => format!(" with subresource {part:?}"),
        };
        let who = format!("{:?}{part} using {}", owner.name, owner.version);
        let message = format!("conflict with {who}");
        causes.extend(paths.iter().map(|path| Cause {
            reason: "FieldManagerConflict",
            message: message.clone(),
            field: path.clone(),
        }));
        words.push(match paths.as_slice() {
            [path] => format!("conflict with {who}: {path}"),
            paths => format!("conflicts with {who}:\n- {}", paths.join("\n- ")),
        });
    }
    let count = causes.len();
    let plural = if count == 1 { "" } else { "s" };
    let words = format!("Apply failed with {count} conflict{plural}: {}", words.join("\n"));
    Failure::new(Reason::Conflict, words).because(causes)
}

#[cfg(test)]
mod tests;
