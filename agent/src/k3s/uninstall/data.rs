//! Where volumes of the local-path provisioner keep their data on this node, and how much that is.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use canasta_host::Host;
use canasta_host::mounts::Mount;
use canasta_proto::pb::StoredData;
use serde::Deserialize;
use serde_norway::Value;

use crate::k3s::{Error, config, paths};

/// The option of a server that names the directory.
const OPTION: &str = "--default-local-storage-path";
/// How long the files of one directory may be counted.
const COUNTING: Duration = Duration::from_secs(5);

/// The directories, the one that is in effect first: by the unit's arguments, the configuration, the provisioner's own
/// settings, and k3s's default, in which older data may lie.
pub(super) async fn places(host: &Host) -> Result<Vec<String>, Error> {
    let mut places = Vec::new();
    let unit_file = host
        .root
        .read_text(paths::unit_file(paths::SERVER_UNIT))
        .await?
        .unwrap_or_default();
    places.extend(config::values(&config::arguments(&unit_file), OPTION));
    places.push(config::read(host).await?.local_storage_path);
    if let Some(text) = host.root.read_text(paths::LOCAL_STORAGE_MANIFEST).await? {
        places.extend(of_manifest(&text));
    }
    places.push(paths::LOCAL_STORAGE.to_owned());
    let mut known = Vec::new();
    for place in places {
        let place = place.trim_end_matches('/').to_owned();
        if place.starts_with('/') && !known.contains(&place) {
            known.push(place);
        }
    }
    Ok(known)
}

/// What lies in one of them.
pub(super) async fn entries(host: &Host, place: &str) -> Result<Vec<String>, Error> {
    let names = host.root.list(place).await?;
    Ok(names
        .into_iter()
        .map(|name| format!("{place}/{name}"))
        .collect())
}

/// The part of the provisioner's settings that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    #[serde(default)]
    node_path_map: Vec<NodePaths>,
}

#[derive(Deserialize)]
struct NodePaths {
    #[serde(default)]
    paths: Vec<String>,
}

/// The directories in the manifest of the provisioner. A manifest that can't be read names none: the default is looked at anyway.
fn of_manifest(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let Ok(document) = Value::deserialize(document) else {
            return found;
        };
        let settings = (document["kind"].as_str() == Some("ConfigMap"))
            .then(|| document["data"]["config.json"].as_str())
            .flatten();
        if let Some(settings) =
            settings.and_then(|text| serde_json::from_str::<Settings>(text).ok())
        {
            found.extend(
                settings
                    .node_path_map
                    .into_iter()
                    .flat_map(|node| node.paths),
            );
        }
    }
    found
}

/// Measures what lies there. Other file systems aren't entered: a dead one would hold up the look. A count that takes too long
/// is cut off, and said.
pub(super) async fn measure(
    host: &Host,
    entries: Vec<String>,
    mounts: Vec<Mount>,
) -> (Vec<StoredData>, Vec<String>) {
    let root = host.root.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let points: HashSet<PathBuf> = mounts
            .into_iter()
            .map(|mount| root.path(mount.point))
            .collect();
        let mut unknown = Vec::new();
        let mut stored = Vec::new();
        for path in entries {
            let mut sum = Sum {
                points: &points,
                until: Instant::now() + COUNTING,
                bytes: 0,
                files: 0,
                cut: false,
            };
            sum.add(&root.path(&path));
            if sum.cut {
                unknown.push(format!(
                    "all files in {path}: there are too many to count, so the numbers are too low"
                ));
            }
            stored.push(StoredData {
                path,
                bytes: sum.bytes,
                files: sum.files,
            });
        }
        (stored, unknown)
    });
    measured.await.unwrap_or_default()
}

struct Sum<'a> {
    points: &'a HashSet<PathBuf>,
    until: Instant,
    bytes: u64,
    files: u64,
    cut: bool,
}

impl Sum<'_> {
    /// Adds what is at a path. Whatever vanishes meanwhile counts nothing.
    fn add(&mut self, top: &Path) {
        let mut waiting = vec![top.to_path_buf()];
        while let Some(path) = waiting.pop() {
            if Instant::now() >= self.until {
                self.cut = true;
                return;
            }
            if self.points.contains(&path) {
                continue;
            }
            let Ok(found) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if found.is_dir() {
                let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
                waiting.extend(entries.map(|entry| entry.path()));
            } else {
                self.files += 1;
                self.bytes += found.size();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::of_manifest;

    #[test]
    fn the_provisioners_settings_name_the_directories() {
        let manifest = r#"
kind: ServiceAccount
---
kind: ConfigMap
apiVersion: v1
metadata:
  name: local-path-config
data:
  config.json: |-
    {
      "nodePathMap":[
      {
        "node":"DEFAULT_PATH_FOR_NON_LISTED_NODES",
        "paths":["/var/lib/rancher/k3s/storage", "/srv/v/"]
      }
      ]
    }
  setup: |-
    #!/bin/sh
"#;
        assert_eq!(
            of_manifest(manifest),
            ["/var/lib/rancher/k3s/storage", "/srv/v/"]
        );
        assert_eq!(of_manifest("a: ["), [""; 0]);
    }
}
