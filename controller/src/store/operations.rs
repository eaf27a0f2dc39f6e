//! Rows of operations, their steps and their events. Called by [`crate::operations`] alone.

use canasta_proto::pb;
use prost::Message as _;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Store};
use crate::operations::stamp::{from_millis, to_millis};

/// An operation that a stop of the controller left unended, with what it is rebuilt from.
#[derive(Debug)]
pub(crate) struct Unended {
    pub(crate) operation: pb::Operation,
    pub(crate) request: String,
}

const COLUMNS: &str =
    "id, kind, title, state, started_by, started_at, ended_at, hosts, error, last_seq";

impl Store {
    /// Stores a new operation with its pending steps and its first event.
    pub(crate) async fn insert_operation(
        &self,
        operation: &pb::Operation,
        request: &str,
        planned: &pb::OperationEvent,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let hosts = serde_json::to_string(&operation.hosts).expect("a list of strings is JSON");
        sqlx::query(
            "INSERT INTO operations (id, kind, title, state, started_by, started_at, hosts, request, last_seq)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&operation.id)
        .bind(&operation.kind)
        .bind(&operation.title)
        .bind(operation.state)
        .bind(&operation.started_by)
        .bind(operation.started_at.map(to_millis))
        .bind(hosts)
        .bind(request)
        .bind(seq(planned.seq))
        .execute(&mut *transaction)
        .await.map_err(self.failed())?;
        for (position, step) in operation.steps.iter().enumerate() {
            sqlx::query(
                "INSERT INTO operation_steps (operation_id, position, id, title, host, state)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(&operation.id)
            .bind(i64::try_from(position).unwrap_or(i64::MAX))
            .bind(&step.id)
            .bind(&step.title)
            .bind(&step.host)
            .bind(step.state)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        }
        insert_event(&mut transaction, planned)
            .await
            .map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }

    /// Stores an event of a step together with the state that it leaves the step in.
    pub(crate) async fn append_step_event(&self, event: &pb::OperationEvent) -> Result<(), Error> {
        use pb::operation_event::Event;
        let mut transaction = self.begin().await?;
        insert_event(&mut transaction, event)
            .await
            .map_err(self.failed())?;
        let at = event.at.map(to_millis);
        let change = match &event.event {
            Some(Event::Started(started)) => Some(
                sqlx::query(
                    "UPDATE operation_steps SET state = ?, attempts = ?, started_at = ?, ended_at = NULL,
                     outcome = 0, detail = '', error = NULL WHERE operation_id = ? AND id = ?",
                )
                .bind(pb::StepState::Running as i32)
                .bind(started.attempt)
                .bind(at),
            ),
            Some(Event::Finished(finished)) => Some(
                sqlx::query(
                    "UPDATE operation_steps SET state = ?, outcome = ?, detail = ?, ended_at = ?
                     WHERE operation_id = ? AND id = ?",
                )
                .bind(pb::StepState::Finished as i32)
                .bind(finished.outcome)
                .bind(&finished.detail)
                .bind(at),
            ),
            Some(Event::Failed(failed)) => Some(
                sqlx::query(
                    "UPDATE operation_steps SET state = ?, error = ?, ended_at = ?
                     WHERE operation_id = ? AND id = ?",
                )
                .bind(pb::StepState::Failed as i32)
                .bind(failed.error.as_ref().map(prost::Message::encode_to_vec))
                .bind(at),
            ),
            _ => None,
        };
        if let Some(change) = change {
            change
                .bind(&event.operation_id)
                .bind(&event.step_id)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
        }
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }

    /// Stores the last event of an operation. Steps that never began are marked so; a step that was cut off is failed.
    pub(crate) async fn end_operation(
        &self,
        event: &pb::OperationEvent,
        ended: &pb::OperationEnded,
    ) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        insert_event(&mut transaction, event)
            .await
            .map_err(self.failed())?;
        let error = ended.error.as_ref().map(prost::Message::encode_to_vec);
        let at = event.at.map(to_millis);
        sqlx::query("UPDATE operations SET state = ?, error = ?, ended_at = ? WHERE id = ?")
            .bind(ended.state)
            .bind(&error)
            .bind(at)
            .bind(&event.operation_id)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        sqlx::query("UPDATE operation_steps SET state = ? WHERE operation_id = ? AND state = ?")
            .bind(pb::StepState::NotRun as i32)
            .bind(&event.operation_id)
            .bind(pb::StepState::Pending as i32)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        sqlx::query(
            "UPDATE operation_steps SET state = ?, error = ?, ended_at = ? WHERE operation_id = ? AND state = ?",
        )
        .bind(pb::StepState::Failed as i32)
        .bind(&error)
        .bind(at)
        .bind(&event.operation_id)
        .bind(pb::StepState::Running as i32)
        .execute(&mut *transaction)
        .await.map_err(self.failed())?;
        transaction.commit().await.map_err(self.failed())?;
        Ok(())
    }

    /// Marks a running operation as being cancelled.
    pub(crate) async fn mark_cancelling(&self, id: &str) -> Result<(), Error> {
        sqlx::query("UPDATE operations SET state = ? WHERE id = ? AND state = ?")
            .bind(pb::OperationState::Cancelling as i32)
            .bind(id)
            .bind(pb::OperationState::Running as i32)
            .execute(self.pool())
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// One operation with its steps.
    pub(crate) async fn operation(&self, id: &str) -> Result<Option<pb::Operation>, Error> {
        let query = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM operations WHERE id = ?"));
        let Some(row) = sqlx::query(query)
            .bind(id)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())?
        else {
            return Ok(None);
        };
        let mut operation = read_operation(&row)?;
        let rows =
            sqlx::query("SELECT * FROM operation_steps WHERE operation_id = ? ORDER BY position")
                .bind(id)
                .fetch_all(self.pool())
                .await
                .map_err(self.failed())?;
        operation.steps = rows.iter().map(read_step).collect::<Result<_, _>>()?;
        Ok(Some(operation))
    }

    /// The newest operations with their steps, those that change `host` alone when it is not empty.
    pub(crate) async fn operations(
        &self,
        limit: u32,
        host: &str,
    ) -> Result<Vec<pb::Operation>, Error> {
        const WHERE: &str = "FROM operations WHERE ?1 = '' OR EXISTS
             (SELECT 1 FROM json_each(operations.hosts) WHERE json_each.value = ?1)
             ORDER BY id DESC LIMIT ?2";
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} {WHERE}")))
            .bind(host)
            .bind(limit)
            .fetch_all(self.pool())
            .await
            .map_err(self.failed())?;
        let mut operations = rows
            .iter()
            .map(read_operation)
            .collect::<Result<Vec<_>, _>>()?;
        let steps = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT * FROM operation_steps WHERE operation_id IN (SELECT id {WHERE}) ORDER BY position"
        )))
        .bind(host)
        .bind(limit)
        .fetch_all(self.pool())
        .await.map_err(self.failed())?;
        for row in &steps {
            let id: &str = row.try_get("operation_id")?;
            if let Some(operation) = operations.iter_mut().find(|operation| operation.id == id) {
                operation.steps.push(read_step(row)?);
            }
        }
        Ok(operations)
    }

    /// What an operation was asked to do.
    pub(crate) async fn request_of(&self, id: &str) -> Result<Option<String>, Error> {
        sqlx::query_scalar("SELECT request FROM operations WHERE id = ?")
            .bind(id)
            .fetch_optional(self.pool())
            .await
            .map_err(self.failed())
    }

    /// What the newest operation of a kind on a host was asked to do.
    pub(crate) async fn last_request(
        &self,
        kind: &str,
        host: &str,
    ) -> Result<Option<String>, Error> {
        sqlx::query_scalar(
            "SELECT request FROM operations WHERE kind = ?1 AND EXISTS
             (SELECT 1 FROM json_each(operations.hosts) WHERE json_each.value = ?2)
             ORDER BY id DESC LIMIT 1",
        )
        .bind(kind)
        .bind(host)
        .fetch_optional(self.pool())
        .await
        .map_err(self.failed())
    }

    /// Ids that begin with `prefix`, oldest first, at most `limit`.
    pub(crate) async fn operation_ids(
        &self,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<String>, Error> {
        // '~' comes after every character of an id.
        sqlx::query_scalar(
            "SELECT id FROM operations WHERE id >= ?1 AND id < ?1 || '~' ORDER BY id LIMIT ?2",
        )
        .bind(prefix)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .map_err(self.failed())
    }

    /// Events after a number, in order, at most `limit`.
    pub(crate) async fn operation_events(
        &self,
        id: &str,
        after: u64,
        limit: u32,
    ) -> Result<Vec<pb::OperationEvent>, Error> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT payload FROM operation_events WHERE operation_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(id)
        .bind(seq(after))
        .bind(limit)
        .fetch_all(self.pool())
        .await.map_err(self.failed())?;
        rows.iter()
            .map(|row| pb::OperationEvent::decode(row.as_slice()).map_err(decode_error))
            .collect()
    }

    /// Operations that have not ended, oldest first.
    pub(crate) async fn unended_operations(&self) -> Result<Vec<Unended>, Error> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT id, request FROM operations WHERE state IN (?, ?) ORDER BY id")
                .bind(pb::OperationState::Running as i32)
                .bind(pb::OperationState::Cancelling as i32)
                .fetch_all(self.pool())
                .await
                .map_err(self.failed())?;
        let mut unended = Vec::with_capacity(rows.len());
        for (id, request) in rows {
            if let Some(operation) = self.operation(&id).await? {
                unended.push(Unended { operation, request });
            }
        }
        Ok(unended)
    }
}

async fn insert_event(
    transaction: &mut sqlx::SqliteConnection,
    event: &pb::OperationEvent,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO operation_events (operation_id, seq, payload) VALUES (?, ?, ?)")
        .bind(&event.operation_id)
        .bind(seq(event.seq))
        .bind(event.encode_to_vec())
        .execute(&mut *transaction)
        .await?;
    sqlx::query("UPDATE operations SET last_seq = ? WHERE id = ?")
        .bind(seq(event.seq))
        .bind(&event.operation_id)
        .execute(transaction)
        .await?;
    Ok(())
}

fn seq(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn decode_error(source: prost::DecodeError) -> Error {
    Error::from(sqlx::Error::Decode(Box::new(source)))
}

fn read_error(row: &SqliteRow) -> Result<Option<pb::ErrorReport>, Error> {
    let bytes: Option<&[u8]> = row.try_get("error")?;
    bytes
        .map(|bytes| pb::ErrorReport::decode(bytes).map_err(decode_error))
        .transpose()
}

fn read_time(row: &SqliteRow, column: &str) -> Result<Option<prost_types::Timestamp>, Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(from_millis))
}

fn read_operation(row: &SqliteRow) -> Result<pb::Operation, Error> {
    let hosts: &str = row.try_get("hosts")?;
    Ok(pb::Operation {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        title: row.try_get("title")?,
        state: row.try_get("state")?,
        started_by: row.try_get("started_by")?,
        started_at: read_time(row, "started_at")?,
        ended_at: read_time(row, "ended_at")?,
        hosts: serde_json::from_str(hosts)
            .map_err(|source| Error::from(sqlx::Error::Decode(Box::new(source))))?,
        steps: Vec::new(),
        error: read_error(row)?,
        last_seq: row.try_get::<i64, _>("last_seq")?.unsigned_abs(),
    })
}

fn read_step(row: &SqliteRow) -> Result<pb::Step, Error> {
    Ok(pb::Step {
        id: row.try_get("id")?,
        title: row.try_get("title")?,
        host: row.try_get("host")?,
        state: row.try_get("state")?,
        outcome: row.try_get("outcome")?,
        detail: row.try_get("detail")?,
        attempts: row.try_get("attempts")?,
        started_at: read_time(row, "started_at")?,
        ended_at: read_time(row, "ended_at")?,
        progress: None,
        error: read_error(row)?,
    })
}
