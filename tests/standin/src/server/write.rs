//! Writes through the API: create, update, the four kinds of patch, delete, and what the API server adds on the way.
//! Called by the router once a request is allowed.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};

use super::answer::{Body, Status, json as json_answer};
use super::api::Target;
use super::fields::{self, Manager};
use super::query::Query;
use super::resources::Resource;
use super::store::{Key, StoreError};
use super::watch::with_type;
use super::{Shared, patch, pods, timeline, volumes};
use crate::clock::kubernetes_now;
use crate::token;

/// A write, read as far as every kind needs it.
pub(super) struct Request<'a> {
    pub(super) target: &'a Target<'a>,
    pub(super) query: &'a Query,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
}

impl Request<'_> {
    // As the field manager that is given, or by the name of the program.
    fn manager(&self) -> String {
        let program = || {
            let agent = self.headers.get(header::USER_AGENT)?.to_str().ok()?;
            agent.split('/').next().map(str::to_owned)
        };
        self.query
            .get("fieldManager")
            .map(str::to_owned)
            .or_else(program)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".into())
    }

    fn is_dry_run(&self) -> bool {
        self.query.get("dryRun").is_some()
    }
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

/// `POST` of an object, or to a subresource of a pod.
pub(super) async fn create(shared: &Shared, request: &Request<'_>) -> Response<Body> {
    let target = request.target;
    match target.sub.as_str() {
        "eviction" => return pods::evict(shared, &target.key(), request.body),
        "binding" => {
            let body = serde_json::from_slice(request.body).unwrap_or_default();
            return match pods::binding(shared, &target.key(), &body) {
                Ok(()) => Status::created().response(),
                Err(error) => target.refused(&error),
            };
        }
        _ => {}
    }
    let object = match parse(target.resource, request.body) {
        Ok(object) => object,
        Err(status) => return status.response(),
    };
    match make(shared, request, object).await {
        Ok(object) => json_answer(StatusCode::CREATED, &with_type(target.resource, object)),
        Err(refusal) => refusal,
    }
}

async fn make(
    shared: &Shared,
    request: &Request<'_>,
    mut object: Value,
) -> Result<Value, Response<Body>> {
    let target = request.target;
    let resource = target.resource;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = text(&object["metadata"]["namespace"]);
    if resource.namespaced && !namespace.is_empty() && namespace != target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )
        .response());
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
        return Err(Status::invalid_name(resource, &name).response());
    }
    if resource.namespaced
        && let Some(namespaces) = shared.resources.find("", "v1", "namespaces")
        && shared
            .store
            .get(&Key::new(namespaces, "", &target.namespace))
            .is_none()
    {
        return Err(Status::not_found(namespaces, &target.namespace).response());
    }
    object["metadata"]["name"] = name.clone().into();
    if resource.id() == "pods" {
        pods::admit(shared, &target.namespace, &object)
            .await
            .map_err(|status| status.response())?;
    }
    complete(shared, resource, &name, &mut object);
    let manager = request.manager();
    let api_version = resource.api_version();
    if object["metadata"]["managedFields"].is_null() {
        let manager = Manager {
            name: &manager,
            api_version: &api_version,
        };
        fields::track(&json!({}), &mut object, manager);
    }
    let named = Target {
        resource,
        namespace: target.namespace.clone(),
        name,
        sub: String::new(),
    };
    heartbeat(shared, &named);
    if request.is_dry_run() {
        object["metadata"]["namespace"] = target.namespace.clone().into();
        return Ok(object);
    }
    shared
        .store
        .create(named.key(), object)
        .map_err(|error| named.refused(&error))
}

/// Adds what the API server and its admission add to a new object.
pub(super) fn complete(shared: &Shared, resource: &Resource, name: &str, object: &mut Value) {
    match resource.id().as_str() {
        "namespaces" => patch::merge(object, &super::store::namespace(name)),
        "nodes" => {
            timeline::heard(shared, name);
            timeline::give_subnet(object, &shared.store.allocate_subnet());
        }
        "pods" => pods::complete(object),
        "persistentvolumeclaims" => volumes::complete_claim(shared, object),
        "persistentvolumes" => volumes::complete_volume(object),
        _ => {}
    }
    if matches!(resource.group.as_str(), "apps" | "batch" | "policy") {
        object["metadata"]["generation"] = 1.into();
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

/// `PUT`.
pub(super) fn update(shared: &Shared, request: &Request<'_>) -> Response<Body> {
    let object = match parse(request.target.resource, request.body) {
        Ok(object) => object,
        Err(status) => return status.response(),
    };
    let expected = object["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned);
    let whole = request.target.sub.is_empty();
    change(shared, request, expected.as_deref(), move |old| {
        if whole {
            *old = object;
        } else {
            old["status"] = object["status"].clone();
        }
    })
}

/// `PATCH` of any kind.
pub(super) fn patch(shared: &Shared, request: &Request<'_>) -> Response<Body> {
    let resource = request.target.resource;
    let kind = request
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let apply: fn(&mut Value, &Value) = match kind {
        "application/merge-patch+json" => patch::merge,
        "application/strategic-merge-patch+json" => patch::strategic,
        "application/json-patch+json" => return json_patch(shared, request),
        "application/apply-patch+yaml" => return server_side_apply(shared, request),
        _ => return Status::unsupported_media_type().response(),
    };
    let patch = match parse(resource, request.body) {
        Ok(patch) => patch,
        Err(status) => return status.response(),
    };
    if let Some(refusal) = other_uid(shared, request, &patch["metadata"]["uid"]) {
        return refusal;
    }
    let expected = patch["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned);
    change(shared, request, expected.as_deref(), |object| {
        apply(object, &patch);
    })
}

fn json_patch(shared: &Shared, request: &Request<'_>) -> Response<Body> {
    let target = request.target;
    let Ok(patch) = serde_json::from_slice::<Value>(request.body) else {
        return Status::bad_request("the body of the request was in an unknown format").response();
    };
    let Some(old) = shared.store.get(&target.key()) else {
        return target.not_found();
    };
    let mut new = old.clone();
    if patch::json_patch(&mut new, &patch).is_none() {
        return Status::rejected().response();
    }
    // Computed outside of the store, so only over the version that was read.
    let version = old["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned);
    change(shared, request, version.as_deref(), |object| *object = new)
}

fn server_side_apply(shared: &Shared, request: &Request<'_>) -> Response<Body> {
    let target = request.target;
    let resource = target.resource;
    let Some(name) = request.query.get("fieldManager") else {
        return Status::no_field_manager().response();
    };
    let text = String::from_utf8_lossy(request.body);
    let config: Value = match serde_norway::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            return Status::bad_request(format!("error decoding YAML: {error}")).response();
        }
    };
    let api_version = resource.api_version();
    let manager = Manager {
        name,
        api_version: &api_version,
    };
    let old = shared.store.get(&target.key());
    let force = request.query.flag("force");
    let mut object = match fields::apply(old.as_ref(), &config, manager, force) {
        Ok(object) => object,
        Err(conflicts) => return Status::apply_conflict(&conflicts).response(),
    };
    untyped(&mut object);
    let outcome = if old.is_some() {
        store_change(shared, request, None, |old| *old = object)
    } else {
        object["metadata"]["name"] = target.name.clone().into();
        complete(shared, resource, &target.name, &mut object);
        shared.store.create(target.key(), object)
    };
    let status = if old.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    match outcome {
        Ok(object) => json_answer(status, &with_type(resource, object)),
        Err(error) => target.refused(&error),
    }
}

fn change(
    shared: &Shared,
    request: &Request<'_>,
    expected: Option<&str>,
    change: impl FnOnce(&mut Value),
) -> Response<Body> {
    heartbeat(shared, request.target);
    let manager = request.manager();
    let api_version = request.target.resource.api_version();
    let changed = store_change(shared, request, expected, |object| {
        let old = object.clone();
        change(object);
        let manager = Manager {
            name: &manager,
            api_version: &api_version,
        };
        fields::track(&old, object, manager);
    });
    match changed {
        Ok(object) => json_answer(StatusCode::OK, &with_type(request.target.resource, object)),
        Err(error) => request.target.refused(&error),
    }
}

// A status is written through its own path only, where the kind has one that this project looks at.
fn store_change(
    shared: &Shared,
    request: &Request<'_>,
    expected: Option<&str>,
    change: impl FnOnce(&mut Value),
) -> Result<Value, StoreError> {
    let target = request.target;
    let guarded = target.sub.is_empty()
        && matches!(
            target.resource.plural.as_str(),
            "pods" | "persistentvolumes" | "persistentvolumeclaims" | "poddisruptionbudgets"
        );
    if request.is_dry_run() {
        let mut object = shared.store.get(&target.key()).ok_or(StoreError::Absent)?;
        change(&mut object);
        return Ok(object);
    }
    shared.store.update(&target.key(), expected, |object| {
        let status = object["status"].clone();
        change(object);
        untyped(object);
        if guarded && !status.is_null() {
            object["status"] = status;
        }
    })
}

// The store leaves kind and version out.
fn untyped(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
}

// A kubelet's lease, however it is written, says that its node lives.
fn heartbeat(shared: &Shared, target: &Target<'_>) {
    if target.resource.plural == "leases" && target.namespace == "kube-node-lease" {
        timeline::heard(shared, &target.name);
    }
}

fn other_uid(shared: &Shared, request: &Request<'_>, asked: &Value) -> Option<Response<Body>> {
    let asked = asked.as_str()?;
    let object = shared.store.get(&request.target.key())?;
    let found = object["metadata"]["uid"].as_str().unwrap_or_default();
    (asked != found).then(|| {
        let target = request.target;
        Status::other_uid(target.resource, &target.name, asked, found).response()
    })
}

/// `DELETE`.
pub(super) fn delete(shared: &Shared, request: &Request<'_>) -> Response<Body> {
    let target = request.target;
    let key = target.key();
    let options: Value = serde_json::from_slice(request.body).unwrap_or_default();
    if let Some(refusal) = other_uid(shared, request, &options["preconditions"]["uid"]) {
        return refusal;
    }
    if request.is_dry_run() {
        return match shared.store.get(&key) {
            Some(object) => Status::deleted(target.resource, &object).response(),
            None => target.not_found(),
        };
    }
    let id = target.resource.id();
    if id == "pods" {
        let grace = options["gracePeriodSeconds"].as_u64().or_else(|| {
            let text = request.query.get("gracePeriodSeconds")?;
            text.parse().ok()
        });
        return match pods::delete(shared, &key, grace) {
            Ok(pod) => pods::deleted(pod),
            Err(error) => target.refused(&error),
        };
    }
    match remove(shared, &key, &id) {
        Ok((object, gone)) => {
            // These kinds are answered with the object, as is one that waits for somebody.
            let whole = !gone
                || matches!(
                    id.as_str(),
                    "nodes" | "persistentvolumes" | "persistentvolumeclaims" | "serviceaccounts"
                );
            if id == "nodes" {
                forget_node(shared, &target.name);
            }
            if whole {
                json_answer(StatusCode::OK, &with_type(target.resource, object))
            } else {
                Status::deleted(target.resource, &object).response()
            }
        }
        Err(error) => target.refused(&error),
    }
}

// An object with finalizers is marked and waits for them; that of a Node is done at once. Answers whether it is gone.
fn remove(shared: &Shared, key: &Key, id: &str) -> Result<(Value, bool), StoreError> {
    let object = shared.store.get(key).ok_or(StoreError::Absent)?;
    let waits = object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty());
    if !waits || id == "nodes" {
        return shared.store.delete(key).map(|object| (object, true));
    }
    let marked = shared.store.update(key, None, |object| {
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = kubernetes_now().into();
            object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        }
    })?;
    Ok((marked, false))
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
