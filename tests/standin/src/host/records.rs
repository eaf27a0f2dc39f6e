//! What containerd would remember of the node's pods: kept in its database's place, so that a new start finds what an
//! earlier one left.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError, Paths};
use crate::token;

/// A pod that runs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sandbox {
    /// The id of the sandbox container.
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// The network namespace and the bridge's end of its cable; none for a pod in the node's own.
    pub(super) network: Option<Network>,
    pub(super) containers: Vec<Container>,
    /// The last part of the name of the volume with the API's credentials.
    pub(super) suffix: String,
}

/// A pod's own network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Network {
    pub(super) netns: String,
    pub(super) veth: String,
    pub(super) address: String,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    /// What `ps` shows first.
    pub(super) command: String,
}

impl Sandbox {
    /// New names for a pod; `address` only for one with a network of its own.
    pub(super) fn new(
        namespace: &str,
        name: &str,
        containers: &[(String, String)],
        address: Option<String>,
    ) -> Self {
        let id = || format!("{}{}", token::random(), token::random());
        Self {
            id: id(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            network: address.map(|address| Network {
                netns: format!("cni-{}", uuid::Uuid::new_v4()),
                veth: format!("veth{}", &token::random()[..8]),
                address,
            }),
            containers: containers
                .iter()
                .map(|(name, command)| Container {
                    id: id(),
                    name: name.clone(),
                    command: command.clone(),
                })
                .collect(),
            suffix: token::random()[..5].to_owned(),
        }
    }
}

/// The pods by their uid.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Records {
    pub(super) pods: BTreeMap<String, Sandbox>,
}

fn path(paths: &Paths) -> PathBuf {
    paths.agent("containerd/io.containerd.metadata.v1.bolt/meta.db")
}

impl Records {
    /// As an earlier run left them.
    pub(super) fn read(paths: &Paths) -> Self {
        files::read(&path(paths))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Keeps them for the next run.
    pub(super) fn write(&self, paths: &Paths) -> Result<(), FileError> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        files::write(&path(paths), 0o644, text)
    }

    /// An address of the subnet that no pod has; pods that are gone leave theirs at once.
    pub(super) fn free_address(&self, subnet: &str) -> String {
        let taken: Vec<&str> = self
            .pods
            .values()
            .filter_map(|pod| pod.network.as_ref())
            .map(|network| network.address.as_str())
            .collect();
        (2..=254)
            .map(|last| super::flannel::host(subnet, last))
            .find(|address| !taken.contains(&address.as_str()))
            .unwrap_or_else(|| super::flannel::host(subnet, 254))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_start_reads_what_the_last_one_kept() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path(), None);
        let mut records = Records::read(&paths);
        assert_eq!(records.free_address("10.42.1.0/24"), "10.42.1.2");
        let containers = [("c".to_owned(), "sleep".to_owned())];
        let pod = Sandbox::new("dro", "plain", &containers, Some("10.42.1.2".into()));
        assert_eq!(pod.id.len(), 64);
        records.pods.insert("uid".into(), pod.clone());
        records.write(&paths).unwrap();
        let again = Records::read(&paths);
        assert_eq!(again.pods.get("uid"), Some(&pod));
        assert_eq!(again.free_address("10.42.1.0/24"), "10.42.1.3");
    }
}
