//! Rows of one-use tokens. Called by [`crate::identity`] alone.

use canasta_proto::token::Purpose;
use jiff::{Span, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

use super::certificates::{Holder, exists};
use super::{Error, Store, millis, time};

/// How long the rows of dead tokens stay, so that late callers are told what happened.
const KEPT_HOURS: i64 = 7 * 24;

/// Why a token ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEnd {
    /// A newer one was made.
    Replaced,
    /// The host or user was removed.
    Removed,
}

/// A token as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// The host or user that it is for.
    pub name: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// SHA-256 of the public key that it was redeemed with.
    pub used_key: Option<[u8; 32]>,
    /// Why it ended before its time.
    pub ended: Option<TokenEnd>,
}

pub(super) fn purpose_text(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Join => "join",
        Purpose::User => "user",
    }
}

/// Ends the living tokens of a host or user.
pub(super) async fn end(
    transaction: &mut Transaction<'_, Sqlite>,
    purpose: &str,
    name: &str,
    how: &str,
) -> Result<(), sqlx::Error> {
    // A token of a removed host stays so when a host of that name is added again.
    sqlx::query(
        "UPDATE tokens SET ended = ? WHERE purpose = ? AND name = ? AND ended <> 'removed'",
    )
    .bind(how)
    .bind(purpose)
    .bind(name)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

impl Store {
    /// Stores a new token by its hash; earlier ones of the same holder end. False when there is no such host or user.
    pub async fn add_token(
        &self,
        purpose: Purpose,
        name: &str,
        hash: [u8; 32],
        expires_at: Timestamp,
    ) -> Result<bool, Error> {
        let holder = match purpose {
            Purpose::Join => Holder::Agent(name),
            Purpose::User => Holder::User(name),
        };
        let purpose = purpose_text(purpose);
        let mut transaction = self.begin().await?;
        let known = exists(&mut transaction, holder).await;
        if !known.map_err(self.failed())? {
            return Ok(false);
        }
        let forgotten = Timestamp::now()
            .checked_sub(Span::new().hours(KEPT_HOURS))
            .unwrap_or(Timestamp::MIN);
        sqlx::query("DELETE FROM tokens WHERE expires_at < ?")
            .bind(millis(forgotten))
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        end(&mut transaction, purpose, name, "replaced")
            .await
            .map_err(self.failed())?;
        sqlx::query("INSERT INTO tokens (hash, purpose, name, expires_at) VALUES (?, ?, ?, ?)")
            .bind(hash.as_slice())
            .bind(purpose)
            .bind(name)
            .bind(millis(expires_at))
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(true)
    }

    /// All tokens of a purpose that are on record; there are few.
    pub async fn tokens(&self, purpose: Purpose) -> Result<Vec<TokenRow>, Error> {
        sqlx::query("SELECT hash, name, expires_at, used_key, ended FROM tokens WHERE purpose = ?")
            .bind(purpose_text(purpose))
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read)
            .collect()
    }
}

fn read(row: &SqliteRow) -> Result<TokenRow, Error> {
    let key = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| Error::damaged("a token"));
    let used_key: Option<Vec<u8>> = row.try_get("used_key")?;
    let ended: String = row.try_get("ended")?;
    Ok(TokenRow {
        hash: key(row.try_get("hash")?)?,
        name: row.try_get("name")?,
        expires_at: time(row.try_get("expires_at")?, "the end of a token")?,
        used_key: used_key.map(key).transpose()?,
        ended: match ended.as_str() {
            "" => None,
            "replaced" => Some(TokenEnd::Replaced),
            _ => Some(TokenEnd::Removed),
        },
    })
}
