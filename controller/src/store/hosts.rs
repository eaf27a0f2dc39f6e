//! Rows of hosts. Called by [`crate::fleet`], [`crate::identity`] and the services.

use canasta_proto::name::HostName;
use canasta_proto::pb;
use jiff::Timestamp;
use prost::Message as _;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Store, millis, time};

/// A host as it stands in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRow {
    /// Its name.
    pub name: HostName,
    /// When it was added.
    pub added_at: Timestamp,
    /// From `host add --address`, `HOST:PORT`; may be empty.
    pub address: String,
    /// From `join --advertise`, `HOST:PORT`; may be empty.
    pub advertise: String,
    /// Where the join came from, with the agent's port; may be empty.
    pub source: String,
    /// The machine's hostname as told at the join; empty before.
    pub hostname: String,
    /// The agent's version as told at the join; empty before.
    pub agent_version: String,
    /// When it joined last; none before.
    pub joined_at: Option<Timestamp>,
    /// The facts that its agent told last.
    pub facts: Option<pb::NodeFacts>,
    /// How and since when its agent is away; none while it is connected.
    pub away: Option<(Away, Timestamp)>,
}

/// How an agent is away: kept over restarts of the controller, so that it is known since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It can't be reached.
    Unreachable,
    /// It needs to join anew.
    NeedsRejoin,
}

impl Away {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NeedsRejoin => "needs-rejoin",
        }
    }
}

impl HostRow {
    /// The addresses in the order in which they are dialled, each once.
    pub fn addresses(&self) -> Vec<pb::HostAddress> {
        let mut addresses: Vec<pb::HostAddress> = Vec::new();
        for (address, source) in [
            (&self.address, "host add --address"),
            (&self.advertise, "join --advertise"),
            (&self.source, "source of the join"),
        ] {
            if !address.is_empty() && addresses.iter().all(|known| known.address != *address) {
                addresses.push(pb::HostAddress {
                    address: address.clone(),
                    source: source.to_owned(),
                });
            }
        }
        addresses
    }
}

/// What a host told when it joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// From `join --advertise`, `HOST:PORT`; may be empty.
    pub advertise: String,
    /// Where the join came from, with the agent's port.
    pub source: String,
    /// The machine's hostname.
    pub hostname: String,
    /// The agent's version.
    pub agent_version: String,
}

const COLUMNS: &str = "name, added_at, address, advertise, source, hostname, agent_version, joined_at, facts, away, away_since";

impl Store {
    /// Adds a host. False when there is one of this name already.
    pub async fn add_host(
        &self,
        name: &HostName,
        address: &str,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let done = sqlx::query(
            "INSERT INTO hosts (name, address, added_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(name.as_str())
        .bind(address)
        .bind(millis(now))
        .execute(self.pool())
        .await
        .map_err(self.failed())?;
        Ok(done.rows_affected() == 1)
    }

    /// All hosts by name.
    pub async fn hosts(&self) -> Result<Vec<HostRow>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM hosts ORDER BY name"
        )))
        .fetch_all(self.pool())
        .await
        .map_err(self.failed())?
        .iter()
        .map(read)
        .collect()
    }

    /// One host.
    pub async fn host(&self, name: &HostName) -> Result<Option<HostRow>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM hosts WHERE name = ?"
        )))
        .bind(name.as_str())
        .fetch_optional(self.pool())
        .await
        .map_err(self.failed())?
        .as_ref()
        .map(read)
        .transpose()
    }

    /// Keeps the facts that an agent told.
    pub async fn set_facts(&self, name: &HostName, facts: &pb::NodeFacts) -> Result<(), Error> {
        sqlx::query("UPDATE hosts SET facts = ? WHERE name = ?")
            .bind(facts.encode_to_vec())
            .bind(name.as_str())
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Keeps how and since when an agent is away; none when it is connected.
    pub async fn set_away(
        &self,
        name: &HostName,
        away: Option<(Away, Timestamp)>,
    ) -> Result<(), Error> {
        let (away, since) = away.unzip();
        sqlx::query("UPDATE hosts SET away = ?, away_since = ? WHERE name = ?")
            .bind(away.map(Away::as_str))
            .bind(since.map(millis))
            .bind(name.as_str())
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Removes a host, revokes its certificates and ends its tokens. False when there is none of this name.
    pub async fn remove_host(&self, name: &HostName, now: Timestamp) -> Result<bool, Error> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query("DELETE FROM hosts WHERE name = ?")
            .bind(name.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        super::certificates::revoke(&mut transaction, "agent", name.as_str(), now)
            .await
            .map_err(self.failed())?;
        super::tokens::end(&mut transaction, "join", name.as_str(), "removed")
            .await
            .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(done.rows_affected() == 1)
    }
}

fn read(row: &SqliteRow) -> Result<HostRow, Error> {
    let name: String = row.try_get("name")?;
    let facts: Option<Vec<u8>> = row.try_get("facts")?;
    let joined_at: Option<i64> = row.try_get("joined_at")?;
    let away: Option<String> = row.try_get("away")?;
    let away_since: Option<i64> = row.try_get("away_since")?;
    let away = match (away.as_deref(), away_since) {
        (Some("unreachable"), Some(since)) => Some((Away::Unreachable, since)),
        (Some("needs-rejoin"), Some(since)) => Some((Away::NeedsRejoin, since)),
        _ => None,
    };
    Ok(HostRow {
        away: away
            .map(|(away, since)| Ok::<_, Error>((away, time(since, "the time of a host")?)))
            .transpose()?,
        added_at: time(row.try_get("added_at")?, "the time of a host")?,
        address: row.try_get("address")?,
        advertise: row.try_get("advertise")?,
        source: row.try_get("source")?,
        hostname: row.try_get("hostname")?,
        agent_version: row.try_get("agent_version")?,
        joined_at: joined_at
            .map(|at| time(at, "the time of a join"))
            .transpose()?,
        facts: facts
            .map(|facts| pb::NodeFacts::decode(facts.as_slice()))
            .transpose()
            .map_err(|_| Error::damaged(format!("the facts of host {name}")))?,
        name: name
            .parse()
            .map_err(|_| Error::damaged("the name of a host"))?,
    })
}
