//! Questions about rights and tokens, answered and not stored.

use axum::{http::StatusCode, response::Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    answer,
    asked::Asked,
    serve::Server,
    status::{Failure, Reason},
};
use crate::{
    auth::{
        User,
        rbac::Act,
        tokens::{Bearer, Named},
    },
    object::{self, at, map, text},
    resource::Resource,
};

/// Answers a review.
pub fn create(server: &Server, asked: &Asked, resource: &Resource) -> Result<Response, Failure> {
    let mut review = asked.object()?;
    if !review.is_object() {
        review = json!({});
    }
    let top = map(&mut review, &[]);
    top.insert("kind".into(), json!(resource.kind));
    top.insert("apiVersion".into(), json!(resource.api_version()));
    let status = match resource.kind {
        "SelfSubjectReview" => json!({"userInfo": asked.user.as_json()}),
        "TokenReview" => token(server, &review),
        "SelfSubjectAccessReview" => access(server, &asked.user, &review),
        "SelfSubjectRulesReview" => {
            let namespace = text(&review, &["spec", "namespace"]);
            rules(&server.authorizer.rules(&asked.user, namespace))
        }
        _ => {
            let groups = object::list(&review, &["spec", "groups"]).iter();
            let groups = groups.filter_map(Value::as_str).map(str::to_owned).collect();
            let user =
                User { name: text(&review, &["spec", "user"]).into(), uid: String::new(), groups };
            access(server, &user, &review)
        }
    };
    map(&mut review, &[]).insert("status".into(), status);
    let mut response = answer::value(&review, asked.answer()?.format);
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

fn access(server: &Server, user: &User, review: &Value) -> Value {
    let of = |part: &str, field: &str| text(review, &["spec", part, field]).to_owned();
    let act = if at(review, &["spec", "nonResourceAttributes"]).is_some() {
        let part = "nonResourceAttributes";
        Act { verb: of(part, "verb"), path: of(part, "path"), ..Act::default() }
    } else {
        let part = "resourceAttributes";
        let sub = of(part, "subresource");
        let resource = of(part, "resource");
        Act {
            verb: of(part, "verb"),
            group: of(part, "group"),
            resource: if sub.is_empty() { resource } else { format!("{resource}/{sub}") },
            namespace: of(part, "namespace"),
            name: of(part, "name"),
            path: String::new(),
        }
    };
    json!({"allowed": server.authorizer.allows(user, &act)})
}

fn rules(all: &[Value]) -> Value {
    let is_path = |it: &&Value| at(it, &["nonResourceURLs"]).is_some();
    let (paths, resources): (Vec<&Value>, Vec<&Value>) = all.iter().partition(is_path);
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn token(server: &Server, review: &Value) -> Value {
    let audiences = object::list(review, &["spec", "audiences"]).iter();
    let audiences: Vec<String> = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    match server.signer.verify(text(review, &["spec", "token"]), &audiences) {
        Ok(bearer) => json!({
            "authenticated": true, "user": bearer.user().as_json(), "audiences": bearer.audiences,
        }),
        Err(error) => json!({"authenticated": false, "error": error.to_string()}),
    }
}

/// A token for a service account: `serviceaccounts/<name>/token`.
pub fn issue(server: &Server, asked: &Asked, account: &Value) -> Result<Response, Failure> {
    let mut request = asked.object()?;
    let audiences = object::list(&request, &["spec", "audiences"]).iter();
    let audiences = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    let named = |it: &Value| Named { name: object::name(it).into(), uid: object::uid(it).into() };
    let bound = at(&request, &["spec", "boundObjectRef"]).filter(|it| text(it, &["kind"]) == "Pod");
    let pod =
        bound.map(|it| Named { name: text(it, &["name"]).into(), uid: text(it, &["uid"]).into() });
    let bearer = Bearer {
        namespace: object::namespace(account).into(),
        account: named(account),
        pod,
        audiences,
    };
    let life = object::number(&request, &["spec", "expirationSeconds"]);
    let issued = server.signer.issue(&bearer, life);
    let (token, until) =
        issued.map_err(|error| Failure::new(Reason::InternalError, error.to_string()))?;
    let metadata = json!({
        "name": object::name(account), "namespace": object::namespace(account),
        "creationTimestamp": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    let top = map(&mut request, &[]);
    top.insert("kind".into(), json!("TokenRequest"));
    top.insert("apiVersion".into(), json!("authentication.k8s.io/v1"));
    top.insert("metadata".into(), metadata);
    let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    top.insert("status".into(), json!({"token": token, "expirationTimestamp": until}));
    let mut response = answer::value(&request, asked.answer()?.format);
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}
