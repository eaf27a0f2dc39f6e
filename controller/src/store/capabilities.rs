//! Rows of what the APIs of clusters can do. Called by [`crate::clusters`] alone.

use sqlx::Row as _;

use super::{Error, Store};
use crate::operations::stamp;

/// What the API of a cluster can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CapabilityRow {
    /// `v1.34.8+k3s1`.
    pub(crate) server_version: String,
    /// The version of the eviction that it knows: `v1`, `v1beta1`.
    pub(crate) eviction_version: String,
}

impl Store {
    /// What was probed of a cluster.
    pub(crate) async fn capabilities(&self, cluster: &str) -> Result<Option<CapabilityRow>, Error> {
        sqlx::query("SELECT server_version, eviction_version FROM capabilities WHERE cluster = ?")
            .bind(cluster)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
            .map(|row| {
                Ok(CapabilityRow {
                    server_version: row.try_get("server_version")?,
                    eviction_version: row.try_get("eviction_version")?,
                })
            })
            .transpose()
    }

    /// Keeps what was probed of a cluster.
    pub(crate) async fn put_capabilities(
        &self,
        cluster: &str,
        probed: &CapabilityRow,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO capabilities (cluster, server_version, eviction_version, probed_at) VALUES (?, ?, ?, ?)
             ON CONFLICT (cluster) DO UPDATE SET server_version = excluded.server_version,
             eviction_version = excluded.eviction_version, probed_at = excluded.probed_at",
        )
        .bind(cluster)
        .bind(&probed.server_version)
        .bind(&probed.eviction_version)
        .bind(stamp::now_millis())
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(())
    }
}
