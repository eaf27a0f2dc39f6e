//! Operations: steps, events, locks, crashes and ends.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_proto::pb::operation_event::Event;
use canasta_steps::{Done, NoProbe, Plan, Probe, Reporter, Step, StepError, StepInfo};
use futures_util::TryStreamExt as _;
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tracing::field::Field;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{self, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::locks::{Resource, Wanted};
use super::probes::{EachTwice, FailAt, HoldAt, Side};
use super::{Error, Kinds, Operations, Workflow};
use crate::store::{StateDir, Store};

const STEPS: [&str; 3] = ["first", "second", "third"];

/// Three steps that write down that they ran; the second tells its progress and waits when it is asked to.
#[derive(Clone, Default)]
struct Work {
    ran: Arc<Mutex<Vec<String>>>,
    gate: Option<Arc<Notify>>,
    /// How many bytes each step has to say.
    says: usize,
}

struct Write {
    work: Work,
    id: &'static str,
}

#[async_trait]
impl Step for Write {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        self.work
            .ran
            .lock()
            .expect("log")
            .push(format!("{} {}", self.id, reporter.attempt()));
        if self.id == "second" {
            reporter.message("half way").await;
            if let Some(gate) = &self.work.gate {
                gate.notified().await;
            }
        }
        let said = "x".repeat(self.work.says);
        Ok(Done::changed(format!("{} done{said}", self.id)))
    }
}

impl Workflow for Work {
    fn kind(&self) -> &'static str {
        "write"
    }

    fn title(&self) -> String {
        "write things down on cp1".to_owned()
    }

    fn locks(&self) -> Wanted {
        Wanted {
            changes: vec![Resource::Host("cp1".to_owned())],
            consults: Vec::new(),
        }
    }

    fn request(&self) -> serde_json::Value {
        json!({"things": 3})
    }

    fn steps(&self, _: &str) -> Plan {
        STEPS.into_iter().fold(Plan::new(), |plan, id| {
            let info = StepInfo {
                id: id.to_owned(),
                title: format!("do the {id}"),
                host: "cp1".to_owned(),
            };
            let step = Write {
                work: self.clone(),
                id,
            };
            plan.then(info, step)
        })
    }
}

/// What is logged on this thread, message by message.
struct Log(mpsc::UnboundedReceiver<String>);

struct Listener(mpsc::UnboundedSender<String>);

impl<S: tracing::Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        let mut message = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            if field.name() == "message" {
                message = format!("{value:?}");
            }
        });
        // A test that has ended hears nothing more.
        let _ = self.0.send(message);
    }
}

impl Log {
    /// Listens until what comes with it is dropped.
    fn listen() -> (Self, DefaultGuard) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let heard = tracing_subscriber::registry().with(Listener(sender));
        (Self(receiver), heard.set_default())
    }

    /// Waits for a message that ends so.
    async fn says(&mut self, end: &str) {
        let said = async {
            while let Some(message) = self.0.recv().await {
                if message.ends_with(end) {
                    return;
                }
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(20), said);
        within
            .await
            .unwrap_or_else(|_| panic!("never logged: {end}"));
    }
}

struct Bench {
    store: Store,
    work: Work,
    _state: StateDir,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::take(dir.path()).expect("state");
        Self {
            store: Store::open(&state, "fleet").await.expect("database"),
            work: Work::default(),
            _state: state,
            _dir: dir,
        }
    }

    async fn held() -> Self {
        let mut bench = Self::new().await;
        bench.work.gate = Some(Arc::default());
        bench
    }

    fn operations(&self, probe: impl Probe + 'static) -> Operations {
        self.shared_probe(Arc::new(probe))
    }

    fn shared_probe(&self, probe: Arc<dyn Probe>) -> Operations {
        let work = self.work.clone();
        let kinds = Kinds::default().with("write", move |request| {
            serde_json::from_str::<serde_json::Value>(request).map(|_| work.clone())
        });
        Operations::new(self.store.clone(), kinds, probe)
    }

    async fn start(&self, operations: &Operations) -> String {
        let held = operations.hold(&Wanted::default(), "write", "user alice");
        let work = Arc::new(self.work.clone());
        let started = operations.start(held.expect("nothing"), work).await;
        started.expect("free")
    }

    /// Sets something on each connection of the database.
    async fn pragma(&self, pragma: &str) {
        let mut connections = Vec::new();
        for _ in 0..self.store.pool().options().get_max_connections() {
            connections.push(self.store.pool().acquire().await.expect("a connection"));
        }
        for connection in &mut connections {
            let query = sqlx::query(sqlx::AssertSqlSafe(pragma.to_owned()));
            query.execute(&mut **connection).await.expect("pragma");
        }
    }

    fn open_gate(&self) {
        self.work.gate.as_ref().expect("held").notify_one();
    }

    fn ran(&self) -> Vec<String> {
        self.work.ran.lock().expect("log").clone()
    }
}

/// All events after a number, to the end.
async fn events(operations: &Operations, id: &str, after: u64) -> Vec<pb::OperationEvent> {
    let watched = operations.watch(id, after).await.expect("known");
    watched.try_collect().await.expect("to the end")
}

/// Waits until the second step tells of its progress, which it does right before it waits at the gate.
async fn at_gate(operations: &Operations, id: &str) {
    let mut watched = std::pin::pin!(operations.watch(id, 0).await.expect("known"));
    while let Some(event) = watched.try_next().await.expect("event") {
        if matches!(event.event, Some(Event::Progress(_))) {
            return;
        }
    }
    panic!("the operation ended");
}

fn check_seqs(events: &[pb::OperationEvent]) {
    let stored = events
        .iter()
        .filter(|event| !matches!(event.event, Some(Event::Progress(_))));
    for (index, event) in stored.enumerate() {
        assert_eq!(event.seq, index as u64 + 1, "{event:?}");
    }
    assert!(matches!(events[0].event, Some(Event::Planned(_))));
    assert!(matches!(
        events.last().expect("events").event,
        Some(Event::Ended(_))
    ));
}

#[tokio::test]
async fn an_operation_is_planned_run_and_ended_in_numbered_events() {
    let bench = Bench::new().await;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    let all = events(&operations, &id, 0).await;
    check_seqs(&all);
    let operation = operations.get(&id).await.expect("known");
    assert_eq!(operation.state(), pb::OperationState::Succeeded);
    assert_eq!(operation.started_by, "user alice");
    assert_eq!(operation.hosts, ["cp1"]);
    assert_eq!(operation.last_seq, 8);
    assert!(operation.ended_at.is_some());
    for step in &operation.steps {
        assert_eq!(step.state(), pb::StepState::Finished);
        assert_eq!(step.outcome(), pb::StepOutcome::Changed);
        assert_eq!(step.attempts, 1);
    }
    // A watch that begins late, or again, gets the rest alone.
    let rest = events(&operations, &id, 5).await;
    assert_eq!(
        rest.iter().map(|event| event.seq).collect::<Vec<_>>(),
        [6, 7, 8]
    );
    assert!(events(&operations, &id, 8).await.is_empty());
}

#[tokio::test]
async fn a_second_operation_on_the_host_is_refused_naming_the_first() {
    let bench = Bench::held().await;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    assert_eq!(operations.changer_of("cp1"), Some(id.clone()));
    let wanted = bench.work.locks();
    let error = operations
        .hold(&wanted, "write", "user bob")
        .expect_err("busy");
    let message = error.to_string();
    assert!(
        message.contains(&id) && message.contains("started by user alice"),
        "{message}"
    );
    bench.open_gate();
    events(&operations, &id, 0).await;
    // Who hears of the end can start the next at once.
    operations.hold(&wanted, "write", "user bob").expect("free");
    assert_eq!(operations.list(10, "cp1").await.expect("list").len(), 1);
    assert!(operations.list(10, "w1").await.expect("list").is_empty());
}

#[tokio::test]
async fn what_is_being_planned_is_held_until_it_runs_and_given_back_when_it_does_not() {
    let bench = Bench::held().await;
    let operations = bench.operations(NoProbe);
    let wanted = bench.work.locks();
    let held = operations
        .hold(&wanted, "write", "user alice")
        .expect("free");
    assert_eq!(operations.changer_of("cp1"), None);
    let error = operations
        .hold(&wanted, "remove-host", "user bob")
        .expect_err("planned by another");
    assert_eq!(
        error.to_string(),
        "host cp1 is in use by write, which user alice has just begun"
    );
    drop(held);

    let held = operations
        .hold(&wanted, "write", "user bob")
        .expect("given back");
    let work = Arc::new(bench.work.clone());
    let id = operations.start(held, work).await.expect("held");
    assert_eq!(operations.changer_of("cp1"), Some(id.clone()));
    let error = operations
        .hold(&wanted, "remove-host", "user alice")
        .expect_err("runs");
    assert!(error.to_string().contains(&id), "{error}");
    bench.open_gate();
    events(&operations, &id, 0).await;
    let shown = operations.get(&id).await.expect("known");
    assert_eq!(shown.started_by, "user bob");
}

#[tokio::test]
async fn progress_is_told_and_shown_and_gone_at_the_end_of_its_step() {
    let bench = Bench::held().await;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    at_gate(&operations, &id).await;
    let shown = operations.get(&id).await.expect("known");
    let progress = shown.steps[1].progress.as_ref().expect("running");
    assert_eq!(progress.message, "half way");
    bench.open_gate();
    events(&operations, &id, 0).await;
    let shown = operations.get(&id).await.expect("known");
    assert_eq!(shown.steps[1].progress, None);
}

#[tokio::test]
async fn a_cancel_takes_effect_at_the_end_of_the_step() {
    let bench = Bench::held().await;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    at_gate(&operations, &id).await;
    let shown = operations.cancel(&id).await.expect("running");
    assert_eq!(shown.state(), pb::OperationState::Cancelling);
    bench.open_gate();
    check_seqs(&events(&operations, &id, 0).await);
    let shown = operations.get(&id).await.expect("known");
    assert_eq!(shown.state(), pb::OperationState::Cancelled);
    assert_eq!(shown.steps[1].state(), pb::StepState::Finished);
    assert_eq!(shown.steps[2].state(), pb::StepState::NotRun);
    assert!(matches!(operations.cancel(&id).await, Err(Error::Ended(_))));
}

#[tokio::test]
async fn a_cancel_survives_a_restart_and_the_running_step_is_finished() {
    let bench = Bench::held().await;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    at_gate(&operations, &id).await;
    operations.cancel(&id).await.expect("running");
    operations.shut_down().await;

    let operations = bench.operations(NoProbe);
    operations.resume().await.expect("database");
    bench.open_gate();
    check_seqs(&events(&operations, &id, 0).await);
    let shown = operations.get(&id).await.expect("known");
    assert_eq!(shown.state(), pb::OperationState::Cancelled);
    assert_eq!(bench.ran(), ["first 1", "second 1", "second 2"]);
}

#[tokio::test]
async fn a_database_that_something_else_holds_does_not_end_an_operation() {
    let (mut log, _heard) = Log::listen();
    let bench = Bench::held().await;
    bench.pragma("PRAGMA busy_timeout = 10").await;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    at_gate(&operations, &id).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(bench.store.path());
    let mut other = sqlx::ConnectOptions::connect(&options)
        .await
        .expect("a second program");
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .expect("the lock");
    bench.open_gate();
    // The end of the step finds the database held for longer than SQLite waits, more than once.
    for _ in 0..2 {
        log.says("could not be stored yet; trying again").await;
    }
    let shown = operations.get(&id).await.expect("it can be read");
    assert_eq!(shown.state(), pb::OperationState::Running);
    assert_eq!(shown.steps[1].state(), pb::StepState::Running);
    sqlx::query("ROLLBACK")
        .execute(&mut other)
        .await
        .expect("given back");
    check_seqs(&events(&operations, &id, 0).await);
    let shown = operations.get(&id).await.expect("known");
    assert_eq!(shown.state(), pb::OperationState::Succeeded, "{shown:?}");
    assert_eq!(bench.ran(), ["first 1", "second 1", "third 1"]);
}

#[tokio::test]
async fn a_database_without_room_ends_it_naming_path_and_space_and_a_rerun_goes_on() {
    let (mut log, _heard) = Log::listen();
    let mut bench = Bench::held().await;
    bench.work.says = 1 << 20;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    at_gate(&operations, &id).await;
    // Less than the next event needs; as SQLite is told, so it answers on a file system without room.
    bench.pragma("PRAGMA max_page_count = 1").await;
    bench.open_gate();
    // Whether its end needs room too is SQLite's affair: it is stored as soon as there is some.
    let mut ended = std::pin::pin!(events(&operations, &id, 0));
    let stuck = tokio::select! {
        _events = &mut ended => false,
        () = log.says("could not be stored; trying again") => true,
    };
    bench.pragma("PRAGMA max_page_count = 1000000").await;
    if stuck {
        ended.await;
    }
    let shown = operations.get(&id).await.expect("known");
    assert_eq!(shown.state(), pb::OperationState::Interrupted, "{shown:?}");
    let error = shown.error.expect("why");
    let text = format!("{}: {}", error.message, error.causes.join(": "));
    let path = bench.store.path().display().to_string();
    assert!(
        text.contains(&path) && text.contains("no room") && text.contains("MiB are free"),
        "{text}"
    );
    assert!(
        error.hint.contains("run the command again"),
        "{}",
        error.hint
    );
    let again = bench.start(&operations).await;
    bench.open_gate();
    check_seqs(&events(&operations, &again, 0).await);
    let shown = operations.get(&again).await.expect("known");
    let (state, error) = (shown.state(), shown.error);
    assert_eq!(state, pb::OperationState::Succeeded, "{error:?}");
}

#[tokio::test]
async fn each_step_may_be_run_twice() {
    let bench = Bench::new().await;
    let operations = bench.operations(EachTwice);
    let id = bench.start(&operations).await;
    check_seqs(&events(&operations, &id, 0).await);
    assert_eq!(bench.ran().len(), 6);
}

#[tokio::test]
async fn a_failure_at_each_step_ends_the_operation_there() {
    for step in STEPS {
        let bench = Bench::new().await;
        let operations = bench.operations(FailAt {
            step: step.to_owned(),
            side: Side::After,
        });
        let id = bench.start(&operations).await;
        check_seqs(&events(&operations, &id, 0).await);
        let shown = operations.get(&id).await.expect("known");
        assert_eq!(shown.state(), pb::OperationState::Failed);
        assert_eq!(shown.error.expect("why").reason, "INJECTED");
        let failed = shown.steps.iter().find(|one| one.id == step).expect("step");
        assert_eq!(failed.state(), pb::StepState::Failed);
        assert_eq!(failed.error.as_ref().expect("why").reason, "INJECTED");
        operations
            .hold(&bench.work.locks(), "write", "user bob")
            .expect("given back");
    }
}

#[tokio::test]
async fn after_a_crash_at_each_step_the_operation_goes_on_and_a_watch_has_no_gap() {
    for (index, step) in STEPS.into_iter().enumerate() {
        for side in [Side::Before, Side::After] {
            let bench = Bench::new().await;
            let probe = Arc::new(HoldAt::new(step, side));
            let operations = bench.shared_probe(Arc::clone(&probe) as Arc<dyn Probe>);
            let id = bench.start(&operations).await;
            probe.reached().await;
            let mut before = Vec::new();
            let mut watched = std::pin::pin!(operations.watch(&id, 0).await.expect("known"));
            operations.shut_down().await;
            let cut = loop {
                match watched.try_next().await {
                    Ok(Some(event)) => before.push(event),
                    Ok(None) => panic!("the watch ended without the end"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(cut, Error::Stopping));

            let operations = bench.operations(NoProbe);
            operations.resume().await.expect("database");
            assert_eq!(operations.changer_of("cp1"), Some(id.clone()));
            let after = before.last().map_or(0, |event| event.seq);
            before.extend(events(&operations, &id, after).await);
            check_seqs(&before);
            let shown = operations.get(&id).await.expect("known");
            assert_eq!(shown.state(), pb::OperationState::Succeeded);
            assert_eq!(shown.steps[index].attempts, 2);
            let others = shown.steps.iter().filter(|one| one.id != step);
            assert!(others.into_iter().all(|one| one.attempts == 1));
        }
    }
}

#[tokio::test]
async fn what_can_not_be_rebuilt_is_interrupted_and_says_what_to_do() {
    let bench = Bench::held().await;
    let operations = bench.operations(NoProbe);
    let id = bench.start(&operations).await;
    at_gate(&operations, &id).await;
    operations.shut_down().await;

    let operations = Operations::new(bench.store.clone(), Kinds::default(), Arc::new(NoProbe));
    operations.resume().await.expect("database");
    check_seqs(&events(&operations, &id, 0).await);
    let shown = operations.get(&id).await.expect("known");
    assert_eq!(shown.state(), pb::OperationState::Interrupted);
    let error = shown.error.expect("why");
    assert_eq!(error.reason, "OPERATION_INTERRUPTED");
    assert!(
        error.hint.contains("run the command again"),
        "{}",
        error.hint
    );
    assert_eq!(shown.steps[1].state(), pb::StepState::Failed);
    assert_eq!(shown.steps[2].state(), pb::StepState::NotRun);
    operations
        .hold(&bench.work.locks(), "write", "user bob")
        .expect("free");
}

#[tokio::test]
async fn an_operation_is_found_by_the_beginning_of_its_id() {
    let bench = Bench::new().await;
    let operations = bench.operations(NoProbe);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = bench.start(&operations).await;
        events(&operations, &id, 0).await;
        ids.push(id);
    }
    assert_eq!(operations.get(&ids[0]).await.expect("whole").id, ids[0]);
    assert_eq!(
        operations.get(&ids[1][..35]).await.expect("longer").id,
        ids[1]
    );
    match operations.get(&ids[0][..6]).await {
        Err(Error::Ambiguous { ids: found, .. }) => assert_eq!(found, ids),
        other => panic!("{other:?}"),
    }
    for text in ["", "0192", "zzzzzzzz", "0192f0%' --", &"a".repeat(40)] {
        assert!(
            matches!(operations.get(text).await, Err(Error::Prefix)),
            "{text}"
        );
    }
    assert!(matches!(
        operations.get("ffffff").await,
        Err(Error::NotFound(_))
    ));
    let listed = operations.list(1, "").await.expect("list");
    assert_eq!(listed[0].id, ids[1], "newest first");
    assert_eq!(listed[0].steps.len(), 3);
}
