//! Rows that live and end together, and what is pruned.

use std::time::Duration;

use canasta_proto::name::{HostName, UserName};
use canasta_proto::token::Purpose;
use canasta_transport::roles::Role;
use jiff::Timestamp;

use super::{
    AuditEntry, CertificateRow, Holder, Join, LIVING_CERTIFICATES, PENDING_CERTIFICATES, Recorded,
    Shown, StateDir, Store,
};
use crate::config::Retention;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Bench {
    store: Store,
    now: Timestamp,
    _state: StateDir,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::take(dir.path()).expect("state");
        Self {
            store: Store::open(&state, "fleet").await.expect("database"),
            now: Timestamp::now(),
            _state: state,
            _dir: dir,
        }
    }

    /// A certificate that was issued `age` seconds ago and ends in a day.
    fn certificate(&self, name: &str, serial: &str, age: u64) -> CertificateRow {
        CertificateRow {
            serial: serial.to_owned(),
            name: name.to_owned(),
            spki_sha256: [7; 32],
            der: Vec::new(),
            issued_at: self.now - Duration::from_secs(age),
            not_after: self.now + DAY,
            pending: false,
            used: false,
        }
    }

    async fn user(&self) -> UserName {
        let name: UserName = "alice".parse().expect("name");
        let added = self.store.put_user(&name, Role::Viewer, self.now).await;
        added.expect("added");
        name
    }

    async fn host(&self) -> HostName {
        let name: HostName = "cp1".parse().expect("name");
        let added = self.store.add_host(&name, "", self.now).await;
        assert!(added.expect("added"));
        name
    }

    async fn serials(&self, holder: Holder<'_>) -> Vec<String> {
        let rows = self.store.certificates(holder).await.expect("certificates");
        rows.into_iter().map(|row| row.serial).collect()
    }

    async fn count(&self, table: &str) -> i64 {
        let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let count = sqlx::query_scalar(query).fetch_one(self.store.pool()).await;
        count.expect("a number")
    }
}

/// Who calls while a token is redeemed.
fn entry() -> AuditEntry {
    AuditEntry {
        who: "unknown".to_owned(),
        from: "192.0.2.1:4711".to_owned(),
        what: "EnrolmentService/EnrolHost".to_owned(),
    }
}

fn join() -> Join {
    Join {
        advertise: String::new(),
        source: String::new(),
        hostname: "node-1".to_owned(),
        agent_version: "0.1.0".to_owned(),
    }
}

#[tokio::test]
async fn nothing_is_made_for_a_user_or_a_host_that_was_removed_meanwhile() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let (user, host) = (bench.user().await, bench.host().await);
    let later = bench.now + DAY;
    for (purpose, name, hash) in [
        (Purpose::User, "alice", [1; 32]),
        (Purpose::Join, "cp1", [2; 32]),
    ] {
        let added = store.add_token(purpose, name, hash, later).await;
        assert!(added.expect("stored"));
    }
    assert!(store.remove_user(&user, bench.now).await.expect("removed"));
    assert!(store.remove_host(&host, bench.now).await.expect("removed"));

    for (purpose, name, hash) in [
        (Purpose::User, "alice", [3; 32]),
        (Purpose::Join, "cp1", [4; 32]),
    ] {
        let added = store.add_token(purpose, name, hash, later).await;
        assert!(!added.expect("asked"), "{name} gets a token");
    }
    // As when the removal comes between the look at the token and the record: the token was alive then.
    sqlx::query("UPDATE tokens SET ended = ''")
        .execute(store.pool())
        .await
        .expect("revived");
    let row = bench.certificate("alice", "01", 0);
    let recorded = store.record_redemption(&[1; 32], &row, &entry()).await;
    assert_eq!(recorded.expect("asked"), Recorded::HolderGone);
    let recorded = store.record_user_renewal(&row, "").await;
    assert_eq!(recorded.expect("asked"), Recorded::HolderGone);
    let row = bench.certificate("cp1", "02", 0);
    let recorded = store.record_join(&[2; 32], &row, &join(), &entry()).await;
    assert_eq!(recorded.expect("asked"), Recorded::HolderGone);
    let shown = Shown {
        serial: "02".to_owned(),
        at: bench.now,
    };
    let recorded = store.record_renewal(&row, &shown).await;
    assert_eq!(recorded.expect("asked"), Some(Recorded::HolderGone));
    assert_eq!(bench.count("certificates").await, 0);
    // Nothing of it was kept: the tokens are as good as before.
    let row = bench.certificate("alice", "03", 0);
    let recorded = store.record_redemption(&[1; 32], &row, &entry()).await;
    assert_ne!(recorded.expect("asked"), Recorded::TokenUsed);
}

#[tokio::test]
async fn a_user_has_a_few_living_certificates_and_the_oldest_give_way() {
    let bench = Bench::new().await;
    bench.user().await;
    for serial in 0..LIVING_CERTIFICATES + 2 {
        let age = u64::try_from(100 - serial).expect("positive");
        let row = bench.certificate("alice", &format!("{serial:02}"), age);
        let recorded = bench.store.record_user_renewal(&row, "").await;
        assert_eq!(recorded.expect("stored"), Recorded::Done);
    }
    let left = bench.serials(Holder::User("alice")).await;
    assert_eq!(left, ["02", "03", "04", "05", "06"]);
    // A CLI that can't keep what it is given renews with each command: what it shows stays good.
    for serial in 10..20 {
        let row = bench.certificate("alice", &serial.to_string(), 0);
        let recorded = bench.store.record_user_renewal(&row, "02").await;
        assert_eq!(recorded.expect("stored"), Recorded::Done);
    }
    let left = bench.serials(Holder::User("alice")).await;
    assert_eq!(left.len(), 5);
    assert!(left.contains(&"02".to_owned()), "{left:?}");
}

#[tokio::test]
async fn of_an_agents_renewals_a_few_wait_to_be_seen() {
    let bench = Bench::new().await;
    bench.host().await;
    let store = &bench.store;
    let pending = |serial: &str, age| CertificateRow {
        pending: true,
        ..bench.certificate("cp1", serial, age)
    };
    let shown = |serial: &str, age| Shown {
        serial: serial.to_owned(),
        at: bench.now - Duration::from_secs(age),
    };
    // All over one connection, which tells nothing of which one the agent took.
    let first = shown("own", 100);
    for (serial, age) in [("01", 50), ("02", 40), ("03", 30)] {
        let recorded = store.record_renewal(&pending(serial, age), &first).await;
        assert_eq!(recorded.expect("stored"), Some(Recorded::Done));
    }
    let further = pending("04", 20);
    let recorded = store.record_renewal(&further, &first).await;
    assert_eq!(recorded.expect("asked"), None);
    // On a new connection it shows one of them: that one stays, the oldest other goes.
    let recorded = store.record_renewal(&further, &shown("01", 25)).await;
    assert_eq!(recorded.expect("stored"), Some(Recorded::Done));
    let left = bench.serials(Holder::Agent("cp1")).await;
    assert_eq!(left, ["01", "03", "04"]);
    assert_eq!(i64::try_from(left.len()), Ok(PENDING_CERTIFICATES));
}

#[tokio::test]
async fn what_is_old_or_too_much_is_dropped_and_what_is_needed_stays() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let host = bench.host().await;
    bench.user().await;
    // Certificates: of the user, and of the agent in force; all have ended long ago.
    store
        .add_token(Purpose::Join, host.as_str(), [1; 32], bench.now + DAY)
        .await
        .expect("token");
    let own = bench.certificate("cp1", "own", 0);
    let recorded = store.record_join(&[1; 32], &own, &join(), &entry()).await;
    assert_eq!(recorded.expect("stored"), Recorded::Done);
    for serial in ["old", "young"] {
        let row = bench.certificate("alice", serial, 0);
        store.record_user_renewal(&row, "").await.expect("stored");
    }
    for query in [
        "INSERT INTO certificates (serial, kind, name, spki_sha256, der, issued_at, not_after, pending) VALUES
         ('waiting', 'agent', 'cp1', zeroblob(32), x'', 0, 0, 1)",
        "UPDATE certificates SET not_after = 0 WHERE serial IN ('own', 'old')",
        "INSERT INTO operations (id, kind, title, state, started_by, started_at, hosts, request, last_seq) VALUES
         ('1', 'install', '', 3, '', 0, '[\"cp1\"]', '{}', 1), ('2', 'install', '', 3, '', 0, '[\"cp1\"]', '{}', 1),
         ('3', 'adopt', '', 1, '', 0, '[\"w1\"]', '{}', 1), ('4', 'adopt', '', 1, '', 0, '[\"w1\"]', '{}', 1)",
        "INSERT INTO operation_events (operation_id, seq, payload) VALUES ('1', 1, x'')",
    ] {
        sqlx::query(query).execute(store.pool()).await.expect("set up");
    }
    for _ in 0..5 {
        let entry = AuditEntry {
            who: "user alice".to_owned(),
            from: "unix socket".to_owned(),
            what: "HostService/ListHosts".to_owned(),
        };
        store.begin_audit(&entry).await.expect("row");
    }
    let keep = Retention {
        audit_rows: 3,
        ..Retention::default()
    };
    let pruned = store.prune(&keep, bench.now).await.expect("pruned");
    assert_eq!(
        (pruned.certificates, pruned.audit, pruned.operations),
        (1, 3, 1),
        "the join has left a row of its own in the trail"
    );
    // The agent's own is what it is known by, and one that waits to be seen may be the one that it has; running operations and the last of each kind on each host stay.
    let mut agents = bench.serials(Holder::Agent("cp1")).await;
    agents.sort_unstable();
    assert_eq!(agents, ["own", "waiting"]);
    assert_eq!(bench.serials(Holder::User("alice")).await, ["young"]);
    let left: Vec<String> = sqlx::query_scalar("SELECT id FROM operations ORDER BY id")
        .fetch_all(store.pool())
        .await
        .expect("ids");
    assert_eq!(left, ["2", "3", "4"]);
    assert_eq!(bench.count("operation_events").await, 0);
    let none = Retention {
        audit_days: 0,
        ..keep
    };
    let later = bench.now + Duration::from_secs(1);
    let pruned = store.prune(&none, later).await.expect("pruned");
    assert_eq!((pruned.audit, bench.count("audit").await), (3, 0));
}
