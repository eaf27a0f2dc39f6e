//! Rows of artefacts. Called by [`crate::artefacts`] alone.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Store};

/// An artefact that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtefactRow {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) arch: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    pub(crate) source: String,
    /// Milliseconds since 1970.
    pub(crate) stored_at: i64,
    /// When its file was changed, as it was when it was last hashed; nanoseconds since 1970.
    pub(crate) modified: i64,
}

impl Store {
    /// Stores an artefact, in the place of another of the same name, version and architecture.
    pub(crate) async fn put_artefact(&self, row: &ArtefactRow) -> Result<(), Error> {
        sqlx::query(
            "INSERT OR REPLACE INTO artefacts (name, version, arch, sha256, size, source, stored_at, modified)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&row.name)
        .bind(&row.version)
        .bind(&row.arch)
        .bind(&row.sha256)
        .bind(i64::try_from(row.size).unwrap_or(i64::MAX))
        .bind(&row.source)
        .bind(row.stored_at)
        .bind(row.modified)
        .execute(self.pool())
        .await.map_err(self.failed())?;
        Ok(())
    }

    /// One artefact.
    pub(crate) async fn artefact(
        &self,
        name: &str,
        version: &str,
        arch: &str,
    ) -> Result<Option<ArtefactRow>, Error> {
        sqlx::query("SELECT * FROM artefacts WHERE name = ? AND version = ? AND arch = ?")
            .bind(name)
            .bind(version)
            .bind(arch)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
            .map(|row| read(&row))
            .transpose()
    }

    /// All artefacts, by name, version and architecture.
    pub(crate) async fn artefacts(&self) -> Result<Vec<ArtefactRow>, Error> {
        sqlx::query("SELECT * FROM artefacts ORDER BY name, version, arch")
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read)
            .collect()
    }

    /// Forgets an artefact.
    pub(crate) async fn delete_artefact(&self, row: &ArtefactRow) -> Result<(), Error> {
        sqlx::query("DELETE FROM artefacts WHERE name = ? AND version = ? AND arch = ?")
            .bind(&row.name)
            .bind(&row.version)
            .bind(&row.arch)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }
}

fn read(row: &SqliteRow) -> Result<ArtefactRow, Error> {
    Ok(ArtefactRow {
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        arch: row.try_get("arch")?,
        sha256: row.try_get("sha256")?,
        size: row.try_get::<i64, _>("size")?.unsigned_abs(),
        source: row.try_get("source")?,
        stored_at: row.try_get("stored_at")?,
        modified: row.try_get("modified")?,
    })
}
