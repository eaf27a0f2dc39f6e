//! The database of the controller: SQLite in one file, opened by one process at a time.
//!
//! Each sub-module holds the queries of one kind of row; who else calls them stands there. WAL with `synchronous=FULL`: what
//! was committed is there after a power cut.

pub(crate) mod artefacts;
mod audit;
pub(crate) mod capabilities;
mod certificates;
pub(crate) mod clusters;
pub(crate) mod debts;
mod hosts;
mod open;
pub(crate) mod operations;
mod tokens;
mod users;
pub(crate) mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::{Sqlite, SqlitePool, Transaction};

pub use audit::{AuditEntry, AuditRow};
pub use certificates::{CertificateRow, Holder};
pub use hosts::{HostRow, Join};
pub(crate) use open::CA;
pub use open::{OpenError, StateDir};
pub use tokens::{TokenEnd, TokenRow};
pub use users::UserRow;

/// The name of the database in the state directory.
pub const DATABASE: &str = "fleet.db";

/// A query did not work out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no room for more.
    #[error("failed to write the controller's database: the disk is full")]
    Full(#[source] sqlx::Error),
    /// The disk went read-only, or the rights on the file changed.
    #[error("failed to write the controller's database: it is read-only")]
    ReadOnly(#[source] sqlx::Error),
    /// Anything else that SQLite says.
    #[error("failed to use the controller's database")]
    Query(#[source] sqlx::Error),
    /// A value can't be what this program stored.
    #[error("failed to read {what} in the controller's database: the stored value makes no sense")]
    Damaged {
        /// Which value: `the role of user alice`.
        what: String,
    },
}

impl Error {
    /// A stored value that makes no sense.
    pub fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

/// SQLITE_READONLY and SQLITE_FULL, the low byte of the extended codes.
const READ_ONLY: i32 = 8;
const FULL: i32 = 13;

/// The primary result code of SQLite behind an error.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xff)
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(FULL) => Self::Full(error),
            Some(READ_ONLY) => Self::ReadOnly(error),
            _ => Self::Query(error),
        }
    }
}

/// The database. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    path: Arc<PathBuf>,
}

impl Store {
    /// For queries that only read, or write with one statement.
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Begins a transaction that writes. It holds SQLite's one write lock from its beginning, so that it never has to be
    /// run again; it is rolled back when dropped without `commit`.
    pub async fn begin(&self) -> Result<Transaction<'static, Sqlite>, Error> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the file after the queries that run.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A time as it is stored: milliseconds since 1970.
fn millis(at: jiff::Timestamp) -> i64 {
    at.as_millisecond()
}

/// A stored time.
fn time(millis: i64, what: &str) -> Result<jiff::Timestamp, Error> {
    jiff::Timestamp::from_millisecond(millis).map_err(|_| Error::damaged(what))
}
