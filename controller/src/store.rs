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
pub(crate) mod proofs;
mod retention;
pub(crate) mod shared_storage;
mod tokens;
mod users;
pub(crate) mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::{Sqlite, SqlitePool, Transaction};

pub use audit::{AuditEntry, AuditRow};
pub use certificates::{
    CertificateRow, Holder, LIVING_CERTIFICATES, PENDING_CERTIFICATES, Recorded, Shown,
};
pub use hosts::{Away, HostRow, Join};
pub(crate) use open::CA;
pub use open::{OpenError, StateDir};
pub use retention::Pruned;
pub use tokens::{TokenEnd, TokenRow};
pub use users::UserRow;

/// The name of the database in the state directory.
pub const DATABASE: &str = "fleet.db";

/// A query did not work out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no room for more.
    #[error("failed to write {}: there is no room for more ({} on its file system)", path.display(), free_text(*free))]
    Full {
        /// The database.
        path: PathBuf,
        /// The bytes that are free on its file system for this user; none when the system does not tell.
        free: Option<u64>,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// The disk went read-only, or the rights on the file changed.
    #[error("failed to write {}: it is read-only ({} on its file system)", path.display(), free_text(*free))]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// The bytes that are free on its file system for this user; none when the system does not tell.
        free: Option<u64>,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// Somebody else held the database for longer than it is waited for. The same query may work out the next time.
    #[error("failed to use {}: something else holds it", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
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

fn free_text(free: Option<u64>) -> String {
    free.map_or_else(
        || "the free space is not known".to_owned(),
        |free| format!("{} MiB are free", free >> 20),
    )
}

/// SQLITE_BUSY and SQLITE_LOCKED, SQLITE_READONLY, SQLITE_FULL: the low byte of the extended codes.
const BUSY: [i32; 2] = [5, 6];
const READ_ONLY: i32 = 8;
const FULL: i32 = 13;

/// The primary result code of SQLite behind an error.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xff)
}

/// A row that can't be read. What a query itself says goes through `Store::failed`, which knows the file.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Query(error)
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
        let begun = self.pool.begin_with("BEGIN IMMEDIATE").await;
        begun.map_err(self.failed())
    }

    /// Sorts what SQLite says by what can be done about it.
    fn failed(&self) -> impl Fn(sqlx::Error) -> Error + use<'_> {
        |source| {
            let path = self.path.to_path_buf();
            match primary_code(&source) {
                Some(FULL) => Error::Full {
                    free: free_space(&path),
                    path,
                    source,
                },
                Some(READ_ONLY) => Error::ReadOnly {
                    free: free_space(&path),
                    path,
                    source,
                },
                Some(code) if BUSY.contains(&code) => Error::Busy { path, source },
                // All connections wait for whoever holds the database.
                None if matches!(source, sqlx::Error::PoolTimedOut) => Error::Busy { path, source },
                _ => Error::Query(source),
            }
        }
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

/// The bytes that this user may still write on the file system of a file.
fn free_space(path: &Path) -> Option<u64> {
    let system = nix::sys::statvfs::statvfs(path).ok()?;
    // Their types differ between systems.
    #[allow(clippy::useless_conversion, reason = "not on all systems")]
    Some(u64::from(system.blocks_available()) * u64::from(system.fragment_size()))
}

/// A time as it is stored: milliseconds since 1970.
fn millis(at: jiff::Timestamp) -> i64 {
    at.as_millisecond()
}

/// A stored time.
fn time(millis: i64, what: &str) -> Result<jiff::Timestamp, Error> {
    jiff::Timestamp::from_millisecond(millis).map_err(|_| Error::damaged(what))
}

#[cfg(test)]
mod tests;
