//! The Kubernetes API: discovery, health and generic objects, with errors in the recorded shapes.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Body, Status, json as json_answer, plain};
use super::auth::User;
use super::resources::{self, Resource};
use super::store::{Key, StoreError};
use super::watch::with_type;
use super::{Phase, Shared, health, patch, timeline, watch};
use crate::token;

const LARGEST_BODY: usize = 3 * 1024 * 1024;

/// The query of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(value)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| matches!(value, "" | "1" | "true"))
    }

    /// Whether the selectors let an object pass.
    pub(super) fn selects(&self, object: &Value) -> bool {
        self.get("fieldSelector")
            .is_none_or(|text| terms(text).all(|term| field_matches(object, term)))
            && self
                .get("labelSelector")
                .is_none_or(|text| terms(text).all(|term| label_matches(object, term)))
    }
}

fn terms(selector: &str) -> impl Iterator<Item = &str> {
    selector
        .split(',')
        .map(str::trim)
        .filter(|term| !term.is_empty())
}

fn field_matches(object: &Value, term: &str) -> bool {
    compare(term, |path| {
        let value = path.split('.').fold(object, |value, field| &value[field]);
        value.as_str()
    })
}

fn label_matches(object: &Value, term: &str) -> bool {
    compare(term, |label| object["metadata"]["labels"][label].as_str())
}

fn compare<'a>(term: &str, value: impl Fn(&str) -> Option<&'a str>) -> bool {
    if let Some((name, wanted)) = term.split_once("!=") {
        value(name) != Some(wanted)
    } else if let Some((name, wanted)) = term.split_once('=') {
        value(name).unwrap_or_default() == wanted.trim_start_matches('=')
    } else if let Some(name) = term.strip_prefix('!') {
        value(name).is_none()
    } else {
        value(term).is_some()
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a path names.
struct Target<'a> {
    resource: &'a Resource,
    namespace: String,
    name: String,
    sub: String,
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
            || resources::document(&path.split('/').take(4).collect::<Vec<_>>().join("/"))
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
        "create" => create(shared, &target, &query, &body),
        "update" => update(shared, &target, &body),
        "patch" => apply_patch(shared, &target, &parts.headers, &body),
        "delete" => delete(shared, &target, &body),
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
    let document = resources::document(path);
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
        let mut response = plain(StatusCode::OK, "application/json", document);
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
        // No subresource but the status is kept.
        (rest.len() <= 2 && matches!(target.sub.as_str(), "" | "status")).then_some(target)
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
    fn key(&self) -> Key {
        Key::new(self.resource, &self.namespace, &self.name)
    }

    fn not_found(&self) -> Response<Body> {
        Status::not_found(self.resource, &self.name).response()
    }

    fn refused(&self, error: &StoreError) -> Response<Body> {
        match error {
            StoreError::Exists => Status::already_exists(self.resource, &self.name).response(),
            StoreError::Absent => self.not_found(),
            StoreError::Stale => Status::stale(self.resource, &self.name).response(),
        }
    }
}

fn verb(method: &Method, target: &Target<'_>, query: &Query) -> &'static str {
    match (method.as_str(), target.name.is_empty()) {
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

fn parse(resource: &Resource, body: &Bytes) -> Result<Value, Box<Status>> {
    let error = match serde_json::from_slice::<Value>(body) {
        Ok(object) if object.is_object() => return Ok(object),
        Ok(_) => "cannot unmarshal into an object".to_owned(),
        Err(error) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: \
         {error} ({})",
        resource.kind,
        String::from_utf8_lossy(body.get(..1024).unwrap_or(body))
    );
    Err(Box::new(Status::bad_request(message)))
}

fn create(shared: &Shared, target: &Target<'_>, query: &Query, body: &Bytes) -> Response<Body> {
    let resource = target.resource;
    let mut object = match parse(resource, body) {
        Ok(object) => object,
        Err(status) => return status.response(),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = text(&object["metadata"]["namespace"]);
    if resource.namespaced && !namespace.is_empty() && namespace != target.namespace {
        return Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )
        .response();
    }
    let mut name = text(&object["metadata"]["name"]);
    if name.is_empty() {
        name = format!(
            "{}{}",
            text(&object["metadata"]["generateName"]),
            &token::random()[..5]
        );
    }
    if !valid_name(&name) {
        return Status::invalid_name(resource, &name).response();
    }
    if resource.namespaced
        && let Some(namespaces) = shared.resources.find("", "v1", "namespaces")
        && shared
            .store
            .get(&Key::new(namespaces, "", &target.namespace))
            .is_none()
    {
        return Status::not_found(namespaces, &target.namespace).response();
    }
    if resource.plural == "namespaces" {
        patch::merge(&mut object, &super::store::namespace(&name));
    }
    if resource.id() == "nodes" {
        timeline::heard(shared, &name);
        timeline::give_subnet(&mut object, &shared.store.allocate_subnet());
    }
    let named = Target {
        resource,
        namespace: target.namespace.clone(),
        name: name.clone(),
        sub: String::new(),
    };
    heartbeat(shared, &named);
    if query.get("dryRun").is_some() {
        object["metadata"]["name"] = name.into();
        object["metadata"]["namespace"] = target.namespace.clone().into();
        return json_answer(StatusCode::CREATED, &with_type(resource, object));
    }
    match shared.store.create(named.key(), object) {
        Ok(object) => json_answer(StatusCode::CREATED, &with_type(resource, object)),
        Err(error) => named.refused(&error),
    }
}

fn valid_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.starts_with(inner)
                && label.ends_with(inner)
                && label.chars().all(|c| inner(c) || c == '-')
        })
}

fn update(shared: &Shared, target: &Target<'_>, body: &Bytes) -> Response<Body> {
    let object = match parse(target.resource, body) {
        Ok(object) => object,
        Err(status) => return status.response(),
    };
    let expected = object["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned);
    change(shared, target, expected.as_deref(), move |old| {
        if target.sub == "status" {
            old["status"] = object["status"].clone();
        } else {
            *old = object;
        }
    })
}

fn apply_patch(
    shared: &Shared,
    target: &Target<'_>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response<Body> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let apply: fn(&mut Value, &Value) = match kind {
        "application/merge-patch+json" => patch::merge,
        "application/strategic-merge-patch+json" => patch::strategic,
        _ => return Status::unsupported_media_type().response(),
    };
    let patch = match parse(target.resource, body) {
        Ok(patch) => patch,
        Err(status) => return status.response(),
    };
    let expected = patch["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned);
    change(shared, target, expected.as_deref(), |object| {
        apply(object, &patch);
    })
}

fn change(
    shared: &Shared,
    target: &Target<'_>,
    expected: Option<&str>,
    change: impl FnOnce(&mut Value),
) -> Response<Body> {
    heartbeat(shared, target);
    let changed = shared.store.update(&target.key(), expected, |object| {
        change(object);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
    });
    match changed {
        Ok(object) => json_answer(StatusCode::OK, &with_type(target.resource, object)),
        Err(error) => target.refused(&error),
    }
}

// A kubelet's lease, however it is written, says that its node lives.
fn heartbeat(shared: &Shared, target: &Target<'_>) {
    if target.resource.plural == "leases" && target.namespace == "kube-node-lease" {
        timeline::heard(shared, &target.name);
    }
}

fn delete(shared: &Shared, target: &Target<'_>, body: &Bytes) -> Response<Body> {
    let key = target.key();
    let options: Value = serde_json::from_slice(body).unwrap_or_default();
    if let (Some(asked), Some(object)) = (
        options["preconditions"]["uid"].as_str(),
        shared.store.get(&key),
    ) {
        let found = object["metadata"]["uid"].as_str().unwrap_or_default();
        if asked != found {
            return Status::other_uid(target.resource, &target.name, asked, found).response();
        }
    }
    let object = match shared.store.delete(&key) {
        Ok(object) => object,
        Err(error) => return target.refused(&error),
    };
    if target.resource.id() != "nodes" {
        return Status::deleted(target.resource, &object).response();
    }
    forget_node(shared, &target.name);
    // A Node has a finalizer, so the API answers with the object and not with a Status.
    json_answer(StatusCode::OK, &with_type(target.resource, object))
}

// The password's Secret and the lease go with the Node.
fn forget_node(shared: &Shared, name: &str) {
    let password = format!("{name}.node-password.k3s");
    let belongings = [
        ("", "secrets", "kube-system", password.as_str()),
        ("coordination.k8s.io", "leases", "kube-node-lease", name),
    ];
    for (group, plural, namespace, name) in belongings {
        if let Some(resource) = shared.resources.find(group, "v1", plural) {
            // A node that never had one.
            let _ = shared.store.delete(&Key::new(resource, namespace, name));
        }
    }
}
