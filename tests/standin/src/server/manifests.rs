//! Manifests in `server/manifests`: read when they are new or changed, their objects stored so that the API lists
//! them. Called by the timeline again and again, as the real deploy controller looks.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::store::Key;
use super::{Shared, patch, volumes, write};

/// The text of each manifest when it was last applied.
pub(super) type Applied = HashMap<PathBuf, String>;

/// Stores the objects of every changed manifest whose kinds the API knows.
pub(super) fn apply(shared: &Shared, applied: &mut Applied) {
    let Ok(entries) = fs::read_dir(shared.paths.server("manifests")) else {
        return;
    };
    let mut files: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for path in files {
        let known = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        let Some(text) = known.then(|| fs::read_to_string(&path).ok()).flatten() else {
            continue;
        };
        if applied.get(&path) == Some(&text) {
            continue;
        }
        for document in serde_norway::Deserializer::from_str(&text) {
            match Value::deserialize(document) {
                Ok(object) => store(shared, object),
                Err(error) => shared.log.error(format!(
                    "Failed to process config: failed to process {}: {error}",
                    path.display()
                )),
            }
        }
        applied.insert(path, text);
    }
}

fn store(shared: &Shared, mut object: Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&object["metadata"]["name"]);
    let Some(resource) = shared
        .resources
        .by_kind(&text(&object["apiVersion"]), &text(&object["kind"]))
    else {
        return;
    };
    let namespace = match text(&object["metadata"]["namespace"]) {
        _ if !resource.namespaced => String::new(),
        given if given.is_empty() => "default".to_owned(),
        given => given,
    };
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    if name.is_empty() {
        return;
    }
    let key = Key::new(resource, &namespace, &name);
    if shared.store.get(&key).is_some() {
        // Deleted at this moment, it comes back when its manifest changes.
        let _ = shared
            .store
            .update(&key, None, |old| patch::strategic(old, &object));
    } else {
        write::complete(shared, resource, &name, &mut object);
        shared.store.put(key, object);
    }
}

/// Makes the storage class of the real program's own manifest, and the settings of the provisioner.
pub(super) fn local_path(shared: &Shared) {
    if shared
        .config
        .split("disable")
        .iter()
        .any(|name| name == "local-storage")
    {
        return;
    }
    if let Some(resource) = shared
        .resources
        .find("storage.k8s.io", "v1", "storageclasses")
    {
        let key = Key::new(resource, "", "local-path");
        shared.store.put(
            key,
            json!({
                "metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": "rancher.io/local-path",
                "reclaimPolicy": "Delete",
                "volumeBindingMode": "WaitForFirstConsumer",
            }),
        );
    }
    if let Some(resource) = shared.resources.find("", "v1", "configmaps") {
        let config = format!(
            "{{\n  \"nodePathMap\":[\n  {{\n    \"node\":\"DEFAULT_PATH_FOR_NON_LISTED_NODES\",\n    \"paths\":[\"{}\"]\n  }}\n  ]\n}}",
            volumes::storage(shared)
        );
        let name = "local-path-config";
        let mut object =
            json!({"metadata": {"namespace": "kube-system"}, "data": {"config.json": config}});
        write::complete(shared, resource, name, &mut object);
        let key = Key::new(resource, "kube-system", name);
        shared.store.put(key, object);
    }
}
