//! Rows of certificates. Called by [`crate::identity`] and, for those of agents, by [`crate::fleet`].

use canasta_proto::name::HostName;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

use super::hosts::Join;
use super::{AuditEntry, Error, Store, audit, millis, time};

/// Whom a certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// The agent on a host.
    Agent(&'a str),
    /// A user.
    User(&'a str),
}

impl<'a> Holder<'a> {
    fn columns(self) -> (&'static str, &'a str) {
        match self {
            Self::Agent(name) => ("agent", name),
            Self::User(name) => ("user", name),
        }
    }
}

/// A certificate as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// Its serial number, hex.
    pub serial: String,
    /// The name of its holder.
    pub name: String,
    /// SHA-256 of its public key.
    pub spki_sha256: [u8; 32],
    /// The certificate.
    pub der: Vec<u8>,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// True until an agent was seen with it, when it renews another.
    pub pending: bool,
    /// True when its holder was seen with it.
    pub used: bool,
}

/// The most living certificates of a user: a further one revokes the oldest, which has most likely been renewed.
pub const LIVING_CERTIFICATES: i64 = 5;
/// The most renewed certificates of an agent that wait to be seen with it.
pub const PENDING_CERTIFICATES: i64 = 3;

/// What came of recording a certificate. Nothing is recorded unless it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is recorded.
    Done,
    /// Somebody else has used the token in between.
    TokenUsed,
    /// The host or user has been removed in between.
    HolderGone,
}

/// The certificate that an agent showed in a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its serial number, hex.
    pub serial: String,
    /// When the handshake began.
    pub at: Timestamp,
}

const COLUMNS: &str = "serial, name, spki_sha256, der, issued_at, not_after, pending, used_at";

/// Revokes all certificates of a holder.
pub(super) async fn revoke(
    transaction: &mut Transaction<'_, Sqlite>,
    kind: &str,
    name: &str,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE certificates SET revoked_at = ? WHERE kind = ? AND name = ? AND revoked_at IS NULL",
    )
    .bind(millis(now))
    .bind(kind)
    .bind(name)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn insert(
    transaction: &mut Transaction<'_, Sqlite>,
    holder: Holder<'_>,
    row: &CertificateRow,
) -> Result<(), sqlx::Error> {
    let (kind, name) = holder.columns();
    sqlx::query(
        "INSERT INTO certificates (serial, kind, name, spki_sha256, der, issued_at, not_after, pending)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.serial)
    .bind(kind)
    .bind(name)
    .bind(row.spki_sha256.as_slice())
    .bind(&row.der)
    .bind(millis(row.issued_at))
    .bind(millis(row.not_after))
    .bind(row.pending)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Whether there is such a host or user, within the transaction that needs it.
pub(super) async fn exists(
    transaction: &mut Transaction<'_, Sqlite>,
    holder: Holder<'_>,
) -> Result<bool, sqlx::Error> {
    let (query, name) = match holder {
        Holder::Agent(name) => ("SELECT 1 FROM hosts WHERE name = ?", name),
        Holder::User(name) => ("SELECT 1 FROM users WHERE name = ?", name),
    };
    let found = sqlx::query(query)
        .bind(name)
        .fetch_optional(&mut **transaction)
        .await?;
    Ok(found.is_some())
}

/// Inserts a certificate of a user who is there; the oldest ones give way, but never the one that the caller shows (its
/// serial; empty for none): a caller who can't keep the new one still has that.
async fn insert_of_user(
    transaction: &mut Transaction<'_, Sqlite>,
    row: &CertificateRow,
    shown: &str,
) -> Result<Recorded, sqlx::Error> {
    if !exists(transaction, Holder::User(&row.name)).await? {
        return Ok(Recorded::HolderGone);
    }
    insert(transaction, Holder::User(&row.name), row).await?;
    sqlx::query(
        "UPDATE certificates SET revoked_at = ?1 WHERE serial IN (SELECT serial FROM certificates
         WHERE kind = 'user' AND name = ?2 AND revoked_at IS NULL AND not_after > ?1
         ORDER BY serial IN (?3, ?5) DESC, issued_at DESC LIMIT -1 OFFSET ?4)",
    )
    .bind(millis(row.issued_at))
    .bind(&row.name)
    .bind(&row.serial)
    .bind(LIVING_CERTIFICATES)
    .bind(shown)
    .execute(&mut **transaction)
    .await?;
    Ok(Recorded::Done)
}

async fn use_token(
    transaction: &mut Transaction<'_, Sqlite>,
    hash: &[u8; 32],
    key: &[u8; 32],
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE tokens SET used_key = ? WHERE hash = ? AND used_key IS NULL AND ended = ''",
    )
    .bind(key.as_slice())
    .bind(hash.as_slice())
    .execute(&mut **transaction)
    .await?;
    Ok(done.rows_affected() == 1)
}

impl Store {
    /// Records that a host joined: its token is used, its earlier certificates are revoked, this one is its own. The row of
    /// the audit trail is part of it: nobody joins without one.
    pub async fn record_join(
        &self,
        token: &[u8; 32],
        row: &CertificateRow,
        join: &Join,
        entry: &AuditEntry,
    ) -> Result<Recorded, Error> {
        let mut transaction = self.begin().await?;
        let used = use_token(&mut transaction, token, &row.spki_sha256).await;
        if !used.map_err(self.failed())? {
            return Ok(Recorded::TokenUsed);
        }
        let done = sqlx::query(
            "UPDATE hosts SET advertise = ?, source = ?, hostname = ?, agent_version = ?, joined_at = ?
             WHERE name = ?",
        )
        .bind(&join.advertise)
        .bind(&join.source)
        .bind(&join.hostname)
        .bind(&join.agent_version)
        .bind(millis(row.issued_at))
        .bind(&row.name)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        if done.rows_affected() == 0 {
            return Ok(Recorded::HolderGone);
        }
        let recorded = async {
            revoke(&mut transaction, "agent", &row.name, row.issued_at).await?;
            insert(&mut transaction, Holder::Agent(&row.name), row).await?;
            let subject = format!("host {}", row.name);
            audit::insert(&mut *transaction, entry, &subject, "ok").await
        };
        recorded.await.map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(Recorded::Done)
    }

    /// Records that a user redeemed a token, together with the row of the audit trail.
    pub async fn record_redemption(
        &self,
        token: &[u8; 32],
        row: &CertificateRow,
        entry: &AuditEntry,
    ) -> Result<Recorded, Error> {
        let mut transaction = self.begin().await?;
        let used = use_token(&mut transaction, token, &row.spki_sha256).await;
        if !used.map_err(self.failed())? {
            return Ok(Recorded::TokenUsed);
        }
        let recorded = insert_of_user(&mut transaction, row, "").await;
        let recorded = recorded.map_err(self.failed())?;
        if recorded == Recorded::Done {
            let subject = format!("user {}", row.name);
            audit::insert(&mut *transaction, entry, &subject, "ok")
                .await
                .map_err(self.failed())?;
            transaction.commit().await.map_err(self.failed())?;
        }
        Ok(recorded)
    }

    /// Records one more certificate of a user, who shows the one with the serial `shown`; that one stays.
    pub async fn record_user_renewal(
        &self,
        row: &CertificateRow,
        shown: &str,
    ) -> Result<Recorded, Error> {
        let mut transaction = self.begin().await?;
        let recorded = insert_of_user(&mut transaction, row, shown).await;
        let recorded = recorded.map_err(self.failed())?;
        if recorded == Recorded::Done {
            transaction.commit().await.map_err(self.failed())?;
        }
        Ok(recorded)
    }

    /// Records a certificate that is to take the place of the agent's own; earlier ones stay until it was seen, for nobody
    /// knows whether the agent took them. Of those that wait to be seen there are at most [`PENDING_CERTIFICATES`]: for a
    /// further one the oldest is dropped, if what the agent showed since tells that it is not the agent's. None when none
    /// can be dropped.
    pub async fn record_renewal(
        &self,
        row: &CertificateRow,
        shown: &Shown,
    ) -> Result<Option<Recorded>, Error> {
        let mut transaction = self.begin().await?;
        let known = exists(&mut transaction, Holder::Agent(&row.name)).await;
        if !known.map_err(self.failed())? {
            return Ok(Some(Recorded::HolderGone));
        }
        let pending: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM certificates
             WHERE kind = 'agent' AND name = ? AND pending = 1 AND revoked_at IS NULL",
        )
        .bind(&row.name)
        .fetch_one(&mut *transaction)
        .await
        .map_err(self.failed())?;
        if pending >= PENDING_CERTIFICATES {
            let dropped = sqlx::query(
                "DELETE FROM certificates WHERE serial IN (SELECT serial FROM certificates
                 WHERE kind = 'agent' AND name = ?1 AND pending = 1 AND revoked_at IS NULL
                 AND serial <> ?2 AND issued_at < ?3 ORDER BY issued_at LIMIT ?4)",
            )
            .bind(&row.name)
            .bind(&shown.serial)
            .bind(millis(shown.at))
            .bind(pending - PENDING_CERTIFICATES + 1)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
            if dropped.rows_affected() == 0 {
                return Ok(None);
            }
        }
        insert(&mut transaction, Holder::Agent(&row.name), row)
            .await
            .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(Some(Recorded::Done))
    }

    /// An agent was seen with a certificate: it is its own from now on, and what was its own before is revoked.
    pub async fn agent_seen(
        &self,
        host: &HostName,
        serial: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query(
            "UPDATE certificates SET pending = 0, used_at = coalesce(used_at, ?)
             WHERE serial = ? AND kind = 'agent' AND name = ? AND revoked_at IS NULL
             AND (pending = 1 OR used_at IS NULL)",
        )
        .bind(millis(now))
        .bind(serial)
        .bind(host.as_str())
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        if done.rows_affected() == 1 {
            sqlx::query(
                "UPDATE certificates SET revoked_at = ?1
                 WHERE kind = 'agent' AND name = ?2 AND serial <> ?3 AND revoked_at IS NULL
                 AND issued_at <= (SELECT issued_at FROM certificates WHERE serial = ?3)",
            )
            .bind(millis(now))
            .bind(host.as_str())
            .bind(serial)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        }
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }

    /// A user was seen with a certificate.
    pub async fn user_seen(&self, serial: &str, now: Timestamp) -> Result<(), Error> {
        sqlx::query("UPDATE certificates SET used_at = ? WHERE serial = ? AND used_at IS NULL")
            .bind(millis(now))
            .bind(serial)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// The certificates of a holder that are not revoked, the newest last.
    pub async fn certificates(&self, holder: Holder<'_>) -> Result<Vec<CertificateRow>, Error> {
        let (kind, name) = holder.columns();
        let query = format!(
            "SELECT {COLUMNS} FROM certificates
             WHERE kind = ? AND name = ? AND revoked_at IS NULL ORDER BY issued_at, serial"
        );
        sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(kind)
            .bind(name)
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read)
            .collect()
    }
}

impl Store {
    /// The certificates of all agents that are their own and not revoked, those of one agent oldest first.
    pub async fn agent_certificates(&self) -> Result<Vec<CertificateRow>, Error> {
        let query = format!(
            "SELECT {COLUMNS} FROM certificates
             WHERE kind = 'agent' AND pending = 0 AND revoked_at IS NULL ORDER BY issued_at, serial"
        );
        sqlx::query(sqlx::AssertSqlSafe(query))
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read)
            .collect()
    }
}

fn read(row: &SqliteRow) -> Result<CertificateRow, Error> {
    let key: Vec<u8> = row.try_get("spki_sha256")?;
    Ok(CertificateRow {
        serial: row.try_get("serial")?,
        name: row.try_get("name")?,
        spki_sha256: key
            .try_into()
            .map_err(|_| Error::damaged("the key of a certificate"))?,
        der: row.try_get("der")?,
        issued_at: time(row.try_get("issued_at")?, "the time of a certificate")?,
        not_after: time(row.try_get("not_after")?, "the end of a certificate")?,
        pending: row.try_get("pending")?,
        used: row.try_get::<Option<i64>, _>("used_at")?.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use canasta_proto::token::Purpose;

    use super::*;
    use crate::store::StateDir;

    #[tokio::test]
    async fn nobody_joins_without_a_row_in_the_audit_trail() {
        let directory = tempfile::tempdir().expect("directory");
        let state = StateDir::take(directory.path()).expect("state");
        let store = Store::open(&state, "fleet").await.expect("database");
        let (name, now) = ("cp1".parse().expect("name"), Timestamp::now());
        store.add_host(&name, "", now).await.expect("host");
        let hour = jiff::SignedDuration::from_hours(1);
        let token = store.add_token(Purpose::Join, "cp1", [1; 32], now + hour);
        token.await.expect("token");
        let row = CertificateRow {
            serial: "01".to_owned(),
            name: "cp1".to_owned(),
            spki_sha256: [2; 32],
            der: vec![3],
            issued_at: now,
            not_after: now + hour,
            pending: false,
            used: false,
        };
        let join = Join {
            advertise: String::new(),
            source: "192.0.2.1:7443".to_owned(),
            hostname: "node-1".to_owned(),
            agent_version: "0.1.0".to_owned(),
        };
        let entry = AuditEntry {
            who: "unknown".to_owned(),
            from: "192.0.2.1:4711".to_owned(),
            what: "EnrolmentService/EnrolHost".to_owned(),
        };
        let execute = |query: &'static str| sqlx::query(query).execute(store.pool());
        execute(
            "CREATE TRIGGER no_room BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .await
        .expect("trigger");
        let recorded = store.record_join(&[1; 32], &row, &join, &entry).await;
        recorded.expect_err("no row, no join");
        let host = store.host(&name).await.expect("query").expect("host");
        assert_eq!(host.joined_at, None);
        execute("DROP TRIGGER no_room").await.expect("dropped");
        let recorded = store.record_join(&[1; 32], &row, &join, &entry).await;
        assert_eq!(
            recorded.expect("recorded"),
            Recorded::Done,
            "the token is still good"
        );
        let rows = store.audit(10).await.expect("rows");
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].subject.as_str(), rows[0].outcome.as_str()),
            ("host cp1", "ok")
        );
    }
}
