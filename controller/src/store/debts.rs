//! Rows of debts: what is to be done in a cluster once its API answers. Called by [`crate::clusters`], which pays them, and by
//! the workflows that run them up.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Store};
use crate::operations::stamp;
use canasta_proto::pb;

/// What is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DebtKind {
    /// The Node object and its password secret are to be deleted.
    DeleteNode,
    /// The cordon that an operation set is to be taken back.
    Uncordon,
    /// The bootstrap tokens of a join are to be deleted; the name of the node is that of the host.
    DeleteTokens,
}

impl DebtKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::DeleteNode => "delete-node",
            Self::Uncordon => "uncordon",
            Self::DeleteTokens => "delete-tokens",
        }
    }
}

/// A debt as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DebtRow {
    pub(crate) id: i64,
    pub(crate) cluster: String,
    pub(crate) kind: DebtKind,
    pub(crate) node_name: String,
    /// Whose Node it was; empty for a node that is no host of the fleet.
    pub(crate) host: String,
    /// The id of the machine behind the Node; empty when it is not known.
    pub(crate) machine: String,
    /// The operation that ran it up.
    pub(crate) operation: String,
    /// Milliseconds since 1970.
    pub(crate) since: i64,
    /// What the last try came to; empty before the first.
    pub(crate) last_error: String,
}

/// A debt to be recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewDebt<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) kind: DebtKind,
    pub(crate) node_name: &'a str,
    pub(crate) host: &'a str,
    pub(crate) machine: &'a str,
    pub(crate) operation: &'a str,
    pub(crate) last_error: &'a str,
}

impl Store {
    /// Records a debt; one of the same kind for the same node is replaced, but the time since when it is owed.
    pub(crate) async fn put_debt(&self, debt: &NewDebt<'_>) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO debts (cluster, kind, node_name, host, machine, operation_id, since, last_error)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (cluster, kind, node_name) DO UPDATE SET host = excluded.host, machine = excluded.machine,
             operation_id = excluded.operation_id, last_error = excluded.last_error",
        )
        .bind(debt.cluster)
        .bind(debt.kind.as_str())
        .bind(debt.node_name)
        .bind(debt.host)
        .bind(debt.machine)
        .bind(debt.operation)
        .bind(stamp::now_millis())
        .bind(debt.last_error)
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// The debts that are due, oldest first. Cordons and tokens of operations that still run are not, nor is a Node whose name a host of the
    /// cluster has: it has joined again, and the Node is its new one.
    pub(crate) async fn due_debts(&self) -> Result<Vec<DebtRow>, Error> {
        sqlx::query(
            "SELECT * FROM debts WHERE CASE WHEN kind IN ('uncordon', 'delete-tokens') THEN NOT EXISTS
             (SELECT 1 FROM operations WHERE operations.id = debts.operation_id AND operations.state IN (?, ?))
             ELSE NOT EXISTS (SELECT 1 FROM cluster_nodes WHERE cluster_nodes.cluster = debts.cluster
             AND cluster_nodes.node_name = debts.node_name) END ORDER BY id",
        )
        .bind(pb::OperationState::Running as i32)
        .bind(pb::OperationState::Cancelling as i32)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed())?
        .iter()
        .map(read)
        .collect()
    }

    /// One debt, whether due or not.
    pub(crate) async fn debt(
        &self,
        cluster: &str,
        kind: DebtKind,
        node_name: &str,
    ) -> Result<Option<DebtRow>, Error> {
        sqlx::query("SELECT * FROM debts WHERE cluster = ? AND kind = ? AND node_name = ?")
            .bind(cluster)
            .bind(kind.as_str())
            .bind(node_name)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
            .as_ref()
            .map(read)
            .transpose()
    }

    /// A debt was paid, or is owed no longer. One that another operation has taken over meanwhile stays.
    pub(crate) async fn settle_debt(&self, debt: &DebtRow) -> Result<(), Error> {
        sqlx::query("DELETE FROM debts WHERE id = ? AND operation_id = ?")
            .bind(debt.id)
            .bind(&debt.operation)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Keeps what the last try to pay came to.
    pub(crate) async fn debt_failed(&self, id: i64, error: &str) -> Result<(), Error> {
        sqlx::query("UPDATE debts SET last_error = ? WHERE id = ?")
            .bind(error)
            .bind(id)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Whether an operation is asked to stop at the end of its running step.
    pub(crate) async fn is_cancelling(&self, operation: &str) -> Result<bool, Error> {
        let state: Option<i32> = sqlx::query_scalar("SELECT state FROM operations WHERE id = ?")
            .bind(operation)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(state == Some(pb::OperationState::Cancelling as i32))
    }
}

fn read(row: &SqliteRow) -> Result<DebtRow, Error> {
    let kind = match row.try_get::<&str, _>("kind")? {
        "delete-node" => DebtKind::DeleteNode,
        "uncordon" => DebtKind::Uncordon,
        "delete-tokens" => DebtKind::DeleteTokens,
        _ => return Err(Error::damaged("the kind of a debt")),
    };
    Ok(DebtRow {
        id: row.try_get("id")?,
        cluster: row.try_get("cluster")?,
        kind,
        node_name: row.try_get("node_name")?,
        host: row.try_get("host")?,
        machine: row.try_get("machine")?,
        operation: row.try_get("operation_id")?,
        since: row.try_get("since")?,
        last_error: row.try_get("last_error")?,
    })
}
