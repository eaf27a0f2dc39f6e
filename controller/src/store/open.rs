//! Taking up the state directory at start: who may, whether all of it is there, and whether it can be used.
//!
//! A controller that lost its database or its CA must never start as an empty one: its fleet would be stranded and the
//! operator would not see why. Only a state directory that has neither, or one whose very first start was cut off (a marker
//! file tells), is begun anew.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::{DATABASE, READ_ONLY, Store, primary_code};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Connections to the file: one writes at a time, the others read.
const CONNECTIONS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// SQLITE_CORRUPT and SQLITE_NOTADB.
const CORRUPT: [i32; 2] = [11, 26];
/// SQLITE_PERM, SQLITE_CANTOPEN.
const CLOSED: [i32; 2] = [3, 14];

const LOCK: &str = "lock";
const MARKER: &str = "first-start";
/// The directory of the CA.
pub(crate) const CA: &str = "ca";

const RESTORE: &str = "restore all of the state directory from one backup";

/// Why the state can't be used. Each message names the file and the way out.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory can't be made or written.
    #[error("failed to write the state directory {}: give it to the user that the controller runs as, and make its file system writable", path.display())]
    Directory {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file in it can't be written or removed.
    #[error("failed to write in the state directory")]
    File(#[source] canasta_durable::Error),
    /// Another process uses it.
    #[error("failed to take the state directory {}: another canasta-controller uses it; stop that one first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is a CA and no database.
    #[error("failed to open {}: it is missing, but the CA of the fleet is there; {RESTORE}", path.display())]
    DatabaseMissing {
        /// Where the database should be.
        path: PathBuf,
    },
    /// There is a database and no CA.
    #[error("failed to open {}: it is missing, but the database of the fleet is there; {RESTORE}", path.display())]
    CaMissing {
        /// Where the CA should be.
        path: PathBuf,
    },
    /// The file is no whole database.
    #[error("failed to open {}: it is damaged or cut short ({found}); {RESTORE}", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The file, its directory or its file system is read-only.
    #[error("failed to open {}: it can't be written; make its file system and its directory writable for the user that the controller runs as", path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A newer controller has changed the form of the database.
    #[error("failed to open {}: it was written by a newer canasta-controller (form {found}, this one knows {known}); install that version again, or restore the backup from before the upgrade", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// The form of the database.
        found: i64,
        /// The last form that this program knows.
        known: i64,
    },
    /// The database belongs to another CA.
    #[error("failed to open {}: it is of fleet {database}, but the CA beside it is of fleet {ca}; {RESTORE}", path.display())]
    OtherFleet {
        /// The database.
        path: PathBuf,
        /// The fleet of the database.
        database: String,
        /// The fleet of the CA.
        ca: String,
    },
    /// The database could not be brought to the form that this program needs.
    #[error("failed to bring {} to the form that this version needs; {RESTORE} and report this", path.display())]
    Migrate {
        /// The database.
        path: PathBuf,
        /// What went wrong.
        source: sqlx::migrate::MigrateError,
    },
    /// Anything else that SQLite says.
    #[error("failed to open {}", path.display())]
    Other {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
}

/// The state directory, held by this process alone until dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    first_start: bool,
    _lock: Flock<File>,
}

impl StateDir {
    /// Takes the directory and finds out whether this is a first start. Blocks.
    ///
    /// # Errors
    /// When it can't be written, another process has it, or part of it is missing.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { path, source }
        };
        if !path.is_dir() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed(path))?;
        }
        let lock = path.join(LOCK);
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(failed(&lock))?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| OpenError::InUse {
                path: path.to_owned(),
            })?;
        let (marker, database, ca) = (path.join(MARKER), path.join(DATABASE), path.join(CA));
        let first_start = match (marker.exists(), database.exists(), ca.exists()) {
            (false, true, true) => false,
            (false, false, true) => return Err(OpenError::DatabaseMissing { path: database }),
            (false, true, false) => return Err(OpenError::CaMissing { path: ca }),
            (false, false, false) => {
                canasta_durable::write(&marker, b"", 0o600).map_err(OpenError::File)?;
                true
            }
            (true, _, _) => true,
        };
        Ok(Self {
            path: path.to_owned(),
            first_start,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when CA and database may be made. Nobody has been told of them yet.
    pub fn is_first_start(&self) -> bool {
        self.first_start
    }

    /// Ends the first start: from now on CA and database must be there. Blocks.
    ///
    /// # Errors
    /// When the marker can't be removed.
    pub fn settle(&mut self) -> Result<(), OpenError> {
        if self.first_start {
            canasta_durable::remove(&self.path.join(MARKER)).map_err(OpenError::File)?;
            self.first_start = false;
        }
        Ok(())
    }
}

impl Store {
    /// Opens the database of a fleet, or makes it at a first start.
    ///
    /// # Errors
    /// When it is damaged, read-only, of another fleet or from a newer version.
    pub async fn open(state: &StateDir, fleet: &str) -> Result<Self, OpenError> {
        let path = state.path().join(DATABASE);
        let failed = |source| sort(&path, source);
        if state.is_first_start() {
            make_private(&path).await?;
        }
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .before_acquire(|connection, _| Box::pin(async { Ok(is_usable(connection)) }))
            .connect_with(options)
            .await
            .map_err(failed)?;
        let store = Self {
            pool,
            path: Arc::new(path.clone()),
        };
        let checked = store.check(state.is_first_start(), fleet).await;
        if checked.is_err() {
            store.close().await;
        }
        checked.map(|()| store)
    }

    async fn check(&self, first_start: bool, fleet: &str) -> Result<(), OpenError> {
        let path = self.path();
        let failed = |source| sort(path, source);
        let damaged = |found: String| OpenError::Damaged {
            path: path.to_owned(),
            found,
        };
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&self.pool)
            .await
            .map_err(failed)?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
        let known = MIGRATIONS.iter().map(|one| one.version).max().unwrap_or(0);
        match self.form().await.map_err(failed)? {
            Some(found) if found > known => {
                return Err(OpenError::Newer {
                    path: path.to_owned(),
                    found,
                    known,
                });
            }
            None if !first_start => return Err(damaged("it holds no fleet".to_owned())),
            _ => {}
        }
        MIGRATIONS
            .run(&self.pool)
            .await
            .map_err(|source| match source {
                sqlx::migrate::MigrateError::Execute(source) => failed(source),
                source => OpenError::Migrate {
                    path: path.to_owned(),
                    source,
                },
            })?;
        if first_start {
            sqlx::query("INSERT OR IGNORE INTO meta (key, value) VALUES ('fleet_id', ?)")
                .bind(fleet)
                .execute(&self.pool)
                .await
                .map_err(failed)?;
        }
        self.note_opening().await.map_err(failed)?;
        let database: Option<String> =
            sqlx::query_scalar("SELECT value FROM meta WHERE key = 'fleet_id'")
                .fetch_optional(&self.pool)
                .await
                .map_err(failed)?;
        match database {
            Some(database) if database == fleet => Ok(()),
            Some(database) => Err(OpenError::OtherFleet {
                path: path.to_owned(),
                database,
                ca: fleet.to_owned(),
            }),
            None => Err(damaged("it holds no fleet".to_owned())),
        }
    }

    /// The last migration that was applied; none for an empty file.
    async fn form(&self) -> Result<Option<i64>, sqlx::Error> {
        let table = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'")
            .fetch_optional(&self.pool)
            .await?;
        if table.is_none() {
            return Ok(None);
        }
        let row = sqlx::query("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&self.pool)
            .await?;
        row.try_get(0)
    }

    /// Notes when the database was opened, which also finds out whether the file can be written.
    async fn note_opening(&self) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT OR REPLACE INTO meta (key, value) VALUES ('opened_at', ?)")
            .bind(jiff::Timestamp::now().to_string())
            .execute(&self.pool)
            .await
            .map(|_| ())
    }
}

/// Tells whether a connection can begin a transaction. SQLite ends one by itself when the disk is full or fails, which the
/// driver does not notice: it takes that connection to be in a transaction for ever, so another one has to be opened.
fn is_usable(connection: &SqliteConnection) -> bool {
    !connection.is_in_transaction()
}

/// Makes the file before SQLite does, for its user alone; what SQLite puts beside it gets the same mode.
async fn make_private(path: &Path) -> Result<(), OpenError> {
    tokio::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .await
        .map(|_| ())
        .map_err(|source| OpenError::Directory {
            path: path.to_owned(),
            source,
        })
}

/// Sorts what SQLite says at opening by what the operator can do about it.
fn sort(path: &Path, source: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match primary_code(&source) {
        Some(code) if CORRUPT.contains(&code) => OpenError::Damaged {
            path,
            found: source
                .as_database_error()
                .map_or_else(String::new, |error| error.message().to_owned()),
        },
        Some(code) if code == READ_ONLY || CLOSED.contains(&code) => {
            OpenError::ReadOnly { path, source }
        }
        _ => OpenError::Other { path, source },
    }
}
