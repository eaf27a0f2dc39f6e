//! Which resources the API has: the recorded discovery documents, read once, and what newer releases have instead. The
//! router and discovery use them.

use serde_json::Value;

use crate::trailer::Profile;

/// The recorded documents: path and body.
const DOCUMENTS: [(&str, &str); 11] = [
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
        BETA_POLICY,
        include_str!("../../../recordings/discovery/apis-policy-v1beta1.json"),
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

// Gone since 1.25.
const BETA_POLICY: &str = "/apis/policy/v1beta1";

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

/// The table of resources, and the documents that announce them.
#[derive(Debug)]
pub(crate) struct Resources {
    table: Vec<Resource>,
    documents: Vec<(&'static str, String)>,
}

impl Resources {
    pub(crate) fn of(profile: Profile) -> Self {
        let newer = profile == Profile::Documented;
        let mut table = Vec::new();
        let mut documents = vec![("/apis", groups(newer))];
        for (path, body) in DOCUMENTS {
            if newer && path == BETA_POLICY {
                continue;
            }
            let mut document: Value = serde_json::from_str(body).unwrap_or_default();
            let (group, version) = path
                .trim_start_matches("/apis/")
                .split_once('/')
                .filter(|_| path.starts_with("/apis/"))
                .unwrap_or(("", "v1"));
            for entry in document["resources"].as_array_mut().into_iter().flatten() {
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
                if newer && entry["kind"] == "Eviction" {
                    entry["version"] = "v1".into();
                }
            }
            let body = if newer {
                document.to_string() + "\n"
            } else {
                body.to_owned()
            };
            documents.push((path, body));
        }
        Self { table, documents }
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.table.iter().find(|entry| {
            entry.group == group && entry.version == version && entry.plural == plural
        })
    }

    /// The resource of an object by its `apiVersion` and `kind`.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.table
            .iter()
            .find(|entry| entry.api_version() == api_version && entry.kind == kind)
    }

    /// The discovery document at a path, if there is one.
    pub(crate) fn document(&self, path: &str) -> Option<&str> {
        self.documents
            .iter()
            .find(|(at, _)| *at == path)
            .map(|(_, body)| body.as_str())
    }
}

fn groups(newer: bool) -> String {
    if !newer {
        return GROUPS.to_owned();
    }
    let mut document: Value = serde_json::from_str(GROUPS).unwrap_or_default();
    for group in document["groups"].as_array_mut().into_iter().flatten() {
        if let Some(versions) = group["versions"].as_array_mut() {
            versions.retain(|version| version["groupVersion"] != "policy/v1beta1");
        }
    }
    document.to_string() + "\n"
}
