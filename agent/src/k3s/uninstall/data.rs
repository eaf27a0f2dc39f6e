//! Where volumes of the local-path provisioner keep their data on this node, and how much that is.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use canasta_host::mounts::Mount;
use canasta_host::{Host, Root};
use canasta_proto::local_path::is_volume;
use canasta_proto::pb::StoredData;
use serde::Deserialize;
use serde_norway::Value;

use crate::k3s::{Error, config, paths};

/// The option of a server that names the directory.
const OPTION: &str = "--default-local-storage-path";
/// How long files may be counted, all in all: whoever asks waits no longer than a minute.
const COUNTING: Duration = Duration::from_secs(20);
/// How many directories are remembered that are still to be counted.
const MOST_WAITING: usize = 100_000;

/// The directories, the one that is in effect first: by the unit's arguments, the configuration, the provisioner's own
/// settings, what was told of the cluster, and k3s's default, in which older data may lie. Those that are only `told` are marked.
pub(super) async fn places(host: &Host, told: &[String]) -> Result<Vec<(String, bool)>, Error> {
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
    let own = places.len();
    places.extend_from_slice(told);
    places.push(paths::LOCAL_STORAGE.to_owned());
    let mut known: Vec<(String, bool)> = Vec::new();
    for (at, place) in places.into_iter().enumerate() {
        let place = place.trim_end_matches('/').to_owned();
        let is_told = at >= own && place != paths::LOCAL_STORAGE;
        if place.starts_with('/') && known.iter().all(|(path, _)| *path != place) {
            known.push((place, is_told));
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

/// The volumes among what lies in one of them: the directories that are named as the provisioner names its own.
pub(super) async fn volumes(host: &Host, place: &str) -> Result<Vec<String>, Error> {
    let mut names = host.root.list_directories(place).await?;
    names.retain(|name| is_volume(name));
    let paths = names.into_iter().map(|name| format!("{place}/{name}"));
    Ok(paths.collect())
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
    let until = Instant::now() + COUNTING;
    let measured =
        tokio::task::spawn_blocking(move || measure_until(&root, entries, mounts, until));
    measured.await.unwrap_or_default()
}

fn measure_until(
    root: &Root,
    entries: Vec<String>,
    mounts: Vec<Mount>,
    until: Instant,
) -> (Vec<StoredData>, Vec<String>) {
    let points: HashSet<PathBuf> = mounts
        .into_iter()
        .map(|mount| root.path(mount.point))
        .collect();
    let mut unknown = Vec::new();
    let mut stored = Vec::new();
    for path in entries {
        let mut sum = Sum {
            points: &points,
            until,
            bytes: 0,
            files: 0,
            cut: false,
        };
        sum.add(root.path(&path));
        if sum.cut {
            unknown.push(format!(
                "all files in {path}: there are too many to count in {} s, at least {} with {} bytes",
                COUNTING.as_secs(),
                sum.files,
                sum.bytes
            ));
        }
        stored.push(StoredData {
            path,
            bytes: sum.bytes,
            files: sum.files,
        });
    }
    (stored, unknown)
}

struct Sum<'a> {
    points: &'a HashSet<PathBuf>,
    until: Instant,
    bytes: u64,
    files: u64,
    cut: bool,
}

impl Sum<'_> {
    /// Adds what is at a path. Whatever vanishes meanwhile counts nothing. Of a directory only those in it are remembered, and
    /// files are counted as they are met: a volume may hold more of them than fit into the agent's memory.
    fn add(&mut self, top: PathBuf) {
        let mut waiting = Vec::new();
        self.count(top, &mut waiting);
        while let Some(directory) = waiting.pop() {
            let entries = std::fs::read_dir(directory).into_iter().flatten();
            for entry in entries.flatten() {
                self.count(entry.path(), &mut waiting);
                if self.cut {
                    return;
                }
            }
        }
    }

    /// Counts one entry; a directory is left for later.
    fn count(&mut self, path: PathBuf, waiting: &mut Vec<PathBuf>) {
        if Instant::now() >= self.until || waiting.len() >= MOST_WAITING {
            self.cut = true;
            return;
        }
        if self.points.contains(&path) {
            return;
        }
        let Ok(found) = std::fs::symlink_metadata(&path) else {
            return;
        };
        if found.is_dir() {
            waiting.push(path);
        } else {
            self.files += 1;
            self.bytes += found.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_deadline_holds_for_all_volumes_and_what_was_cut_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for path in ["/s/a/x/y", "/s/b/x"] {
            std::fs::create_dir_all(root.path(path)).unwrap();
            std::fs::write(root.path(path).join("file"), "12").unwrap();
        }
        let measured = |until| {
            let entries = ["/s/a", "/s/b"].map(str::to_owned).to_vec();
            measure_until(&root, entries, Vec::new(), until)
        };
        let (stored, unknown) = measured(Instant::now() + Duration::from_secs(60));
        let numbers: Vec<_> = stored.iter().map(|one| (one.files, one.bytes)).collect();
        assert_eq!((numbers, unknown.len()), (vec![(1, 2), (1, 2)], 0));
        let (stored, unknown) = measured(Instant::now());
        assert_eq!(stored.len(), 2);
        for (unknown, path) in unknown.iter().zip(["/s/a", "/s/b"]) {
            assert!(unknown.contains(path), "{unknown}");
            assert!(unknown.ends_with("at least 0 with 0 bytes"), "{unknown}");
        }
        assert_eq!(unknown.len(), 2);
    }

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
