//! From a request to its answer: who asks, whether they may, what it is about.

use std::{sync::Arc, time::Instant};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderValue, Method, header},
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use serde_json::json;

use super::{
    answer,
    asked::{Asked, BODY_MAX},
    audit::{self, Audit},
    connect::{self, Nodes},
    discovery,
    join::{self, Joining},
    metrics::Metrics,
    path::Target,
    query::Query,
    read, reviews, scale,
    status::{Failure, Reason},
    usage, watch, write,
};
use crate::{
    auth::{
        User,
        rbac::{Act, Authorizer},
        tokens::Signer,
    },
    openapi,
    registry::Registry,
    resource::{self, Resource, Verbs},
};

/// What answers requests.
#[expect(missing_debug_implementations, reason = "it holds a key")]
pub struct Server {
    /// Objects.
    pub registry: Arc<Registry>,
    /// Who may do what.
    pub authorizer: Arc<Authorizer>,
    /// Tokens.
    pub signer: Signer,
    /// Where is noted who did what.
    pub audit: Option<Audit>,
    /// The way to nodes.
    pub nodes: Nodes,
    /// How machines become nodes.
    pub joining: Joining,
    /// What was asked and answered.
    pub metrics: Metrics,
}

impl Server {
    /// Answers a request. `certified` is whom the client's certificate names.
    pub async fn answer(&self, request: Request, certified: Option<User>) -> Response {
        let mut seen = audit::Request {
            uri: request.uri().to_string(),
            verb: verb_of_path(request.method()),
            agent: text_of(request.headers(), &header::USER_AGENT).to_owned(),
            received: Timestamp::now(),
            ..audit::Request::default()
        };
        let begun = Instant::now();
        let running = self.metrics.begin();
        let mut response = match self.serve(request, certified, &mut seen).await {
            Ok(response) => response,
            Err(failure) => failure.into_response(),
        };
        drop(running);
        self.metrics.note(&seen, response.status(), begun.elapsed());
        if let Some(audit) = self.audit.as_ref().filter(|_| !is_health(&seen.uri)) {
            audit.note(seen, response.status()).await;
        }
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        response
    }

    async fn serve(
        &self,
        request: Request,
        certified: Option<User>,
        seen: &mut audit::Request,
    ) -> Result<Response, Failure> {
        if matches!(request.uri().path(), join::JOIN | join::AUTHORITY) {
            return self.joining.serve(&self.registry, request).await;
        }
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if let Some(response) = self.health(&path).await {
            return Ok(response);
        }
        let user = self.who(&parts.headers, certified)?;
        seen.user = Some(user.clone());
        let user = self.impersonated(&parts.headers, user)?;
        seen.acts_as = Some(user.clone()).filter(|user| seen.user.as_ref() != Some(user));
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let Some(target) = Target::parse(&path) else {
            self.may(
                &user,
                &Act { verb: verb_of_path(&parts.method), path: path.clone(), ..Act::default() },
            )?;
            if path == "/metrics" {
                let revision = self.registry.store().revision().await?.0;
                return Ok(self.metrics.render(revision).into_response());
            }
            let accept = parts.headers.get(header::ACCEPT).and_then(|it| it.to_str().ok());
            return Self::other(&path, accept.unwrap_or_default());
        };
        let known = resource::by_path(&target.group, &target.version, &target.resource);
        let resource = known.ok_or_else(missing)?;
        let verb = verb(&parts.method, &target, &query)?;
        verb.clone_into(&mut seen.verb);
        seen.target = Some(target.clone());
        self.may(&user, &act(verb, &target))?;
        if connect::is_connection(&target) && resource.part(part_of(&target)).is_some() {
            let request = Request::from_parts(parts, body);
            return self.nodes.serve(&self.registry, &target, &query, request).await;
        }
        let body = to_bytes(body, BODY_MAX).await.map_err(|_too_long| {
            let words = format!("the body of the request is longer than {BODY_MAX} bytes");
            Failure::new(Reason::RequestEntityTooLarge, words)
        })?;
        let asked =
            Asked { method: parts.method, target, query, headers: parts.headers, body, user };
        self.resource(&asked, resource, verb).await
    }

    fn who(&self, headers: &http::HeaderMap, certified: Option<User>) -> Result<User, Failure> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        let token = bearer.and_then(|it| it.strip_prefix("Bearer "));
        match (certified, token) {
            (Some(user), _) => Ok(user),
            (None, Some(token)) => {
                let bearer = self.signer.verify(token.trim(), &[]);
                Ok(bearer.map_err(|_bad| unauthorized())?.user())
            }
            (None, None) => Err(unauthorized()),
        }
    }

    /// The user that somebody acts as, who may: `kubectl --as`.
    fn impersonated(&self, headers: &http::HeaderMap, user: User) -> Result<User, Failure> {
        let text = |name: &str| headers.get(name).and_then(|it| it.to_str().ok());
        let Some(name) = text("impersonate-user") else { return Ok(user) };
        let all = headers.get_all("impersonate-group").iter();
        let mut groups: Vec<String> =
            all.filter_map(|it| it.to_str().ok()).map(str::to_owned).collect();
        let act = |resource: &str, namespace: &str, name: &str| Act {
            verb: "impersonate".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Act::default()
        };
        for group in &groups {
            self.may(&user, &act("groups", "", group))?;
        }
        let account = name.strip_prefix("system:serviceaccount:").and_then(|it| it.split_once(':'));
        match account {
            Some((namespace, account)) => {
                self.may(&user, &act("serviceaccounts", namespace, account))?;
                if groups.is_empty() {
                    groups.push("system:serviceaccounts".into());
                    groups.push(format!("system:serviceaccounts:{namespace}"));
                }
            }
            None => self.may(&user, &act("users", "", name))?,
        }
        if name != "system:anonymous" && !groups.iter().any(|it| it == "system:authenticated") {
            groups.push("system:authenticated".into());
        }
        let uid = text("impersonate-uid").unwrap_or_default().to_owned();
        Ok(User { name: name.into(), uid, groups })
    }

    fn may(&self, user: &User, act: &Act) -> Result<(), Failure> {
        if self.authorizer.allows(user, act) {
            return Ok(());
        }
        let what = if act.resource.is_empty() {
            format!("cannot {} path {:?}", act.verb, act.path)
        } else {
            let place = if act.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", act.namespace)
            };
            format!(
                "cannot {} resource {:?} in API group {:?} {place}",
                act.verb, act.resource, act.group
            )
        };
        let full = if act.group.is_empty() {
            act.resource.clone()
        } else {
            format!("{}.{}", act.resource, act.group)
        };
        let name = if act.name.is_empty() { String::new() } else { format!(" {:?}", act.name) };
        let words = format!("{full}{name} is forbidden: User {:?} {what}", user.name);
        let about = super::status::About {
            group: act.group.clone(),
            kind: act.resource.clone(),
            name: act.name.clone(),
        };
        Err(Failure::new(Reason::Forbidden, words).about(about))
    }

    async fn health(&self, path: &str) -> Option<Response> {
        if !is_health(path) {
            return None;
        }
        Some(match self.registry.store().revision().await {
            Ok(_) => Body::from("ok").into_response(),
            Err(error) => Failure::from(error).into_response(),
        })
    }

    /// Paths that are no resources.
    fn other(path: &str, accept: &str) -> Result<Response, Failure> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let value = match parts.as_slice() {
            ["version"] => Some(version()),
            ["api"] => return Ok(discovery::root(true, accept)),
            ["apis"] => return Ok(discovery::root(false, accept)),
            ["openapi", "v2"] => {
                let in_protobuf = accept.contains("protobuf");
                let kind = if in_protobuf { V2_PROTOBUF } else { "application/json" };
                let kind = HeaderValue::from_static(kind);
                return Ok(
                    ([(header::CONTENT_TYPE, kind)], openapi::v2(in_protobuf)).into_response()
                );
            }
            ["openapi", "v3"] => Some(openapi::index()),
            ["openapi", "v3", name @ ..] => {
                let document = openapi::document(&name.join("/")).ok_or_else(missing)?;
                return Ok(answer::json_text(document.text.clone()));
            }
            ["api", version] => discovery::resources("", version),
            ["apis", group] => discovery::group(group),
            ["apis", group, version] => discovery::resources(group, version),
            _ => None,
        };
        value.map(|value| answer::json_text(value.to_string())).ok_or_else(missing)
    }

    async fn resource(
        &self,
        asked: &Asked,
        resource: &'static Resource,
        verb: &str,
    ) -> Result<Response, Failure> {
        let registry = &self.registry;
        if resource.group == usage::GROUP {
            return match verb {
                "get" | "list" => usage::serve(registry, &self.nodes, asked, resource).await,
                _ => Err(not_allowed()),
            };
        }
        if resource.verbs == Verbs::CreateOnly {
            return match verb {
                "create" => reviews::create(self, asked, resource),
                _ => Err(not_allowed()),
            };
        }
        let part = asked.target.subresource.as_str();
        let first = part.split('/').next().unwrap_or_default();
        if !part.is_empty() && resource.part(first).is_none() {
            return Err(missing());
        }
        match (part, verb) {
            ("scale", _) => return scale::serve(registry, asked, resource, verb).await,
            ("token", "create") => {
                let account = registry.get(&asked.scope(resource)?, &asked.target.name).await?;
                return reviews::issue(self, asked, &account);
            }
            ("binding" | "eviction", "create") => {
                let scope = asked.scope(resource)?;
                let body = asked.object()?;
                let done = registry.create_at(&scope, &asked.target.name, part, body).await?;
                let mut response = answer::value(&done, asked.answer()?.format);
                *response.status_mut() = http::StatusCode::CREATED;
                return Ok(response);
            }
            ("" | "status" | "finalize" | "ephemeralcontainers" | "resize", _) => {}
            _ => {
                let words = format!("no node of this cluster serves {}/{part}", resource.plural);
                return Err(Failure::new(Reason::ServiceUnavailable, words));
            }
        }
        match verb {
            "get" => read::get(registry, asked, resource).await,
            "list" => read::list(registry, asked, resource).await,
            "watch" => watch::watch(registry, asked, resource).await,
            "create" if part.is_empty() => write::create(registry, asked, resource).await,
            "update" => write::update(registry, asked, resource).await,
            "patch" => write::patch(registry, asked, resource).await,
            "delete" if part.is_empty() => write::delete(registry, asked, resource).await,
            "deletecollection" => write::delete_all(registry, asked, resource).await,
            _ => Err(not_allowed()),
        }
    }
}

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn text_of<'h>(headers: &'h http::HeaderMap, name: &header::HeaderName) -> &'h str {
    headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
}

fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"].iter().any(|it| {
        path.strip_prefix(it).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    })
}

fn missing() -> Failure {
    Failure::new(Reason::NotFound, "the server could not find the requested resource")
}

fn not_allowed() -> Failure {
    let words = "the server does not allow this method on the requested resource";
    Failure::new(Reason::MethodNotAllowed, words)
}

fn unauthorized() -> Failure {
    Failure::new(Reason::Unauthorized, "Unauthorized")
}

fn verb_of_path(method: &Method) -> String {
    method.as_str().to_ascii_lowercase()
}

/// The verb of a request, as roles name it.
fn verb(method: &Method, target: &Target, query: &Query) -> Result<&'static str, Failure> {
    let is_one = !target.name.is_empty();
    Ok(match *method {
        Method::GET | Method::HEAD if query.is_on("watch") => "watch",
        Method::GET | Method::HEAD if is_one => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT if is_one => "update",
        Method::PATCH if is_one => "patch",
        Method::DELETE if is_one => "delete",
        Method::DELETE => "deletecollection",
        _ => return Err(not_allowed()),
    })
}

fn part_of(target: &Target) -> &str {
    target.subresource.split('/').next().unwrap_or_default()
}

fn act(verb: &str, target: &Target) -> Act {
    let part = part_of(target);
    let resource = match part {
        "" => target.resource.clone(),
        part => format!("{}/{part}", target.resource),
    };
    Act {
        verb: verb.into(),
        group: target.group.clone(),
        resource,
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        path: String::new(),
    }
}

/// `/version`: the version of the API that is spoken.
fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": concat!("v1.33.0+hashplane-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": concat!("linux/", "amd64"),
    })
}
