//! Storage of clusters as it is printed.

use canasta_proto::pb;
use canasta_proto::pb::AccessMode;
use jiff::Timestamp;
use serde::Serialize;

use super::host::known;
use super::{Origin, age, time};
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
    /// Whether instances of the cluster get it.
    instance_default: bool,
    reclaim_policy: String,
    server: Option<String>,
    share: Option<String>,
    /// The host of the fleet that exports the share.
    host: Option<String>,
    /// Null where it was never proved that the share can be used.
    proof: Option<Proof>,
}

/// What the last check of a share came to.
#[derive(Debug, Serialize)]
struct Proof {
    checked_at: Option<Timestamp>,
    operation_id: String,
    hosts: Vec<HostProof>,
    /// Nodes of which it is not known.
    unproved_nodes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HostProof {
    host: String,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    #[serde(rename = "step")]
    name: String,
    passed: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
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
            instance_default: class.is_instance_default,
            host: known(class.host),
            reclaim_policy: class.reclaim_policy,
            server: known(class.server),
            share: known(class.share),
            proof: class.proof.map(Into::into),
        }
    }
}

impl From<pb::ShareProof> for Proof {
    fn from(proof: pb::ShareProof) -> Self {
        let step = |step: pb::ProofStep| Step {
            passed: step.reason.is_empty(),
            name: step.step,
            reason: step.reason,
            message: step.message,
            hint: step.hint,
        };
        let host = |node: pb::NodeProof| HostProof {
            host: node.host,
            steps: node.steps.into_iter().map(step).collect(),
        };
        Self {
            checked_at: time(proof.checked_at),
            operation_id: proof.operation_id,
            unproved_nodes: proof.unproved_nodes,
            hosts: proof.nodes.into_iter().map(host).collect(),
        }
    }
}

impl HostProof {
    fn passed(&self) -> bool {
        self.steps.iter().all(|step| step.passed)
    }

    /// `yes`, or why not.
    fn word(&self, step: &str) -> String {
        let found = self.steps.iter().find(|found| found.name == step);
        match found {
            None => "not tried".to_owned(),
            Some(Step { passed: true, .. }) => "yes".to_owned(),
            Some(Step { reason, .. }) => reason.clone(),
        }
    }
}

impl Proof {
    /// `all 3 nodes, 5 min ago`.
    fn word(&self) -> String {
        let age = age(self.checked_at);
        let failed = self.hosts.iter().filter(|host| !host.passed());
        let failed: Vec<_> = failed.map(|host| host.host.as_str()).collect();
        let mut words = Vec::new();
        if !failed.is_empty() {
            words.push(format!("not {}", failed.join(", ")));
        }
        if !self.unproved_nodes.is_empty() {
            words.push(format!("unknown {}", self.unproved_nodes.join(", ")));
        }
        if words.is_empty() {
            let count = self.hosts.len();
            let nodes = if count == 1 { "node" } else { "nodes" };
            words.push(format!("all {count} {nodes}"));
        }
        format!("{}, {age} ago", words.join(", "))
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

    /// Who gets it without naming it.
    fn default_word(&self) -> &'static str {
        match (self.default, self.instance_default) {
            (true, true) => "claims, instances",
            (true, false) => "claims",
            (false, true) => "instances",
            (false, false) => "-",
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

    fn proved(&self) -> String {
        match (&self.proof, &self.server) {
            (Some(proof), _) => proof.word(),
            (None, Some(_)) => "never".to_owned(),
            (None, None) => "-".to_owned(),
        }
    }
}

impl StorageList {
    /// What each host could do on each share in a check, or that the check came to no verdict.
    pub(crate) fn proofs(&self, operation: &str) -> String {
        let classes = self.clusters.iter().flat_map(|found| &found.classes);
        let mut rows = Vec::new();
        for class in classes.flatten() {
            let proof = class.proof.iter();
            let of_check = proof.filter(|proof| proof.operation_id == operation);
            for host in of_check.flat_map(|proof| &proof.hosts) {
                let [write, read, remove] = ["write", "read", "remove"].map(|step| host.word(step));
                let row = [class.export(), host.host.clone(), write, read, remove];
                // Several classes may be on one share.
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        if rows.is_empty() {
            return "this check came to no verdict; what was proved before stands in `canasta storage list`\n"
                .to_owned();
        }
        output::table(
            ["SHARE", "HOST", "WRITES", "READS ANOTHER'S", "REMOVES"],
            rows,
        )
    }

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
                "DEFAULT FOR",
                "SHARED BY NODES",
                "ACCESS MODES",
                "RECLAIM",
                "EXPORT",
                "PROVED FROM",
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
    fn rows(&self) -> Vec<[String; 10]> {
        let row = |class: &Class| {
            [
                self.cluster.clone(),
                class.name.clone(),
                class.provisioner.clone(),
                class.default_word().to_owned(),
                class.shared_word().to_owned(),
                class.modes(),
                class.reclaim_policy.clone(),
                class.export(),
                class.proved(),
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
    use crate::output;

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
        let lines = output::cells(&table);
        let cells = |word: &str| {
            let mut lines = lines.iter();
            let line = lines.find(|cells| cells.iter().any(|cell| cell.contains(word)));
            line.unwrap_or_else(|| panic!("{word}: {table}"))
        };
        assert_eq!(
            cells("local-path")[4..],
            ["no", "ReadWriteOnce", "-", "-", "-"]
        );
        assert_eq!(
            cells("nfs")[4..],
            ["yes", "ReadWriteOnce, ReadWriteMany", "-", "-", "-"]
        );
        assert_eq!(cells("own")[4..], ["unknown", "unknown", "-", "-", "-"]);
        assert!(cells("'bare'")[0].contains("no volume can be made in it"));
        assert!(cells("'gone'")[0].ends_with("are unknown: no answer within 5 s"));
        let json = serde_json::to_value(&list).expect("plain data");
        assert!(json["clusters"][0]["classes"][2]["access_modes"].is_null());
        assert!(json["clusters"][2]["classes"].is_null());
        assert_eq!(json["clusters"][1]["classes"], serde_json::json!([]));
    }

    #[test]
    fn what_hosts_could_do_on_a_share_is_a_table_and_a_word_in_the_list() {
        let step = |step: &str, reason: &str| pb::ProofStep {
            step: step.to_owned(),
            reason: reason.to_owned(),
            ..pb::ProofStep::default()
        };
        let node = |host: &str, steps: Vec<pb::ProofStep>| pb::NodeProof {
            host: host.to_owned(),
            steps,
        };
        let fine = ["write", "read", "remove"].map(|name| step(name, ""));
        let blocked = vec![step("write", "NFS_PORT_BLOCKED")];
        let of_share = |name: &str, nodes: Vec<pb::NodeProof>| pb::StorageClass {
            server: "10.0.0.5".to_owned(),
            share: "/srv/nfs".to_owned(),
            proof: (!nodes.is_empty()).then_some(pb::ShareProof {
                nodes,
                operation_id: "op".to_owned(),
                ..pb::ShareProof::default()
            }),
            ..class(name, &[])
        };
        let nodes = vec![node("w1", fine.to_vec()), node("w2", blocked)];
        let list = |classes| {
            StorageList::from(pb::ListStorageResponse {
                clusters: vec![cluster("wiki", classes, "")],
            })
        };
        let both = list(vec![
            of_share("nfs", nodes.clone()),
            of_share("same", nodes),
            of_share("new", Vec::new()),
        ]);
        let table = both.table();
        assert!(table.contains("not w2, - ago"), "{table}");
        assert!(table.contains("never"), "{table}");
        let json = serde_json::to_value(&both).expect("plain data");
        assert_eq!(
            json["clusters"][0]["classes"][0]["proof"]["hosts"][0]["steps"][0],
            serde_json::json!({"step": "write", "passed": true})
        );
        assert!(both.proofs("other").contains("no verdict"));
        let proved = both.proofs("op");
        let lines = output::cells(&proved);
        assert_eq!(
            lines[1..],
            [
                vec!["10.0.0.5:/srv/nfs", "w1", "yes", "yes", "yes"],
                vec![
                    "10.0.0.5:/srv/nfs",
                    "w2",
                    "NFS_PORT_BLOCKED",
                    "not tried",
                    "not tried"
                ],
            ]
        );
        let fine = list(vec![of_share("nfs", vec![node("w1", fine.to_vec())])]);
        assert!(
            fine.table().contains("all 1 node, - ago"),
            "{}",
            fine.table()
        );
    }
}
