//! Dropping rows that nobody needs any more. Called once a day by [`crate::retention`].

use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use super::{Error, Store, millis};
use crate::config::Retention;
use canasta_proto::pb;
use jiff::Timestamp;

/// So many rows go in one transaction, so that others can write in between.
const AT_ONCE: i64 = 500;

/// How many rows were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Certificates that ended.
    pub certificates: u64,
    /// Rows of the audit trail.
    pub audit: u64,
    /// Operations that ended.
    pub operations: u64,
}

impl Store {
    /// Drops what is older or more than the settings say.
    ///
    /// Of agents, certificates that are in force stay however old they are: a host that was off for weeks is known by its
    /// key. Of operations, the newest of each kind on each host stays: a command that is run again goes on from it.
    ///
    /// # Errors
    /// When the database can't be written; what was dropped by then stays so.
    pub async fn prune(&self, keep: &Retention, now: Timestamp) -> Result<Pruned, Error> {
        let before = |days: u32| {
            let age = std::time::Duration::from_secs(u64::from(days) * 24 * 60 * 60);
            millis(now.saturating_sub(age).unwrap_or(Timestamp::MIN))
        };
        let certificates = self
            .drop_rows(|| {
                sqlx::query(
                    "DELETE FROM certificates WHERE serial IN (SELECT serial FROM certificates
                     WHERE not_after < ?1 AND (kind = 'user' OR revoked_at IS NOT NULL) LIMIT ?2)",
                )
                .bind(before(keep.certificate_days))
                .bind(AT_ONCE)
            })
            .await?;
        let audit = self
            .drop_rows(|| {
                sqlx::query(
                    "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ?1
                     OR id <= (SELECT max(id) FROM audit) - ?3 LIMIT ?2)",
                )
                .bind(before(keep.audit_days))
                .bind(AT_ONCE)
                .bind(i64::from(keep.audit_rows))
            })
            .await?;
        let operations = self
            .drop_rows(|| {
                sqlx::query(
                    "DELETE FROM operations WHERE id IN (SELECT id FROM operations
                     WHERE state NOT IN (?4, ?5) AND (started_at < ?1 OR id NOT IN
                     (SELECT id FROM operations ORDER BY id DESC LIMIT ?3))
                     AND id NOT IN (SELECT max(id) FROM operations GROUP BY kind, hosts) LIMIT ?2)",
                )
                .bind(before(keep.operation_days))
                .bind(AT_ONCE)
                .bind(i64::from(keep.operations))
                .bind(pb::OperationState::Running as i32)
                .bind(pb::OperationState::Cancelling as i32)
            })
            .await?;
        Ok(Pruned {
            certificates,
            audit,
            operations,
        })
    }

    /// Runs a deletion until it finds nothing more.
    async fn drop_rows<'q>(
        &self,
        query: impl Fn() -> Query<'q, Sqlite, SqliteArguments>,
    ) -> Result<u64, Error> {
        let mut dropped = 0;
        loop {
            let done = query()
                .execute(self.pool())
                .await
                .map_err(self.failed())?
                .rows_affected();
            dropped += done;
            if done == 0 {
                return Ok(dropped);
            }
        }
    }
}
