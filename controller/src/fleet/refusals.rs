//! Members of the fleet that an agent refused, as it tells them with its status: a row in the audit trail for each, at a
//! bounded rate. [`super::link`] hands over each status.

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_transport::limit::{LogLimit, Rate};
use jiff::{Timestamp, Unit};

use crate::logging::line;
use crate::store::{AuditEntry, Store};

/// Rows by one agent: a node that was taken over must not fill the trail.
const ROWS: Rate = Rate {
    burst: 16.0,
    per_second: 0.2,
};
/// The most characters of what an agent tells of one.
const MAX_TEXT: usize = 200;

/// What one agent has told.
#[derive(Debug)]
pub(super) struct Refusals {
    /// The run of the agent, and the number of the last one that it told in it.
    seen: (String, u64),
    rows: LogLimit,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            seen: (String::new(), 0),
            rows: LogLimit::new(ROWS),
        }
    }
}

impl Refusals {
    /// Writes rows about those in a status that are new. After a restart of the controller the agent tells the last ones
    /// again; a row that is there is not written twice.
    pub(super) async fn take(
        &mut self,
        store: &Store,
        host: &HostName,
        status: &pb::WatchStatusResponse,
    ) {
        if self.seen.0 != status.agent_run_id {
            self.seen = (status.agent_run_id.clone(), 0);
        }
        for refused in &status.refused_peers {
            if refused.number <= self.seen.1 {
                continue;
            }
            self.seen.1 = refused.number;
            let Some(left_out) = self.rows.take() else {
                continue;
            };
            if left_out > 0 {
                tracing::warn!(%host, left_out, "an agent refused more members than are audited");
            }
            let (entry, outcome) = row(host, refused);
            let subject = format!("host {host}");
            if let Err(error) = store.audit_once(&entry, &subject, &outcome).await {
                tracing::error!(error = line(&error), "failed to write the audit trail");
            }
        }
    }
}

fn row(host: &HostName, refused: &pb::RefusedPeer) -> (AuditEntry, String) {
    let at = refused
        .at
        .and_then(|at| Timestamp::new(at.seconds, at.nanos).ok())
        .and_then(|at| at.round(Unit::Second).ok());
    let at = at.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string());
    let entry = AuditEntry {
        who: printable(&refused.peer),
        from: printable(&refused.remote),
        what: "handshake".to_owned(),
    };
    let outcome = format!(
        "agent {host} refused {} at {at}: {}",
        entry.who,
        printable(&refused.reason)
    );
    (entry, outcome)
}

/// What an agent says, cut to a bound and without signs that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|letter| letter.is_ascii_graphic() || *letter == ' ')
        .take(MAX_TEXT)
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::store::StateDir;

    use super::*;

    fn status(run: &str, numbers: std::ops::RangeInclusive<u64>) -> pb::WatchStatusResponse {
        let refused = |number| pb::RefusedPeer {
            number,
            at: None,
            peer: format!("user anna{number}\n\u{202e}"),
            remote: "192.0.2.7:4711".to_owned(),
            reason: "x".repeat(10_000),
        };
        pb::WatchStatusResponse {
            agent_run_id: run.to_owned(),
            refused_peers: numbers.map(refused).collect(),
            ..pb::WatchStatusResponse::default()
        }
    }

    #[tokio::test]
    async fn each_is_audited_once_and_at_a_bounded_rate() {
        let directory = tempfile::tempdir().expect("directory");
        let state = StateDir::take(directory.path()).expect("state");
        let store = Store::open(&state, "fleet").await.expect("database");
        let host: HostName = "cp1".parse().expect("name");
        let mut refusals = Refusals::default();
        refusals.take(&store, &host, &status("a", 1..=2)).await;
        refusals.take(&store, &host, &status("a", 1..=3)).await;
        // The controller was restarted.
        let mut refusals = Refusals::default();
        refusals.take(&store, &host, &status("a", 1..=3)).await;
        let rows = store.audit(1000).await.expect("rows");
        assert_eq!(rows.len(), 3);
        assert_eq!(
            (rows[2].entry.who.as_str(), rows[2].subject.as_str()),
            ("user anna1", "host cp1")
        );
        assert!(rows[2].outcome.starts_with("agent cp1 refused user anna1 "));
        assert!(rows[2].outcome.len() < 300);
        // Another run counts from the beginning; a flood is bounded.
        refusals.take(&store, &host, &status("b", 4..=1000)).await;
        let rows = store.audit(1000).await.expect("rows").len();
        assert!((14..30).contains(&rows), "{rows}");
    }
}
