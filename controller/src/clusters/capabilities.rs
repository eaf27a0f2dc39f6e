//! What the API of a cluster can do: asked by discovery once, kept, and asked again when the server has another version.

use super::Clusters;
use super::reach::{ClusterApi, NodeError};
use crate::store::capabilities::CapabilityRow;

/// The sub-resource that evicts a pod.
const EVICTION: &str = "pods/eviction";
/// What every server knows that says nothing of it.
const OLDEST: &str = "v1beta1";

impl Clusters {
    /// What a cluster can do, from what is kept when its server has not changed since.
    pub(crate) async fn capabilities(&self, api: &ClusterApi) -> Result<CapabilityRow, NodeError> {
        let version = api
            .asked("ask for the version", api.client.apiserver_version())
            .await?
            .git_version;
        let kept = self.store.capabilities(&api.cluster).await?;
        if let Some(kept) = kept.filter(|kept| kept.server_version == version) {
            return Ok(kept);
        }
        let resources = api
            .asked(
                "ask what it can do",
                api.client.list_core_api_resources("v1"),
            )
            .await?;
        let eviction = resources
            .resources
            .iter()
            .find(|resource| resource.name == EVICTION)
            .and_then(|resource| resource.version.clone());
        let probed = CapabilityRow {
            server_version: version,
            eviction_version: eviction.unwrap_or_else(|| OLDEST.to_owned()),
        };
        self.store.put_capabilities(&api.cluster, &probed).await?;
        Ok(probed)
    }
}
