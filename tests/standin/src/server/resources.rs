//! Which resources the API has: the recorded discovery documents, read once. The router and discovery use them.

use serde_json::Value;

/// The recorded documents: path and body.
const DOCUMENTS: [(&str, &str); 10] = [
    (
        "/api/v1",
        include_str!("../../../recordings/discovery/api-v1.json"),
    ),
    (
        "/apis/apps/v1",
        include_str!("../../../recordings/discovery/apis-apps-v1.json"),
    ),
    (
        "/apis/batch/v1",
        include_str!("../../../recordings/discovery/apis-batch-v1.json"),
    ),
    (
        "/apis/coordination.k8s.io/v1",
        include_str!("../../../recordings/discovery/apis-coordination-v1.json"),
    ),
    (
        "/apis/helm.cattle.io/v1",
        include_str!("../../../recordings/discovery/apis-helm-cattle-io-v1.json"),
    ),
    (
        "/apis/k3s.cattle.io/v1",
        include_str!("../../../recordings/discovery/apis-k3s-cattle-io-v1.json"),
    ),
    (
        "/apis/networking.k8s.io/v1",
        include_str!("../../../recordings/discovery/apis-networking-v1.json"),
    ),
    (
        "/apis/policy/v1",
        include_str!("../../../recordings/discovery/apis-policy-v1.json"),
    ),
    (
        "/apis/rbac.authorization.k8s.io/v1",
        include_str!("../../../recordings/discovery/apis-rbac-v1.json"),
    ),
    (
        "/apis/storage.k8s.io/v1",
        include_str!("../../../recordings/discovery/apis-storage-v1.json"),
    ),
];

const GROUPS: &str = include_str!("../../../recordings/discovery/apis.json");

/// One kind of object.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

impl Resource {
    /// `nodes`, or `helmcharts.helm.cattle.io`: how messages name it and the store keeps it.
    pub(crate) fn id(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `v1`, or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// The table of resources.
#[derive(Debug)]
pub(crate) struct Resources(Vec<Resource>);

impl Resources {
    pub(crate) fn recorded() -> Self {
        let mut table = Vec::new();
        for (path, body) in DOCUMENTS {
            let document: Value = serde_json::from_str(body).unwrap_or_default();
            let (group, version) = path
                .trim_start_matches("/apis/")
                .split_once('/')
                .filter(|_| path.starts_with("/apis/"))
                .unwrap_or(("", "v1"));
            for entry in document["resources"].as_array().into_iter().flatten() {
                let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
                if !text("name").contains('/') {
                    table.push(Resource {
                        group: group.to_owned(),
                        version: version.to_owned(),
                        plural: text("name"),
                        kind: text("kind"),
                        namespaced: entry["namespaced"] == true,
                    });
                }
            }
        }
        Self(table)
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.0.iter().find(|entry| {
            entry.group == group && entry.version == version && entry.plural == plural
        })
    }

    /// The resource of an object by its `apiVersion` and `kind`.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.0
            .iter()
            .find(|entry| entry.api_version() == api_version && entry.kind == kind)
    }
}

/// The discovery document at a path, if there is one.
pub(crate) fn document(path: &str) -> Option<&'static str> {
    if path == "/apis" {
        return Some(GROUPS);
    }
    DOCUMENTS
        .iter()
        .find(|(at, _)| *at == path)
        .map(|(_, body)| *body)
}
