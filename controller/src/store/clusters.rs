//! Rows of clusters and their nodes. Called by [`crate::clusters`] and the workflows that make and change clusters.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Store};

/// A cluster as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterRow {
    pub(crate) name: String,
    /// The version that all its nodes get.
    pub(crate) k3s_version: String,
    /// SHA-256 of its CA as in a k3s token, hex.
    pub(crate) ca_hash: String,
    /// `https://10.0.0.5:6443`.
    pub(crate) endpoint: String,
    /// True when it was adopted and not installed.
    pub(crate) adopted: bool,
    /// Milliseconds since 1970.
    pub(crate) created_at: i64,
    /// As `--public-ip` said last.
    pub(crate) public_ips: Vec<String>,
}

/// A node of a cluster that is a host of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) host: String,
    pub(crate) cluster: String,
    /// The name of the Node object.
    pub(crate) node_name: String,
    /// `control-plane` or `worker`.
    pub(crate) role: String,
    pub(crate) node_ip: String,
    pub(crate) tls_sans: Vec<String>,
}

impl Store {
    /// Stores a cluster together with one of its nodes; what was stored of either is replaced, but the time of birth.
    pub(crate) async fn put_cluster_node(
        &self,
        cluster: &ClusterRow,
        node: &NodeRow,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO clusters (name, k3s_version, ca_hash, endpoint, adopted, created_at, public_ips)
             VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (name) DO UPDATE SET k3s_version = excluded.k3s_version, ca_hash = excluded.ca_hash,
             endpoint = excluded.endpoint, adopted = excluded.adopted, public_ips = excluded.public_ips",
        )
        .bind(&cluster.name)
        .bind(&cluster.k3s_version)
        .bind(&cluster.ca_hash)
        .bind(&cluster.endpoint)
        .bind(cluster.adopted)
        .bind(cluster.created_at)
        .bind(list(&cluster.public_ips))
        .execute(&mut *transaction)
        .await.map_err(self.failed())?;
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
        .await.map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }

    /// All clusters, by name.
    pub(crate) async fn clusters(&self) -> Result<Vec<ClusterRow>, Error> {
        sqlx::query("SELECT * FROM clusters ORDER BY name")
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read_cluster)
            .collect()
    }

    /// One cluster.
    pub(crate) async fn cluster(&self, name: &str) -> Result<Option<ClusterRow>, Error> {
        sqlx::query("SELECT * FROM clusters WHERE name = ?")
            .bind(name)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
            .as_ref()
            .map(read_cluster)
            .transpose()
    }

    /// All hosts that are nodes of a cluster, by the name of the Node.
    pub(crate) async fn cluster_nodes(&self) -> Result<Vec<NodeRow>, Error> {
        sqlx::query("SELECT * FROM cluster_nodes ORDER BY cluster, node_name")
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read_node)
            .collect()
    }

    /// What a host is in its cluster; none when it belongs to none.
    pub(crate) async fn cluster_node(&self, host: &str) -> Result<Option<NodeRow>, Error> {
        sqlx::query("SELECT * FROM cluster_nodes WHERE host = ?")
            .bind(host)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
            .as_ref()
            .map(read_node)
            .transpose()
    }
}

pub(super) fn list(texts: &[String]) -> String {
    serde_json::to_string(texts).expect("a list of strings is JSON")
}

pub(super) fn read_list(row: &SqliteRow, column: &str) -> Result<Vec<String>, Error> {
    serde_json::from_str(row.try_get(column)?)
        .map_err(|_| Error::damaged(format!("the {column} of a cluster")))
}

fn read_cluster(row: &SqliteRow) -> Result<ClusterRow, Error> {
    Ok(ClusterRow {
        name: row.try_get("name")?,
        k3s_version: row.try_get("k3s_version")?,
        ca_hash: row.try_get("ca_hash")?,
        endpoint: row.try_get("endpoint")?,
        adopted: row.try_get("adopted")?,
        created_at: row.try_get("created_at")?,
        public_ips: read_list(row, "public_ips")?,
    })
}

fn read_node(row: &SqliteRow) -> Result<NodeRow, Error> {
    Ok(NodeRow {
        host: row.try_get("host")?,
        cluster: row.try_get("cluster")?,
        node_name: row.try_get("node_name")?,
        role: row.try_get("role")?,
        node_ip: row.try_get("node_ip")?,
        tls_sans: read_list(row, "tls_sans")?,
    })
}
