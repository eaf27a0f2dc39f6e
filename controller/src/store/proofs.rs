//! Rows of proofs of shares: what each host could do, and which check counts. Called by the workflow that checks storage and by
//! [`crate::storage`], which tells of it.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::clusters::{list, read_list};
use super::{Error, Store};
use crate::operations::stamp;

/// Of how many checks at most it is known that they left files.
const MOST_KEPT: i64 = 8;

/// What a host does on a share, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProofStep {
    /// Writes a file, changes its owner, reads both back.
    Write,
    /// Reads the file of another host.
    Read,
    /// Removes its file.
    Remove,
}

impl ProofStep {
    /// As it stands in the database, on the wire and in the names of steps.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Remove => "remove",
        }
    }
}

/// What one step of a host on a share came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProofRow {
    pub(crate) server: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) step: ProofStep,
    /// Empty when it was done.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) hint: String,
}

#[cfg(test)]
impl ProofRow {
    /// What a step on `10.0.0.5:/srv/nfs` came to, for tests.
    pub(crate) fn sample(host: &str, step: ProofStep, reason: &str) -> Self {
        Self {
            server: "10.0.0.5".to_owned(),
            path: "/srv/nfs".to_owned(),
            host: host.to_owned(),
            step,
            reason: reason.to_owned(),
            message: "it does not answer".to_owned(),
            hint: "open TCP 2049".to_owned(),
        }
    }
}

/// The last check of a share that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckRow {
    pub(crate) server: String,
    pub(crate) path: String,
    /// Milliseconds since 1970.
    pub(crate) checked_at: i64,
    /// The operation that made it.
    pub(crate) operation: String,
    /// Nodes that were no hosts of the fleet then.
    pub(crate) unproved: Vec<String>,
    /// By host and step.
    pub(crate) proofs: Vec<ProofRow>,
}

impl Store {
    /// Keeps what a step of a check came to; what an earlier attempt of the same step came to is replaced.
    pub(crate) async fn put_proof(
        &self,
        cluster: &str,
        operation: &str,
        proof: &ProofRow,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT OR REPLACE INTO share_proofs (cluster, operation_id, server, path, host, step, reason, message, hint)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(cluster)
        .bind(operation)
        .bind(&proof.server)
        .bind(&proof.path)
        .bind(&proof.host)
        .bind(proof.step.as_str())
        .bind(&proof.reason)
        .bind(&proof.message)
        .bind(&proof.hint)
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// What the steps of a check came to so far.
    pub(crate) async fn proofs(
        &self,
        cluster: &str,
        operation: &str,
    ) -> Result<Vec<ProofRow>, Error> {
        let mut proofs =
            sqlx::query("SELECT * FROM share_proofs WHERE cluster = ? AND operation_id = ?")
                .bind(cluster)
                .bind(operation)
                .fetch_all(self.pool())
                .await
                .map_err(self.failed())?
                .iter()
                .map(read)
                .collect::<Result<Vec<_>, _>>()?;
        proofs.sort_by(|one, other| {
            let key = |row: &ProofRow| {
                (
                    row.server.clone(),
                    row.path.clone(),
                    row.host.clone(),
                    row.step,
                )
            };
            key(one).cmp(&key(other))
        });
        Ok(proofs)
    }

    /// The earlier checks that wrote a file of this host to this share and did not remove it, newest first, as far as is known.
    pub(crate) async fn unremoved(
        &self,
        cluster: &str,
        operation: &str,
        proof: &ProofRow,
    ) -> Result<Vec<String>, Error> {
        sqlx::query_scalar(
            "SELECT operation_id FROM share_proofs AS written
             WHERE cluster = ?1 AND operation_id <> ?2 AND server = ?3 AND path = ?4 AND host = ?5 AND step = 'write'
             AND NOT EXISTS (SELECT 1 FROM share_proofs AS removed WHERE removed.cluster = ?1
             AND removed.operation_id = written.operation_id AND removed.server = ?3 AND removed.path = ?4
             AND removed.host = ?5 AND removed.step = 'remove' AND removed.reason = '')
             ORDER BY operation_id DESC",
        )
        .bind(cluster)
        .bind(operation)
        .bind(&proof.server)
        .bind(&proof.path)
        .bind(&proof.host)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed())
    }

    /// A check of a share came to its end: it counts from now on, and what others came to there is forgotten, but for files that
    /// they left.
    pub(crate) async fn settle_check(
        &self,
        cluster: &str,
        operation: &str,
        (server, path): (&str, &str),
        unproved: &[String],
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO share_checks (cluster, server, path, operation_id, checked_at, unproved)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (cluster, server, path) DO UPDATE SET operation_id = excluded.operation_id,
             checked_at = excluded.checked_at, unproved = excluded.unproved
             WHERE share_checks.operation_id <> excluded.operation_id",
        )
        .bind(cluster)
        .bind(server)
        .bind(path)
        .bind(operation)
        .bind(stamp::now_millis())
        .bind(list(unproved))
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        sqlx::query(
            "DELETE FROM share_proofs AS old WHERE cluster = ?1 AND operation_id <> ?2 AND server = ?4 AND path = ?5
             AND (EXISTS (SELECT 1 FROM share_proofs AS removed WHERE removed.cluster = ?1
             AND removed.operation_id = old.operation_id AND removed.server = old.server AND removed.path = old.path
             AND removed.host = old.host AND removed.step = 'remove' AND removed.reason = '')
             OR operation_id NOT IN
             (SELECT DISTINCT operation_id FROM share_proofs WHERE cluster = ?1 AND server = ?4 AND path = ?5
             ORDER BY operation_id DESC LIMIT ?3))",
        )
        .bind(cluster)
        .bind(operation)
        .bind(MOST_KEPT)
        .bind(server)
        .bind(path)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }

    /// The checks that count for the shares of a cluster.
    pub(crate) async fn last_checks(&self, cluster: &str) -> Result<Vec<CheckRow>, Error> {
        let found =
            sqlx::query("SELECT * FROM share_checks WHERE cluster = ? ORDER BY server, path")
                .bind(cluster)
                .fetch_all(self.pool())
                .await
                .map_err(self.failed())?;
        let mut checks = Vec::new();
        for row in &found {
            let operation: String = row.try_get("operation_id")?;
            let mut check = CheckRow {
                server: row.try_get("server")?,
                path: row.try_get("path")?,
                checked_at: row.try_get("checked_at")?,
                unproved: read_list(row, "unproved")?,
                proofs: self.proofs(cluster, &operation).await?,
                operation,
            };
            let (server, path) = (&check.server, &check.path);
            check
                .proofs
                .retain(|proof| (&proof.server, &proof.path) == (server, path));
            checks.push(check);
        }
        Ok(checks)
    }
}

fn read(row: &SqliteRow) -> Result<ProofRow, Error> {
    let step = match row.try_get::<&str, _>("step")? {
        "write" => ProofStep::Write,
        "read" => ProofStep::Read,
        "remove" => ProofStep::Remove,
        _ => return Err(Error::damaged("the step of a proof")),
    };
    Ok(ProofRow {
        server: row.try_get("server")?,
        path: row.try_get("path")?,
        host: row.try_get("host")?,
        step,
        reason: row.try_get("reason")?,
        message: row.try_get("message")?,
        hint: row.try_get("hint")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StateDir;
    use crate::store::clusters::{ClusterRow, NodeRow};

    /// A database with a cluster; it lives as long as what comes with it.
    async fn store() -> (Store, (StateDir, tempfile::TempDir)) {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDir::take(directory.path()).expect("state");
        let store = Store::open(&state, "fleet").await.expect("database");
        let cluster = ClusterRow {
            name: "wiki".to_owned(),
            k3s_version: "v1.34.8+k3s1".to_owned(),
            ca_hash: String::new(),
            endpoint: String::new(),
            adopted: false,
            created_at: 0,
            public_ips: Vec::new(),
        };
        let node = NodeRow {
            host: "w1".to_owned(),
            cluster: "wiki".to_owned(),
            node_name: "w1".to_owned(),
            role: "control-plane".to_owned(),
            node_ip: String::new(),
            tls_sans: Vec::new(),
        };
        store
            .put_cluster_node(&cluster, &node)
            .await
            .expect("stored");
        (store, (state, directory))
    }

    #[tokio::test]
    async fn a_file_that_was_left_is_known_until_it_is_removed() {
        let (store, _kept) = store().await;
        let put = async |operation: &str, row: ProofRow| {
            store
                .put_proof("wiki", operation, &row)
                .await
                .expect("stored");
        };
        let left = async || {
            let asked = ProofRow::sample("w1", ProofStep::Write, "");
            store.unremoved("wiki", "op9", &asked).await.expect("asked")
        };
        put("op1", ProofRow::sample("w1", ProofStep::Write, "")).await;
        put("op1", ProofRow::sample("w1", ProofStep::Remove, "NFS_LOST")).await;
        put("op2", ProofRow::sample("w1", ProofStep::Write, "")).await;
        put("op2", ProofRow::sample("w1", ProofStep::Remove, "")).await;
        put("op3", ProofRow::sample("w2", ProofStep::Write, "")).await;
        assert_eq!(left().await, ["op1"]);

        // A check that comes to its end meanwhile forgets what is done, and not what is left.
        let unproved = ["n3".to_owned()];
        put(
            "op9",
            ProofRow::sample("w1", ProofStep::Write, "NFS_REFUSED"),
        )
        .await;
        let share = ("10.0.0.5", "/srv/nfs");
        store
            .settle_check("wiki", "op9", share, &unproved)
            .await
            .expect("settled");
        let other = ("10.0.0.5", "/srv/other");
        store
            .settle_check("wiki", "op8", other, &[])
            .await
            .expect("settled");
        assert_eq!(left().await, ["op1"]);
        assert_eq!(store.proofs("wiki", "op2").await.expect("read"), []);
        let checks = store.last_checks("wiki").await.expect("read");
        let [check, another] = &checks[..] else {
            panic!("{checks:?}");
        };
        assert_eq!(
            (check.operation.as_str(), check.unproved.as_slice()),
            ("op9", &unproved[..])
        );
        assert_eq!(
            (another.operation.as_str(), another.path.as_str()),
            ("op8", "/srv/other")
        );
        assert_eq!(
            check.proofs,
            [ProofRow::sample("w1", ProofStep::Write, "NFS_REFUSED")]
        );

        put("op1", ProofRow::sample("w1", ProofStep::Remove, "")).await;
        assert_eq!(left().await, Vec::<String>::new());
    }
}
