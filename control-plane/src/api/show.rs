//! Objects as clients want to see them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::negotiate::Shape;
use crate::{object, resource::Resource};

/// What a row of a table says of its object beside the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// From `includeObject`.
    pub fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// An object's metadata alone.
pub fn metadata(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata"),
    })
}

/// A table of objects.
pub fn table(
    resource: &Resource,
    objects: &[Value],
    list_metadata: &Value,
    version: &str,
    include: Include,
    heads: bool,
) -> Value {
    let now = Timestamp::now();
    let row = |object: &Value| {
        let shown = match include {
            Include::None => Value::Null,
            Include::Metadata => metadata(object, version),
            Include::Object => object.clone(),
        };
        json!({"cells": (resource.columns.row)(object, now), "object": shown})
    };
    let rows: Vec<Value> = objects.iter().map(row).collect();
    let head = |column: &crate::columns::Column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    };
    let heads: Option<Vec<Value>> =
        heads.then(|| resource.columns.definitions.iter().map(head).collect());
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": list_metadata,
        "columnDefinitions": heads, "rows": rows,
    })
}

/// One object in the shape that was asked for.
pub fn one(
    resource: &Resource,
    object: Value,
    shape: Shape,
    include: Include,
    heads: bool,
) -> Value {
    match shape {
        Shape::Whole => object,
        Shape::Metadata(version) => metadata(&object, version),
        Shape::Table(version) => {
            let of =
                json!({"resourceVersion": object::text(&object, &["metadata", "resourceVersion"])});
            table(resource, &[object], &of, version, include, heads)
        }
    }
}
