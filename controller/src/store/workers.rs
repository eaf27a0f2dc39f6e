//! Rows of workers and their marks, and the end of nodes and clusters. Called by the workflows that join, uninstall and
//! forget, and by [`crate::clusters`].

use sqlx::Row as _;

use super::clusters::{NodeRow, list};
use super::{Error, Store};
use crate::operations::stamp;

/// What is known of a worker besides its row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WorkerMark {
    /// When its Node was first seen Ready, milliseconds since 1970; none means never.
    pub(crate) ready_at: Option<i64>,
    /// True when the Node object is of the k3s that is on the host now, and not of one before a reinstall.
    pub(crate) settled: bool,
}

impl Store {
    /// Stores a worker of a cluster that is known. `fresh` says that its k3s is installed for the first time, so that a Node
    /// of its name is of an earlier life.
    pub(crate) async fn put_worker(&self, node: &NodeRow, fresh: bool) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO cluster_nodes (host, cluster, node_name, role, node_ip, tls_sans) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT (host) DO UPDATE SET cluster = excluded.cluster, node_name = excluded.node_name,
             role = excluded.role, node_ip = excluded.node_ip, tls_sans = excluded.tls_sans",
        )
        .bind(&node.host)
        .bind(&node.cluster)
        .bind(&node.node_name)
        .bind(&node.role)
        .bind(&node.node_ip)
        .bind(list(&node.tls_sans))
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        sqlx::query(
            "INSERT INTO worker_marks (host, ready_at, settled) VALUES (?1, NULL, 0)
             ON CONFLICT (host) DO UPDATE SET settled = CASE WHEN ?2 THEN 0 ELSE settled END",
        )
        .bind(&node.host)
        .bind(fresh)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }

    /// The mark of a worker; none for a host that was never one.
    pub(crate) async fn worker_mark(&self, host: &str) -> Result<Option<WorkerMark>, Error> {
        sqlx::query("SELECT ready_at, settled FROM worker_marks WHERE host = ?")
            .bind(host)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
            .map(|row| {
                Ok(WorkerMark {
                    ready_at: row.try_get("ready_at")?,
                    settled: row.try_get("settled")?,
                })
            })
            .transpose()
    }

    /// Marks that the Node of a worker was seen Ready with the identity of its host.
    pub(crate) async fn mark_ready(&self, host: &str) -> Result<(), Error> {
        sqlx::query(
            "UPDATE worker_marks SET ready_at = COALESCE(ready_at, ?1), settled = 1 WHERE host = ?2",
        )
        .bind(stamp::now_millis())
        .bind(host)
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// Forgets that a host is a node, and its cluster with the last one. The second value tells whether the cluster went too.
    pub(crate) async fn forget_node(&self, host: &str) -> Result<(bool, bool), Error> {
        let mut transaction = self.begin().await?;
        let cluster: Option<String> =
            sqlx::query_scalar("DELETE FROM cluster_nodes WHERE host = ? RETURNING cluster")
                .bind(host)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(self.failed())?;
        let Some(cluster) = cluster else {
            return Ok((false, false));
        };
        let emptied = sqlx::query(
            "DELETE FROM clusters WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM cluster_nodes WHERE cluster = ?1)",
        )
        .bind(&cluster)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok((true, emptied.rows_affected() == 1))
    }

    /// Forgets a cluster with all that is kept of it. False when there is none of this name.
    pub(crate) async fn forget_cluster(&self, name: &str) -> Result<bool, Error> {
        let done = sqlx::query("DELETE FROM clusters WHERE name = ?")
            .bind(name)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(done.rows_affected() == 1)
    }
}
