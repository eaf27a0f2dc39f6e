//! Where a cluster keeps local volumes on a node: the settings of its local-path provisioner. Only a server's configuration says
//! where that is, so the agent of a worker learns it from here. Called by joins and by the uninstall.

use canasta_proto::local_path::{self, LocalPath};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ListParams;
use serde::Deserialize;

use super::reach::{ClusterApi, NodeError};

/// The name of the settings, in whichever namespace the provisioner runs.
const SETTINGS: &str = "local-path-config";
/// The key that they stand under.
const KEY: &str = "config.json";
/// The entry for nodes that have none of their own.
const OTHER_NODES: &str = "DEFAULT_PATH_FOR_NON_LISTED_NODES";

/// Directories in which a cluster keeps local volumes on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LocalPaths {
    /// Those that an agent looks into.
    pub(crate) usable: Vec<String>,
    /// What is set and can't be looked into, each with the reason.
    pub(crate) unusable: Vec<String>,
}

/// The part of the settings that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    #[serde(default)]
    node_path_map: Vec<NodePaths>,
    /// Newer provisioners have a map for each of several classes.
    #[serde(default)]
    storage_class_configs: std::collections::BTreeMap<String, ClassSettings>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClassSettings {
    #[serde(default)]
    node_path_map: Vec<NodePaths>,
}

#[derive(Deserialize)]
struct NodePaths {
    #[serde(default)]
    node: String,
    #[serde(default)]
    paths: Vec<String>,
}

impl LocalPaths {
    /// Adds directories that were known before, the newest first.
    pub(crate) fn remember(&mut self, paths: &[String]) {
        for path in paths {
            self.add_path(path, SETTINGS);
        }
    }

    /// Adds what one map of settings says of a node. The paths of nodes that aren't listed count always: a node may have been
    /// listed later.
    fn add(&mut self, map: &ConfigMap, node: &str) {
        let Some(text) = map.data.as_ref().and_then(|data| data.get(KEY)) else {
            return;
        };
        let namespace = map.metadata.namespace.as_deref().unwrap_or_default();
        let named = format!("{namespace}/{SETTINGS}");
        let settings = match serde_json::from_str::<Settings>(text) {
            Ok(settings) => settings,
            Err(error) => {
                self.unusable.push(format!(
                    "what the ConfigMap {named} names: its {KEY} can't be read: {error}"
                ));
                return;
            }
        };
        let classes = settings.storage_class_configs.into_values();
        let maps = classes.flat_map(|class| class.node_path_map);
        let entries = settings.node_path_map.into_iter().chain(maps);
        for entry in entries.filter(|entry| [OTHER_NODES, node].contains(&entry.node.as_str())) {
            for path in entry.paths {
                self.add_path(&path, &named);
            }
        }
    }

    /// Adds a directory that a map names. Beyond as many as an agent takes, it is told as one that can't be looked into.
    fn add_path(&mut self, path: &str, map: &str) {
        let plain = match path.trim_end_matches('/') {
            "" => path,
            plain => plain,
        };
        let (list, text) = match plain.parse::<LocalPath>() {
            Ok(path) if self.usable.len() < local_path::MOST => (&mut self.usable, path.into()),
            Ok(path) if self.usable.iter().any(|known| known == path.as_str()) => return,
            Ok(path) => {
                let most = local_path::MOST;
                let text = format!(
                    "{path}: the ConfigMap {map} names more directories than the {most} that an agent looks into"
                );
                (&mut self.unusable, text)
            }
            Err(rule) => {
                let text = format!("{plain}: {rule}; the ConfigMap {map} names it");
                (&mut self.unusable, text)
            }
        };
        if !list.contains(&text) {
            list.push(text);
        }
    }
}

impl ClusterApi {
    /// Where the cluster keeps local volumes on a node; nowhere when it has no such provisioner.
    pub(crate) async fn local_paths(&self, node: &str) -> Result<LocalPaths, NodeError> {
        let maps = Api::<ConfigMap>::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={SETTINGS}"));
        let listed = self
            .asked("ask where local volumes are kept", maps.list(&named))
            .await?;
        let mut found = LocalPaths::default();
        for map in &listed.items {
            found.add(map, node);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::local_path;
    use serde_json::json;

    use super::{LocalPaths, SETTINGS};

    fn of(config: &str) -> LocalPaths {
        let map = json!({
            "metadata": {"name": SETTINGS, "namespace": "kube-system"}, "data": {"config.json": config},
        });
        let mut found = LocalPaths::default();
        found.add(&serde_json::from_value(map).expect("a map"), "w1");
        found
    }

    #[test]
    fn the_settings_name_the_directories_of_a_node_and_those_of_all() {
        let found = of(r#"{
            "nodePathMap": [
                {"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/srv/v/", "/var/lib/rancher/k3s/storage"]},
                {"node": "w1", "paths": ["/data", "/srv/v"]},
                {"node": "w2", "paths": ["/other"]}
            ],
            "storageClassConfigs": {"fast": {"nodePathMap": [{"node": "w1", "paths": ["/fast"]}]}}
        }"#);
        let usable = ["/srv/v", "/var/lib/rancher/k3s/storage", "/data", "/fast"];
        assert_eq!(found.usable, usable);
        assert_eq!(found.unusable, [""; 0]);
    }

    #[test]
    fn what_is_beyond_the_most_that_an_agent_takes_is_told() {
        let paths: Vec<String> = (0..=local_path::MOST)
            .map(|at| format!("/v/{at}"))
            .collect();
        let more = [paths.clone(), vec!["/v/0".to_owned()]].concat();
        let found = of(&json!({"nodePathMap": [{"node": "w1", "paths": more}]}).to_string());
        assert_eq!(found.usable, paths[..local_path::MOST]);
        assert_eq!(found.unusable.len(), 1, "{found:?}");
        let told = &found.unusable[0];
        assert!(
            told.starts_with("/v/64: the ConfigMap kube-system/local-path-config names more"),
            "{told}"
        );
        let mut before = LocalPaths::default();
        before.remember(&more);
        assert_eq!(before.usable, found.usable);
        assert!(
            before.unusable[0].contains("local-path-config"),
            "{before:?}"
        );
    }

    #[test]
    fn what_no_agent_looks_into_is_told_with_its_reason() {
        let found = of(
            r#"{"nodePathMap": [{"node": "w1", "paths": ["/", "/etc/v", "/srv/../etc", "/ok"]}]}"#,
        );
        assert_eq!(found.usable, ["/ok"]);
        assert_eq!(found.unusable.len(), 3, "{found:?}");
        assert!(found.unusable[1].contains("/etc/v: a directory of volumes is no directory"));
        let broken = of("{").unusable;
        assert!(
            broken[0].contains("kube-system/local-path-config"),
            "{broken:?}"
        );
        assert_eq!(of("{}"), LocalPaths::default());
    }
}
