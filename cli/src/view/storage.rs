//! Storage of clusters as it is printed.

use canasta_proto::pb;
use canasta_proto::pb::AccessMode;
use serde::Serialize;

use super::host::known;
use super::{Origin, age};
use crate::output;

/// `canasta storage list`.
#[derive(Debug, Serialize)]
pub(crate) struct StorageList {
    clusters: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    cluster: String,
    #[serde(flatten)]
    origin: Origin,
    /// Null when they could not be asked for.
    classes: Option<Vec<Class>>,
}

#[derive(Debug, Serialize)]
struct Class {
    name: String,
    provisioner: String,
    /// Null when nobody knows.
    access_modes: Option<Vec<&'static str>>,
    default: bool,
    reclaim_policy: String,
    server: Option<String>,
    share: Option<String>,
}

impl From<pb::ListStorageResponse> for StorageList {
    fn from(answer: pb::ListStorageResponse) -> Self {
        Self {
            clusters: answer.clusters.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<pb::ClusterStorage> for Listed {
    fn from(storage: pb::ClusterStorage) -> Self {
        let classes = storage.classes.into_iter().map(Into::into).collect();
        Self {
            classes: storage.error.is_empty().then_some(classes),
            cluster: storage.cluster,
            origin: Origin::new(storage.source, storage.observed_at, storage.error),
        }
    }
}

impl From<pb::StorageClass> for Class {
    fn from(class: pb::StorageClass) -> Self {
        let modes: Vec<_> = class.access_modes().map(mode_word).collect();
        Self {
            access_modes: (!modes.is_empty()).then_some(modes),
            name: class.name,
            provisioner: class.provisioner,
            default: class.is_default,
            reclaim_policy: class.reclaim_policy,
            server: known(class.server),
            share: known(class.share),
        }
    }
}

/// As Kubernetes writes it.
fn mode_word(mode: AccessMode) -> &'static str {
    match mode {
        AccessMode::Unspecified => "unknown",
        AccessMode::ReadWriteOnce => "ReadWriteOnce",
        AccessMode::ReadWriteOncePod => "ReadWriteOncePod",
        AccessMode::ReadOnlyMany => "ReadOnlyMany",
        AccessMode::ReadWriteMany => "ReadWriteMany",
    }
}

impl Class {
    /// What a wiki with replicas on several nodes asks for.
    fn shared_word(&self) -> &'static str {
        match &self.access_modes {
            None => "unknown",
            Some(modes) if modes.contains(&mode_word(AccessMode::ReadWriteMany)) => "yes",
            Some(_) => "no",
        }
    }

    fn modes(&self) -> String {
        let modes = self.access_modes.as_deref().unwrap_or(&["unknown"]);
        modes.join(", ")
    }

    /// Where its volumes are, as far as the class tells.
    fn export(&self) -> String {
        match (&self.server, &self.share) {
            (Some(server), Some(share)) => format!("{server}:{share}"),
            _ => "-".to_owned(),
        }
    }
}

impl StorageList {
    pub(crate) fn table(&self) -> String {
        if self.clusters.is_empty() {
            return "no clusters yet; install one with `canasta install k8s-cp --host HOST`\n"
                .to_owned();
        }
        let rows = self.clusters.iter().flat_map(Listed::rows);
        let mut text = output::table(
            [
                "CLUSTER",
                "CLASS",
                "PROVISIONER",
                "DEFAULT",
                "SHARED BY NODES",
                "ACCESS MODES",
                "RECLAIM",
                "EXPORT",
                "AGE",
            ],
            rows,
        );
        for cluster in &self.clusters {
            text.push_str(&cluster.note());
        }
        text
    }
}

impl Listed {
    fn rows(&self) -> Vec<[String; 9]> {
        let row = |class: &Class| {
            let yes = |value| if value { "yes" } else { "no" };
            [
                self.cluster.clone(),
                class.name.clone(),
                class.provisioner.clone(),
                yes(class.default).to_owned(),
                class.shared_word().to_owned(),
                class.modes(),
                class.reclaim_policy.clone(),
                class.export(),
                age(self.origin.observed_at),
            ]
        };
        self.classes.iter().flatten().map(row).collect()
    }

    /// What no row says.
    fn note(&self) -> String {
        let cluster = &self.cluster;
        match &self.classes {
            None => format!(
                "the storage classes of cluster '{cluster}' are unknown: {}\n",
                self.origin.error
            ),
            Some(classes) if classes.is_empty() => {
                format!("cluster '{cluster}' has no storage classes: no volume can be made in it\n")
            }
            Some(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;
    use canasta_proto::pb::AccessMode;

    use super::StorageList;

    fn class(name: &str, modes: &[AccessMode]) -> pb::StorageClass {
        pb::StorageClass {
            name: name.to_owned(),
            access_modes: modes.iter().map(|mode| (*mode).into()).collect(),
            provisioner: "p".to_owned(),
            ..pb::StorageClass::default()
        }
    }

    fn cluster(name: &str, classes: Vec<pb::StorageClass>, error: &str) -> pb::ClusterStorage {
        pb::ClusterStorage {
            cluster: name.to_owned(),
            classes,
            error: error.to_owned(),
            ..pb::ClusterStorage::default()
        }
    }

    #[test]
    fn what_is_not_known_is_neither_yes_nor_no() {
        let classes = vec![
            class("local-path", &[AccessMode::ReadWriteOnce]),
            class(
                "nfs",
                &[AccessMode::ReadWriteOnce, AccessMode::ReadWriteMany],
            ),
            class("own", &[]),
        ];
        let clusters = vec![
            cluster("wiki", classes, ""),
            cluster("bare", Vec::new(), ""),
            cluster("gone", Vec::new(), "no answer within 5 s"),
        ];
        let list = StorageList::from(pb::ListStorageResponse { clusters });
        let table = list.table();
        let cells = |word: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.contains(word));
            let line = line.unwrap_or_else(|| panic!("{word}: {table}"));
            let cells = line.split("  ").map(str::trim);
            cells
                .filter(|cell| !cell.is_empty())
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(cells("local-path")[4..], ["no", "ReadWriteOnce", "-", "-"]);
        assert_eq!(
            cells(" nfs ")[4..],
            ["yes", "ReadWriteOnce, ReadWriteMany", "-", "-"]
        );
        assert_eq!(cells("own ")[4..], ["unknown", "unknown", "-", "-"]);
        assert!(cells("'bare'")[0].contains("no volume can be made in it"));
        assert!(cells("'gone'")[0].ends_with("are unknown: no answer within 5 s"));
        let json = serde_json::to_value(&list).expect("plain data");
        assert!(json["clusters"][0]["classes"][2]["access_modes"].is_null());
        assert!(json["clusters"][2]["classes"].is_null());
        assert_eq!(json["clusters"][1]["classes"], serde_json::json!([]));
    }
}
