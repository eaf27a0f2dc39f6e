//! The Kubernetes API: discovery, health and the reading of objects, with errors in the recorded shapes.

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Body, Status, json as json_answer, plain};
use super::auth::User;
use super::query::{Query, decode};
use super::resources::Resource;
use super::store::{Key, StoreError};
use super::watch::with_type;
use super::{Phase, Shared, health, watch, write};

const LARGEST_BODY: usize = 3 * 1024 * 1024;

/// What a path names.
pub(super) struct Target<'a> {
    pub(super) resource: &'a Resource,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) sub: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    kind: String,
    api_version: String,
    metadata: Value,
    items: Vec<Value>,
}

/// Answers a request of a known user.
pub(super) async fn respond(
    shared: &Shared,
    user: &User,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let path = parts.uri.path().trim_end_matches('/');
    if let Some(response) = fixed(shared, user, &parts.method, path, &query) {
        return response;
    }
    let Some(target) = target(shared, path) else {
        let known_group = path.starts_with("/api/v1/")
            || shared
                .resources
                .document(&path.split('/').take(4).collect::<Vec<_>>().join("/"))
                .is_some();
        return if known_group {
            Status::no_such_resource().response()
        } else {
            plain(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                "404 page not found\n",
            )
        };
    };
    let verb = verb(&parts.method, &target, &query);
    if !user.may(verb, target.resource) {
        return Status::forbidden(
            &user.name,
            verb,
            target.resource,
            &target.namespace,
            &target.name,
        )
        .response();
    }
    if !acceptable(&parts.headers) {
        return Status::not_acceptable().response();
    }
    let body = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Status::bad_request(error.to_string()).response(),
    };
    match verb {
        "list" => list(shared, &target, &query).await,
        "watch" if query.flag("sendInitialEvents") => Status::no_initial_events().response(),
        "watch" => watch::open(&shared.store, target.resource, &target.namespace, &query),
        "get" => match shared.store.get(&target.key()) {
            Some(object) => json_answer(StatusCode::OK, &with_type(target.resource, object)),
            None => target.not_found(),
        },
        "create" | "update" | "patch" | "delete" => {
            let request = write::Request {
                target: &target,
                query: &query,
                headers: &parts.headers,
                body: &body,
            };
            match verb {
                "create" => write::create(shared, &request).await,
                "update" => write::update(shared, &request),
                "patch" => write::patch(shared, &request),
                _ => write::delete(shared, &request),
            }
        }
        _ => Status::method_not_allowed().response(),
    }
}

// Paths that are no objects: health, version, discovery.
fn fixed(
    shared: &Shared,
    user: &User,
    method: &Method,
    path: &str,
    query: &Query,
) -> Option<Response<Body>> {
    let health = matches!(path, "/livez" | "/readyz" | "/healthz");
    let api = matches!(path, "/api" | "/version");
    let document = shared.resources.document(path);
    if !health && !api && document.is_none() {
        return None;
    }
    if method != Method::GET {
        return Some(Status::method_not_allowed().response());
    }
    if !user.may_read_path(path) {
        return Some(Status::forbidden_path(&user.name, "get", path).response());
    }
    if health {
        let up = match shared.phase() {
            Phase::Ready => 2,
            Phase::Hooks => 1,
            Phase::Up | Phase::Starting => 0,
        };
        return Some(health::answer(
            path.trim_start_matches('/'),
            up,
            query.flag("verbose"),
        ));
    }
    if let Some(document) = document {
        let mut response = plain(StatusCode::OK, "application/json", document.to_owned());
        let value = http::HeaderValue::from_static("no-cache, private");
        response.headers_mut().insert(header::CACHE_CONTROL, value);
        return Some(response);
    }
    if path == "/version" {
        return Some(json_answer(StatusCode::OK, &version(&shared.version)));
    }
    let address = format!("{}:{}", shared.node.address, shared.port());
    Some(json_answer(
        StatusCode::OK,
        &json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]}),
    ))
}

fn version(claimed: &str) -> Value {
    let mut numbers = claimed.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or("1"),
        numbers.next().unwrap_or("21"),
    );
    json!({"major": major, "minor": minor, "gitVersion": claimed, "gitCommit": "standin", "gitTreeState": "clean",
        "buildDate": "2026-11-22T23:34:19Z", "goVersion": "standin", "compiler": "rustc",
        "platform": format!("linux/{}", crate::net::architecture())})
}

fn target<'a>(shared: &'a Shared, path: &str) -> Option<Target<'a>> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let find = |plural: &str| shared.resources.find(group, version, plural);
    let built = |resource, namespace: &str, rest: &[&str]| {
        let part = |index: usize| {
            rest.get(index)
                .map_or_else(String::new, |text| decode(text))
        };
        let target = Target {
            resource,
            namespace: namespace.to_owned(),
            name: part(0),
            sub: part(1),
        };
        let known = match target.sub.as_str() {
            "" | "status" => true,
            "binding" | "eviction" => target.resource.id() == "pods",
            _ => false,
        };
        (rest.len() <= 2 && known).then_some(target)
    };
    if let ["namespaces", namespace, plural, rest @ ..] = rest
        && let Some(resource) = find(plural).filter(|resource| resource.namespaced)
    {
        return built(resource, &decode(namespace), rest);
    }
    let (plural, rest) = rest.split_first()?;
    let resource = find(plural)?;
    // Objects in a namespace are only listed over all of them.
    (!resource.namespaced || rest.is_empty())
        .then(|| built(resource, "", rest))
        .flatten()
}

impl Target<'_> {
    pub(super) fn key(&self) -> Key {
        Key::new(self.resource, &self.namespace, &self.name)
    }

    pub(super) fn not_found(&self) -> Response<Body> {
        Status::not_found(self.resource, &self.name).response()
    }

    pub(super) fn refused(&self, error: &StoreError) -> Response<Body> {
        match error {
            StoreError::Exists => Status::already_exists(self.resource, &self.name).response(),
            StoreError::Absent => self.not_found(),
            StoreError::Stale => Status::stale(self.resource, &self.name).response(),
        }
    }
}

fn verb(method: &Method, target: &Target<'_>, query: &Query) -> &'static str {
    match (method.as_str(), target.name.is_empty()) {
        ("POST", false) if matches!(target.sub.as_str(), "binding" | "eviction") => "create",
        _ if matches!(target.sub.as_str(), "binding" | "eviction") => "none",
        ("GET", true) if query.flag("watch") => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", true) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", false) => "delete",
        _ => "none",
    }
}

fn acceptable(headers: &HeaderMap) -> bool {
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.split(';').next().unwrap_or_default().trim())
        .collect();
    accepted.is_empty()
        || accepted
            .iter()
            .any(|kind| matches!(*kind, "*/*" | "application/*" | "application/json"))
}

async fn list(shared: &Shared, target: &Target<'_>, query: &Query) -> Response<Body> {
    let asked = query
        .get("resourceVersion")
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or_default();
    let current = shared.store.version();
    if asked > current {
        shared.clock.wait(3.0).await;
        return Status::version_too_large(asked, current).response();
    }
    let snapshot = shared.store.list(target.resource, &target.namespace);
    let items = snapshot
        .objects
        .into_iter()
        .filter(|object| query.selects(object))
        .collect();
    json_answer(
        StatusCode::OK,
        &List {
            kind: format!("{}List", target.resource.kind),
            api_version: target.resource.api_version(),
            metadata: json!({"resourceVersion": snapshot.version.to_string()}),
            items,
        },
    )
}
