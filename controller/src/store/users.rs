//! Rows of users. Called by [`crate::identity`] alone, which keeps its directory of them in step.

use canasta_proto::name::UserName;
use canasta_transport::roles::Role;
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Store, millis, time};

/// A user as it stands in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Its name.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// When it was added.
    pub added_at: Timestamp,
    /// When the last of its certificates ends; none until a token is redeemed.
    pub certificate_expires_at: Option<Timestamp>,
}

const QUERY: &str = "SELECT name, role, added_at,
    (SELECT max(not_after) FROM certificates c
     WHERE c.kind = 'user' AND c.name = users.name AND c.revoked_at IS NULL) AS expires_at
    FROM users";

impl Store {
    /// Adds a user, or gives a known one this role.
    pub async fn put_user(&self, name: &UserName, role: Role, now: Timestamp) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO users (name, role, added_at) VALUES (?, ?, ?)
             ON CONFLICT (name) DO UPDATE SET role = excluded.role",
        )
        .bind(name.as_str())
        .bind(role.as_str())
        .bind(millis(now))
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// All users by name.
    pub async fn users(&self) -> Result<Vec<UserRow>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!("{QUERY} ORDER BY name")))
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?
            .iter()
            .map(read)
            .collect()
    }

    /// One user.
    pub async fn user(&self, name: &UserName) -> Result<Option<UserRow>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!("{QUERY} WHERE name = ?")))
            .bind(name.as_str())
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
            .as_ref()
            .map(read)
            .transpose()
    }

    /// Removes a user, revokes its certificates and ends its tokens. False when there is none of this name.
    pub async fn remove_user(&self, name: &UserName, now: Timestamp) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query("DELETE FROM users WHERE name = ?")
            .bind(name.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        super::certificates::revoke(&mut transaction, "user", name.as_str(), now)
            .await
            .map_err(self.failed())?;
        super::tokens::end(&mut transaction, "user", name.as_str(), "removed")
            .await
            .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(done.rows_affected() == 1)
    }
}

fn read(row: &SqliteRow) -> Result<UserRow, Error> {
    let name: String = row.try_get("name")?;
    let role: String = row.try_get("role")?;
    let expires_at: Option<i64> = row.try_get("expires_at")?;
    Ok(UserRow {
        role: role
            .parse()
            .map_err(|_| Error::damaged(format!("the role of user {name}")))?,
        added_at: time(row.try_get("added_at")?, "the time of a user")?,
        certificate_expires_at: expires_at
            .map(|at| time(at, "the end of a certificate"))
            .transpose()?,
        name: name
            .parse()
            .map_err(|_| Error::damaged("the name of a user"))?,
    })
}
