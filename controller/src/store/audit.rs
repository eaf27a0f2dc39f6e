//! Rows of the audit trail. Called by [`crate::api`] alone.

use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

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
        self.insert_audit(entry, "", "").await
    }

    /// Adds a row about something that was refused.
    pub async fn refused_audit(
        &self,
        entry: &AuditEntry,
        subject: &str,
        outcome: &str,
    ) -> Result<(), Error> {
        self.insert_audit(entry, subject, outcome).await.map(|_| ())
    }

    async fn insert_audit(
        &self,
        entry: &AuditEntry,
        subject: &str,
        outcome: &str,
    ) -> Result<i64, Error> {
        let done = sqlx::query(
            "INSERT INTO audit (at, who, source, what, subject, outcome) VALUES (?, ?, ?, ?, ?, ?)",
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
        Ok(done.last_insert_rowid())
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
