//! Node objects and what belongs to them: cordons, password secrets, bootstrap tokens. Called by the API and by workflows.

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use super::reach::{ClusterApi, NodeError, is_conflict, is_not_found};
use super::ready_condition;

/// Who cordoned a node, when this system did.
pub(crate) const CORDONED_BY: &str = "canasta.wiki/cordoned-by";
/// Where k3s keeps the passwords of nodes and its bootstrap tokens.
const SYSTEM: &str = "kube-system";
const BOOTSTRAP_TOKEN: &str = "bootstrap.kubernetes.io/token";
/// How often a change is tried that others come before: a kubelet changes its Node now and then.
const TRIES: u32 = 5;

/// What came of cordoning a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cordon {
    /// It takes no new pods from now on.
    Set,
    /// The caller had cordoned it already.
    Own,
    /// Somebody else had: who, when that is known.
    Others(String),
}

/// The name of the secret that holds the hash of a node's password.
pub(crate) fn password_secret(node: &str) -> String {
    format!("{node}.node-password.k3s")
}

/// Whether a node takes no new pods.
pub(crate) fn is_cordoned(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.unschedulable).unwrap_or(false)
}

/// Who cordoned a node, when this system did; empty otherwise.
pub(crate) fn cordoned_by(node: &Node) -> &str {
    let annotations = node.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(CORDONED_BY))
        .map(String::as_str)
        .unwrap_or_default()
}

/// The ids of the machine and of its boot that a Node was registered with; empty when it tells none.
pub(crate) fn identity(node: &Node) -> (&str, &str) {
    let info = node.status.as_ref();
    info.and_then(|status| status.node_info.as_ref())
        .map(|info| (info.machine_id.as_str(), info.boot_id.as_str()))
        .unwrap_or_default()
}

/// Whether a Node is of another machine than the one with this id, and lives. One that is not Ready may be left of an earlier
/// life of the same machine, before its system was installed anew.
pub(crate) fn is_anothers(node: &Node, machine: &str) -> bool {
    let registered = identity(node).0;
    let is_other = !registered.is_empty() && !machine.is_empty() && registered != machine;
    is_other && ready_condition(node).is_some_and(|ready| ready.status == "True")
}

/// The label by which volumes are pinned to a node.
pub(crate) fn hostname_label(node: &Node) -> &str {
    let labels = node.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get("kubernetes.io/hostname"))
        .or(node.metadata.name.as_ref())
        .map(String::as_str)
        .unwrap_or_default()
}

impl ClusterApi {
    /// One node; none when the API knows none of this name.
    pub(crate) async fn node(&self, name: &str) -> Result<Option<Node>, NodeError> {
        let nodes = Api::<Node>::all(self.client.clone());
        self.asked(&format!("look at node {name}"), nodes.get_opt(name))
            .await
    }

    /// One node that must be there.
    pub(crate) async fn known_node(&self, name: &str) -> Result<Node, NodeError> {
        self.node(name).await?.ok_or_else(|| NodeError::NoNode {
            cluster: self.cluster.clone(),
            node: name.to_owned(),
        })
    }

    /// All nodes.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, NodeError> {
        let nodes = Api::<Node>::all(self.client.clone());
        let every = ListParams::default();
        Ok(self
            .asked("list the nodes", nodes.list(&every))
            .await?
            .items)
    }

    /// Makes a node take no new pods, in the name of `by`. A cordon that somebody else set is left as it is.
    pub(crate) async fn cordon(&self, name: &str, by: &str) -> Result<Cordon, NodeError> {
        again_after_conflict(|| async move {
            let node = self.known_node(name).await?;
            if is_cordoned(&node) {
                return Ok(match cordoned_by(&node) {
                    who if who == by => Cordon::Own,
                    who => Cordon::Others(who.to_owned()),
                });
            }
            self.patch_node(name, true, Some(by), version(&node))
                .await?;
            Ok(Cordon::Set)
        })
        .await
    }

    /// Lets a node take new pods again, whoever cordoned it. False when it does already.
    pub(crate) async fn uncordon(&self, name: &str) -> Result<bool, NodeError> {
        let node = self.known_node(name).await?;
        if !is_cordoned(&node) && cordoned_by(&node).is_empty() {
            return Ok(false);
        }
        self.patch_node(name, false, None, None).await?;
        Ok(is_cordoned(&node))
    }

    /// Takes back the cordon that `by` set; one of somebody else stays. False when there is nothing to take back.
    pub(crate) async fn take_back_cordon(&self, name: &str, by: &str) -> Result<bool, NodeError> {
        again_after_conflict(|| async move {
            match self.node(name).await? {
                Some(node) if cordoned_by(&node) == by => {
                    self.patch_node(name, false, None, version(&node)).await?;
                    Ok(true)
                }
                _ => Ok(false),
            }
        })
        .await
    }

    /// Puts another name on a cordon, so that whoever set it no longer takes it back.
    pub(crate) async fn take_over_cordon(&self, name: &str, by: &str) -> Result<(), NodeError> {
        again_after_conflict(|| async move {
            let node = self.known_node(name).await?;
            self.patch_node(name, true, Some(by), version(&node)).await
        })
        .await
    }

    /// Puts another name on the cordon that `from` set. Somebody else's, or one that is gone by now, is left as it is.
    pub(crate) async fn take_over_cordon_of(
        &self,
        name: &str,
        from: &str,
        by: &str,
    ) -> Result<(), NodeError> {
        again_after_conflict(|| async move {
            let node = self.known_node(name).await?;
            if cordoned_by(&node) != from {
                return Ok(());
            }
            self.patch_node(name, true, Some(by), version(&node)).await
        })
        .await
    }

    /// With a version it is refused where the node was changed since, so that nobody's cordon is undone unseen.
    async fn patch_node(
        &self,
        name: &str,
        unschedulable: bool,
        by: Option<&str>,
        version: Option<&str>,
    ) -> Result<(), NodeError> {
        let nodes = Api::<Node>::all(self.client.clone());
        // `null` removes a key.
        let mut change = json!({
            "metadata": {"annotations": {CORDONED_BY: by}},
            "spec": {"unschedulable": unschedulable.then_some(true)},
        });
        if let Some(version) = version {
            change["metadata"]["resourceVersion"] = version.into();
        }
        let verb = if unschedulable { "cordon" } else { "uncordon" };
        let (params, patch) = (PatchParams::default(), Patch::Merge(change));
        let patched = nodes.patch(name, &params, &patch);
        self.asked(&format!("{verb} node {name}"), patched).await?;
        Ok(())
    }

    /// Deletes a Node object. False when there is none.
    pub(crate) async fn delete_node(&self, name: &str) -> Result<bool, NodeError> {
        self.delete_node_of(name, None).await
    }

    /// Deletes the Node that has this uid; a later one of its name is a conflict. False when there is none.
    pub(crate) async fn delete_node_of(
        &self,
        name: &str,
        uid: Option<&str>,
    ) -> Result<bool, NodeError> {
        let nodes = Api::<Node>::all(self.client.clone());
        let deleted = async {
            match nodes.delete(name, &only(uid)).await {
                Ok(_) => Ok(true),
                Err(error) if is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.asked(&format!("delete node {name}"), deleted).await
    }

    /// Whether the server keeps a password for a node of this name.
    pub(crate) async fn has_password(&self, node: &str) -> Result<bool, NodeError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), SYSTEM);
        let name = password_secret(node);
        let found = secrets.get_metadata_opt(&name);
        let found = self
            .asked(&format!("look for secret {name}"), found)
            .await?;
        Ok(found.is_some())
    }

    /// The uid of the password that the server keeps for a node; none when it keeps none.
    pub(super) async fn password_uid(&self, node: &str) -> Result<Option<String>, NodeError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), SYSTEM);
        let name = password_secret(node);
        let found = secrets.get_metadata_opt(&name);
        let found = self
            .asked(&format!("look for secret {name}"), found)
            .await?;
        Ok(found.map(|found| found.metadata.uid.unwrap_or_default()))
    }

    /// Deletes the password that has this uid; a later one is a conflict.
    pub(super) async fn delete_password_of(
        &self,
        node: &str,
        uid: &str,
    ) -> Result<bool, NodeError> {
        self.delete_secret(&password_secret(node), Some(uid)).await
    }

    /// Deletes the password that the server keeps for a node. False when there is none.
    pub(crate) async fn delete_password(&self, node: &str) -> Result<bool, NodeError> {
        self.delete_secret(&password_secret(node), None).await
    }

    /// Deletes the bootstrap tokens whose description begins so, and tells how many there were.
    pub(crate) async fn delete_bootstrap_tokens(&self, prefix: &str) -> Result<usize, NodeError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), SYSTEM);
        let only = ListParams::default().fields(&format!("type={BOOTSTRAP_TOKEN}"));
        let found = self
            .asked("list the bootstrap tokens", secrets.list(&only))
            .await?;
        let mut deleted = 0;
        for secret in found.items {
            if secret.type_.as_deref() != Some(BOOTSTRAP_TOKEN) || !described(&secret, prefix) {
                continue;
            }
            let name = secret.metadata.name.unwrap_or_default();
            deleted += usize::from(self.delete_secret(&name, None).await?);
        }
        Ok(deleted)
    }

    async fn delete_secret(&self, name: &str, uid: Option<&str>) -> Result<bool, NodeError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), SYSTEM);
        let deleted = async {
            match secrets.delete(name, &only(uid)).await {
                Ok(_) => Ok(true),
                Err(error) if is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.asked(&format!("delete secret {name}"), deleted).await
    }
}

/// Deletes an object only while it has this uid.
fn only(uid: Option<&str>) -> DeleteParams {
    let params = DeleteParams::default();
    match uid.filter(|uid| !uid.is_empty()) {
        Some(uid) => params.preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        None => params,
    }
}

fn version(node: &Node) -> Option<&str> {
    node.metadata.resource_version.as_deref()
}

/// Looks anew and tries again where somebody else came before with a change.
async fn again_after_conflict<T, F>(change: impl Fn() -> F) -> Result<T, NodeError>
where
    F: Future<Output = Result<T, NodeError>>,
{
    for _ in 1..TRIES {
        match change().await {
            Err(error) if is_conflict(&error) => {}
            done => return done,
        }
    }
    change().await
}

fn described(secret: &Secret, prefix: &str) -> bool {
    let data = secret.data.as_ref();
    data.and_then(|data| data.get("description"))
        .is_some_and(|description| description.0.starts_with(prefix.as_bytes()))
}
