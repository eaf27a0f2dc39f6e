//! Rows of the storage classes that the controller makes. An intent is stored before anything of it is there, and goes after all of
//! it. Called by the workflows that set up and remove storage, by those that change which nodes a cluster has, and by
//! [`crate::storage`].

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::clusters::{list, read_list};
use super::{Error, Store};

/// A storage class and the share behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedRow {
    pub(crate) cluster: String,
    /// The name of the class.
    pub(crate) class: String,
    /// The host that exports the share; none where a server does that is no host's affair.
    pub(crate) host: Option<String>,
    /// Name or address of the server, as the class has it.
    pub(crate) server: String,
    pub(crate) path: String,
    /// Who may mount it beside the nodes of the cluster.
    pub(crate) clients: Vec<String>,
    /// Whether the class was made.
    pub(crate) made: bool,
    /// Whether instances of the cluster get it.
    pub(crate) is_default: bool,
}

impl Store {
    /// All storage classes that the controller makes, by cluster and name.
    pub(crate) async fn shared_storage(&self) -> Result<Vec<SharedRow>, Error> {
        sqlx::query("SELECT * FROM shared_storage ORDER BY cluster, class")
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read)
            .collect()
    }

    /// Stores what a class is to be. Whether it was made, and is the default, stays as it is.
    pub(crate) async fn put_shared_storage(&self, row: &SharedRow) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO shared_storage (cluster, class, host, server, path, clients, made, is_default)
             VALUES (?, ?, ?, ?, ?, ?, 0, 0)
             ON CONFLICT (cluster, class) DO UPDATE SET host = excluded.host, server = excluded.server,
             path = excluded.path, clients = excluded.clients",
        )
        .bind(&row.cluster)
        .bind(&row.class)
        .bind(&row.host)
        .bind(&row.server)
        .bind(&row.path)
        .bind(list(&row.clients))
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// Notes that a class is there.
    pub(crate) async fn mark_class_made(&self, cluster: &str, class: &str) -> Result<(), Error> {
        sqlx::query("UPDATE shared_storage SET made = 1 WHERE cluster = ? AND class = ?")
            .bind(cluster)
            .bind(class)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Makes a class the one that instances of its cluster get; the one that was it before.
    pub(crate) async fn set_instance_default(
        &self,
        cluster: &str,
        class: &str,
    ) -> Result<Option<String>, Error> {
        let mut transaction = self.begin().await?;
        let before: Option<String> = sqlx::query_scalar(
            "SELECT class FROM shared_storage WHERE cluster = ? AND is_default = 1",
        )
        .bind(cluster)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(self.failed())?;
        // In this order, since there is one at most.
        for text in [
            "UPDATE shared_storage SET is_default = 0 WHERE cluster = ?1 AND class <> ?2",
            "UPDATE shared_storage SET is_default = 1 WHERE cluster = ?1 AND class = ?2",
        ] {
            sqlx::query(text)
                .bind(cluster)
                .bind(class)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
        }
        transaction.commit().await.map_err(self.failed())?;
        Ok(before)
    }

    /// Forgets a class, and what was proved of its share.
    pub(crate) async fn forget_shared_storage(&self, row: &SharedRow) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM shared_storage WHERE cluster = ? AND class = ?")
            .bind(&row.cluster)
            .bind(&row.class)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        sqlx::query("DELETE FROM share_checks WHERE cluster = ? AND server = ? AND path = ?")
            .bind(&row.cluster)
            .bind(&row.server)
            .bind(&row.path)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }
}

fn read(row: &SqliteRow) -> Result<SharedRow, Error> {
    Ok(SharedRow {
        cluster: row.try_get("cluster")?,
        class: row.try_get("class")?,
        host: row.try_get("host")?,
        server: row.try_get("server")?,
        path: row.try_get("path")?,
        clients: read_list(row, "clients")?,
        made: row.try_get("made")?,
        is_default: row.try_get("is_default")?,
    })
}
