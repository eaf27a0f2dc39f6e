//! Rows of the audit trail. Called by [`crate::api`], and by [`crate::fleet`] for what agents refuse.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Executor, Row as _, Sqlite};

use super::{Error, Store, millis, time};

/// What is known when a call begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Who: `user alice`, `local root`, `unknown`.
    pub who: String,
    /// From where: an address with port, or `unix socket`.
    pub from: String,
    /// What: the rpc, or `handshake`.
    pub what: String,
}

/// A row as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Grows by one a row.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who, from where, and what.
    pub entry: AuditEntry,
    /// What it was about: `host cp1`.
    pub subject: String,
    /// The operation that it started; may be empty.
    pub operation_id: String,
    /// How the call ended; empty while it runs, or when the controller stopped in it.
    pub outcome: String,
    /// The state of the operation, as the wire contract numbers it.
    pub operation_state: Option<i32>,
}

impl Store {
    /// Begins a row before the call is let through, so that nothing is changed without a trace.
    pub async fn begin_audit(&self, entry: &AuditEntry) -> Result<i64, Error> {
        insert(self.pool(), entry, "", "")
            .await
            .map_err(self.failed())
    }

    /// Adds a row about something that was refused.
    pub async fn refused_audit(
        &self,
        entry: &AuditEntry,
        subject: &str,
        outcome: &str,
    ) -> Result<(), Error> {
        insert(self.pool(), entry, subject, outcome)
            .await
            .map(|_| ())
            .map_err(self.failed())
    }

    /// Adds a row that may have been added before, once. The last thousand rows are looked through.
    pub async fn audit_once(
        &self,
        entry: &AuditEntry,
        subject: &str,
        outcome: &str,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO audit (at, who, source, what, subject, outcome)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (
                 SELECT 1 FROM audit WHERE id > (SELECT max(id) FROM audit) - 1000
                 AND who = ?2 AND source = ?3 AND what = ?4 AND subject = ?5 AND outcome = ?6)",
        )
        .bind(millis(Timestamp::now()))
        .bind(&entry.who)
        .bind(&entry.from)
        .bind(&entry.what)
        .bind(subject)
        .bind(outcome)
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// Ends a row with what came of the call.
    pub async fn end_audit(
        &self,
        id: i64,
        subject: &str,
        operation_id: &str,
        outcome: &str,
    ) -> Result<(), Error> {
        sqlx::query("UPDATE audit SET subject = ?, operation_id = ?, outcome = ? WHERE id = ?")
            .bind(subject)
            .bind(operation_id)
            .bind(outcome)
            .bind(id)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// The last rows, newest first.
    pub async fn audit(&self, limit: u32) -> Result<Vec<AuditRow>, Error> {
        sqlx::query(
            "SELECT a.id, a.at, a.who, a.source, a.what, a.subject, a.operation_id, a.outcome,
             o.state AS operation_state
             FROM audit a LEFT JOIN operations o ON o.id = a.operation_id
             ORDER BY a.id DESC LIMIT ?",
        )
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed())?
        .iter()
        .map(read)
        .collect()
    }
}

/// Adds a row; within a transaction, together with the change that it is about.
pub(super) async fn insert<'e>(
    executor: impl Executor<'e, Database = Sqlite>,
    entry: &AuditEntry,
    subject: &str,
    outcome: &str,
) -> Result<i64, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO audit (at, who, source, what, subject, outcome) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(millis(Timestamp::now()))
    .bind(&entry.who)
    .bind(&entry.from)
    .bind(&entry.what)
    .bind(subject)
    .bind(outcome)
    .execute(executor)
    .await?;
    Ok(done.last_insert_rowid())
}

fn read(row: &SqliteRow) -> Result<AuditRow, Error> {
    Ok(AuditRow {
        id: row.try_get("id")?,
        at: time(row.try_get("at")?, "the time of an audit row")?,
        entry: AuditEntry {
            who: row.try_get("who")?,
            from: row.try_get("source")?,
            what: row.try_get("what")?,
        },
        subject: row.try_get("subject")?,
        operation_id: row.try_get("operation_id")?,
        outcome: row.try_get("outcome")?,
        operation_state: row.try_get("operation_state")?,
    })
}
