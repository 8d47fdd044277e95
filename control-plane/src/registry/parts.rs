//! Subresources that write: bindings, evictions, the finalizers of namespaces.

use serde_json::{Value, json};

use super::{Delete, Part, Registry, Scope, encoded, now};
use crate::{
    api::status::{Cause, Failure, Reason},
    client::Kind,
    object::{self, map},
    resource,
    selector::Selector,
};

const BUDGETS: Kind = Kind { group: "policy", plural: "poddisruptionbudgets" };

impl Registry {
    /// What a client creates under an object.
    pub async fn create_at(
        &self,
        scope: &Scope<'_>,
        name: &str,
        part: &str,
        body: Value,
    ) -> Result<Value, Failure> {
        match (scope.resource.plural, part) {
            ("pods", "binding") => self.bind(scope, name, &body).await,
            ("pods", "eviction") => self.evict(scope, name, &body).await,
            ("namespaces", "finalize") => self.finalize(scope, name, &body).await,
            _ => Err(Failure::new(
                Reason::NotFound,
                format!("the server could not find the requested resource {part}"),
            )),
        }
    }

    async fn bind(&self, scope: &Scope<'_>, name: &str, body: &Value) -> Result<Value, Failure> {
        let node = object::text(body, &["target", "name"]).to_owned();
        if node.is_empty() {
            let cause = Cause::required("target.name", "");
            return Err(Failure::invalid("Binding", "", name, vec![cause]));
        }
        let asked = object::uid(body).to_owned();
        let bind = |pod: &Value| {
            if !asked.is_empty() && asked != object::uid(pod) {
                return Err(scope.conflict(name, "the UID of the binding is not that of the pod"));
            }
            if object::is_terminating(pod) {
                let words = format!("pod {name} is being deleted, cannot be assigned to a host");
                return Err(scope.conflict(name, &words));
            }
            let there = object::text(pod, &["spec", "nodeName"]);
            if !there.is_empty() {
                let words = format!("pod {name} is already assigned to node {there:?}");
                return Err(scope.conflict(name, &words));
            }
            let mut pod = pod.clone();
            map(&mut pod, &["spec"]).insert("nodeName".into(), json!(node));
            let mut conditions = object::list(&pod, &["status", "conditions"]).to_vec();
            conditions.retain(|it| object::text(it, &["type"]) != "PodScheduled");
            conditions.push(json!({
                "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now(),
            }));
            map(&mut pod, &["status"]).insert("conditions".into(), json!(conditions));
            Ok(pod)
        };
        self.change(scope, name, Part::Whole, &bind).await?;
        Ok(success())
    }

    /// Replaces the finalizers in the spec of a namespace; without any it goes, if it was deleted.
    async fn finalize(
        &self,
        scope: &Scope<'_>,
        name: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        let finalizers = object::list(body, &["spec", "finalizers"]);
        let version = object::text(body, &["metadata", "resourceVersion"]);
        let change = |old: &Value| {
            let mut namespace = old.clone();
            map(&mut namespace, &["spec"]).insert("finalizers".into(), json!(finalizers));
            map(&mut namespace, &["metadata"]).insert("resourceVersion".into(), json!(version));
            Ok(namespace)
        };
        self.change(scope, name, Part::Whole, &change).await
    }

    async fn evict(&self, scope: &Scope<'_>, name: &str, body: &Value) -> Result<Value, Failure> {
        let pod = Registry::get(self, scope, name).await?;
        let is_over =
            matches!(object::text(&pod, &["status", "phase"]), "Succeeded" | "Failed" | "Pending");
        if !is_over && !object::is_terminating(&pod) {
            self.disrupt(scope, &pod).await?;
        }
        let options = body.get("deleteOptions").cloned().unwrap_or_default();
        let how = Delete {
            uid: Some(object::uid(&pod).to_owned()),
            grace_s: object::number(&options, &["gracePeriodSeconds"]),
            ..Delete::default()
        };
        self.delete(scope, name, &how).await?;
        Ok(success())
    }

    /// Takes one disruption from the budget that covers the pod.
    async fn disrupt(&self, scope: &Scope<'_>, pod: &Value) -> Result<(), Failure> {
        let Some(budgets) = resource::by_id(BUDGETS) else { return Ok(()) };
        let of = Scope { dry_run: scope.dry_run, ..Scope::new(budgets, scope.namespace) };
        let listing = Registry::list(self, &of, None, 0, None).await?;
        let covers = |budget: &Value| {
            let selector = object::at(budget, &["spec", "selector"]);
            selector.is_some_and(|it| Selector::of(it).selects(pod))
        };
        let covering: Vec<Value> =
            listing.entries.iter().map(encoded::decoded).filter(|it| covers(it)).collect();
        if covering.len() > 1 {
            let words = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Failure::new(Reason::InternalError, words));
        }
        let Some(budget) = covering.first() else { return Ok(()) };
        let name = object::name(budget);
        let take = |budget: &Value| {
            let allowed = object::number(budget, &["status", "disruptionsAllowed"]).unwrap_or(0);
            let seen = object::number(budget, &["status", "observedGeneration"]).unwrap_or(0);
            let generation = object::number(budget, &["metadata", "generation"]).unwrap_or(0);
            if allowed < 1 || seen < generation {
                let healthy = object::number(budget, &["status", "currentHealthy"]).unwrap_or(0);
                let desired = object::number(budget, &["status", "desiredHealthy"]).unwrap_or(0);
                let why = format!(
                    "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
                );
                let cause =
                    Cause { reason: "DisruptionBudget", message: why, field: String::new() };
                let words = "Cannot evict pod as it would violate the pod's disruption budget.";
                return Err(Failure::new(Reason::TooManyRequests, words).because(vec![cause]));
            }
            let mut budget = budget.clone();
            let status = map(&mut budget, &["status"]);
            status.insert("disruptionsAllowed".into(), json!(allowed - 1));
            map(&mut budget, &["status", "disruptedPods"])
                .insert(object::name(pod).to_owned(), json!(now()));
            Ok(budget)
        };
        self.change(&of, name, Part::Status, &take).await.map(drop)
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
