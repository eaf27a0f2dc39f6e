//! Bodies and errors in the recorded shapes. Every part of the server answers through these.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;
use serde_json::Value;

use super::resources::Resource;

/// A body, whole or streamed.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer of any type.
pub(crate) fn plain(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    if !content_type.is_empty() {
        let value = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// An answer of the API server: JSON and a newline.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    let mut response = plain(status, "application/json", bytes);
    let value = HeaderValue::from_static("no-cache, private");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

/// Kubernetes' `Status` object, fields in its order.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "Kubernetes names the field so")]
pub(crate) struct Status {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "is_zero")]
    code: u16,
}

#[derive(Clone, Debug, Serialize)]
struct Empty {}

/// What a `Status` is about.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    retry_after_seconds: u16,
}

#[derive(Clone, Debug, Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    field: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
fn is_zero(code: &u16) -> bool {
    *code == 0
}

const NAME_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

impl Status {
    fn failure(
        code: StatusCode,
        reason: &'static str,
        message: impl Into<String>,
        details: Option<Details>,
    ) -> Self {
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Failure",
            message: message.into(),
            reason,
            details,
            code: code.as_u16(),
        }
    }

    /// The object is gone.
    pub(crate) fn deleted(resource: &Resource, object: &Value) -> Self {
        Self {
            status: "Success",
            details: Some(Details {
                name: object["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                group: resource.group.clone(),
                kind: resource.plural.clone(),
                uid: Some(object["metadata"]["uid"].clone()),
                ..Details::default()
            }),
            code: 0,
            ..Self::failure(StatusCode::OK, "", "", None)
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::failure(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "Unauthorized",
            None,
        )
    }

    pub(crate) fn forbidden(
        user: &str,
        verb: &str,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Self {
        let id = resource.id();
        let subject = if name.is_empty() {
            id
        } else {
            format!("{id} \"{name}\"")
        };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        let message = format!(
            "{subject} is forbidden: User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}",
            resource.plural, resource.group
        );
        let details = about(resource, &resource.plural, name);
        Self::failure(StatusCode::FORBIDDEN, "Forbidden", message, Some(details))
    }

    pub(crate) fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
        Self::failure(
            StatusCode::FORBIDDEN,
            "Forbidden",
            message,
            Some(Details::default()),
        )
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.id());
        let details = about(resource, &resource.plural, name);
        Self::failure(StatusCode::NOT_FOUND, "NotFound", message, Some(details))
    }

    pub(crate) fn no_such_resource() -> Self {
        Self::failure(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
            Some(Details::default()),
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::failure(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
            Some(Details::default()),
        )
    }

    pub(crate) fn not_acceptable() -> Self {
        Self::failure(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "406: Not Acceptable",
            Some(Details::default()),
        )
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::failure(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            "415: Unsupported Media Type",
            Some(Details::default()),
        )
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.id());
        let details = about(resource, &resource.plural, name);
        Self::failure(
            StatusCode::CONFLICT,
            "AlreadyExists",
            message,
            Some(details),
        )
    }

    pub(crate) fn stale(resource: &Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes \
             to the latest version and try again",
            resource.id()
        );
        let details = about(resource, &resource.plural, name);
        Self::failure(StatusCode::CONFLICT, "Conflict", message, Some(details))
    }

    pub(crate) fn other_uid(resource: &Resource, name: &str, asked: &str, found: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the UID in the precondition ({asked}) does not match the \
             UID in record ({found}). The object might have been deleted and then recreated",
            resource.kind
        );
        let details = about(resource, &resource.kind, name);
        Self::failure(StatusCode::CONFLICT, "Conflict", message, Some(details))
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(StatusCode::BAD_REQUEST, "BadRequest", message, None)
    }

    pub(crate) fn invalid_name(resource: &Resource, name: &str) -> Self {
        let what = format!("Invalid value: \"{name}\": {NAME_RULE}");
        let message = format!(
            "{} \"{name}\" is invalid: metadata.name: {what}",
            resource.kind
        );
        let mut details = about(resource, &resource.kind, name);
        details.causes.push(Cause {
            reason: "FieldValueInvalid",
            message: what,
            field: "metadata.name".into(),
        });
        Self::failure(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            message,
            Some(details),
        )
    }

    /// The eviction was granted.
    pub(crate) fn evicted() -> Self {
        Self {
            status: "Success",
            ..Self::failure(StatusCode::CREATED, "", "", None)
        }
    }

    /// A binding was made.
    pub(crate) fn created() -> Self {
        Self::evicted()
    }

    pub(crate) fn disruption(budget: &str, desired: i64, healthy: i64) -> Self {
        let details = Details {
            causes: vec![Cause {
                reason: "DisruptionBudget",
                message: format!(
                    "The disruption budget {budget} needs {desired} healthy pods and has {healthy} currently"
                ),
                field: String::new(),
            }],
            ..Details::default()
        };
        Self::failure(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
            Some(details),
        )
    }

    pub(crate) fn two_budgets() -> Self {
        Self::failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            None,
        )
    }

    pub(crate) fn no_account(pod: &str, namespace: &str, account: &str) -> Self {
        let details = Details {
            name: pod.to_owned(),
            kind: "pods".into(),
            ..Details::default()
        };
        let message = format!(
            "pods \"{pod}\" is forbidden: error looking up service account {namespace}/{account}: serviceaccount \
             \"{account}\" not found"
        );
        Self::failure(StatusCode::FORBIDDEN, "Forbidden", message, Some(details))
    }

    /// A JSON patch that does not apply.
    pub(crate) fn rejected() -> Self {
        Self::failure(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            "the server rejected our request due to an error in our request",
            Some(Details::default()),
        )
    }

    pub(crate) fn no_field_manager() -> Self {
        let what = "Required value: is required for apply patch";
        let details = Details {
            group: "meta.k8s.io".into(),
            kind: "PatchOptions".into(),
            causes: vec![Cause {
                reason: "FieldValueRequired",
                message: what.into(),
                field: "fieldManager".into(),
            }],
            ..Details::default()
        };
        let message = format!("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: {what}");
        Self::failure(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            message,
            Some(details),
        )
    }

    /// Fields that others own: each with its manager, in the order of the message.
    pub(crate) fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let plural = if conflicts.len() == 1 { "" } else { "s" };
        let list: Vec<String> = conflicts
            .iter()
            .map(|(manager, field)| format!("conflict with \"{manager}\": {field}"))
            .collect();
        let message = if let [one] = list.as_slice() {
            format!("Apply failed with 1 conflict: {one}")
        } else {
            format!(
                "Apply failed with {} conflict{plural}: {}",
                list.len(),
                list.join("\n- ")
            )
        };
        let details = Details {
            causes: conflicts
                .iter()
                .map(|(manager, field)| Cause {
                    reason: "FieldManagerConflict",
                    message: format!("conflict with \"{manager}\""),
                    field: field.clone(),
                })
                .collect(),
            ..Details::default()
        };
        Self::failure(StatusCode::CONFLICT, "Conflict", message, Some(details))
    }

    pub(crate) fn no_initial_events() -> Self {
        let causes = [
            "Forbidden: resourceVersionMatch is forbidden for watch",
            "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ];
        let message = format!(
            "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: {}, resourceVersionMatch: {}]",
            causes[0], causes[1]
        );
        let details = Details {
            group: "meta.k8s.io".into(),
            kind: "ListOptions".into(),
            causes: causes
                .map(|cause| Cause {
                    reason: "FieldValueForbidden",
                    message: cause.to_owned(),
                    field: "resourceVersionMatch".into(),
                })
                .into(),
            ..Details::default()
        };
        Self::failure(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            message,
            Some(details),
        )
    }

    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::failure(StatusCode::GONE, "Expired", message, None)
    }

    pub(crate) fn version_too_large(asked: u64, current: u64) -> Self {
        let details = Details {
            causes: vec![Cause {
                reason: "ResourceVersionTooLarge",
                message: "Too large resource version".into(),
                field: String::new(),
            }],
            retry_after_seconds: 1,
            ..Details::default()
        };
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self::failure(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            message,
            Some(details),
        )
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let code = if self.code == 0 { 200 } else { self.code };
        json(
            StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            self,
        )
    }
}

fn about(resource: &Resource, kind: &str, name: &str) -> Details {
    Details {
        name: name.to_owned(),
        group: resource.group.clone(),
        kind: kind.to_owned(),
        ..Details::default()
    }
}
