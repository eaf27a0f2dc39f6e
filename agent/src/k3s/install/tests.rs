//! The steps on a machine made of a directory, again and again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use canasta_host::fake::{FakeHost, Order};
use canasta_proto::pb::{K3sInstallStep as Step, K3sRole, K3sSpec, StepOutcome};
use canasta_steps::{
    Done, End, Journal, JournalError, Plan, Reporter, Resume, Runner, StepError, StepEvent,
    StepInfo,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Timings, run};
use crate::k3s::owned::sha256;
use crate::k3s::paths;
use crate::k3s::record::{Kind, Record};

mod agent;
mod api;
mod files;
mod start;

const V1: &str = "v1.34.8+k3s1";
const V2: &str = "v1.35.1+k3s1";
const UNIT: &str = "k3s.service";

/// The steps up to the start, in order.
const TO_START: [Step; 6] = [
    Step::Snapshot,
    Step::Binary,
    Step::Config,
    Step::Unit,
    Step::Links,
    Step::Start,
];

fn timings() -> Timings {
    Timings {
        start: Duration::from_secs(5),
        settle: Duration::from_millis(20),
        ready: Duration::from_secs(10),
        request: Duration::from_secs(2),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(20),
        most_restarts: 3,
        patience: Duration::from_millis(100),
    }
}

/// A program that says that it is this version of k3s.
fn program(version: &str) -> String {
    format!("#!/bin/sh\necho 'k3s version {version} (0123abcd)'\n")
}

fn spec(version: &str) -> K3sSpec {
    K3sSpec {
        role: K3sRole::Server.into(),
        version: version.to_owned(),
        binary_sha256: sha256(program(version).as_bytes()),
        node_ip: "192.0.2.10".to_owned(),
        flannel_link: "eth0".to_owned(),
        node_name: "cp1".to_owned(),
        tls_sans: vec!["203.0.113.7".to_owned()],
        server_url: String::new(),
        local_paths: Vec::new(),
    }
}

async fn stage(fake: &FakeHost, version: &str) {
    let path = paths::staged_binary(&spec(version).binary_sha256);
    fake.root
        .write(path, program(version), 0o600)
        .await
        .unwrap();
}

/// What the steps told while they ran.
#[derive(Default)]
struct Told {
    events: Mutex<Vec<StepEvent>>,
    /// Rung at each event.
    news: Notify,
}

impl Told {
    /// Resolves when the progress of a step has said this so many times.
    async fn said(&self, part: &str, times: usize) {
        loop {
            let news = self.news.notified();
            let count = messages(&self.events.lock().unwrap())
                .iter()
                .filter(|message| message.contains(part))
                .count();
            if count >= times {
                return;
            }
            news.await;
        }
    }
}

#[async_trait]
impl Journal for Told {
    async fn record(&self, _step: &str, event: StepEvent) -> Result<(), JournalError> {
        self.events.lock().unwrap().push(event);
        self.news.notify_waiters();
        Ok(())
    }
}

fn messages(events: &[StepEvent]) -> Vec<&str> {
    let progress = events.iter().filter_map(|event| match event {
        StepEvent::Progress(progress) => Some(progress.message.as_str()),
        _ => None,
    });
    progress.collect()
}

struct One {
    host: canasta_host::Host,
    spec: K3sSpec,
    step: Step,
    timings: Timings,
}

#[async_trait]
impl canasta_steps::Step for One {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        run(&self.host, &self.spec, self.step, self.timings, reporter).await
    }
}

/// Runs a step as a task does; returns its end and what it told meanwhile.
async fn told(
    fake: &FakeHost,
    spec: &K3sSpec,
    step: Step,
    timings: Timings,
) -> (Result<Done, StepError>, Vec<StepEvent>) {
    told_to(&Arc::default(), fake, spec, step, timings).await
}

/// Runs a step as a task does, and tells a journal that someone else reads meanwhile.
async fn told_to(
    journal: &Arc<Told>,
    fake: &FakeHost,
    spec: &K3sSpec,
    step: Step,
    timings: Timings,
) -> (Result<Done, StepError>, Vec<StepEvent>) {
    let info = StepInfo {
        id: "step".to_owned(),
        title: String::new(),
        host: String::new(),
    };
    let one = One {
        host: fake.host(),
        spec: spec.clone(),
        step,
        timings,
    };
    let end = Runner::new(journal.clone())
        .run(
            &Plan::new().then(info, one),
            Resume::default(),
            &CancellationToken::new(),
        )
        .await;
    let events = std::mem::take(&mut *journal.events.lock().unwrap());
    let finished = events.iter().find_map(|event| match event {
        StepEvent::Finished(done) => Some(Done {
            outcome: done.outcome(),
            detail: done.detail.clone(),
        }),
        _ => None,
    });
    let result = match end {
        End::Succeeded => Ok(finished.expect("a step that succeeds has ended")),
        End::Failed(error) => Err(error),
        other => panic!("{other:?}"),
    };
    (result, events)
}

async fn step(fake: &FakeHost, spec: &K3sSpec, step: Step) -> Result<Done, StepError> {
    told(fake, spec, step, timings()).await.0
}

/// Runs all steps up to the start and returns their outcomes.
async fn to_start(fake: &FakeHost, spec: &K3sSpec) -> Vec<(Step, StepOutcome, String)> {
    let mut ends = Vec::new();
    for which in TO_START {
        let done = step(fake, spec, which)
            .await
            .unwrap_or_else(|error| panic!("{which:?}: {error:?}"));
        ends.push((which, done.outcome, done.detail));
    }
    ends
}

/// A machine on which k3s was installed up to its start.
async fn installed() -> FakeHost {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    to_start(&fake, &spec(V1)).await;
    fake.systemd.clear_orders();
    fake
}

async fn record(fake: &FakeHost) -> Record {
    Record::load(&fake.host()).await.unwrap().expect("a record")
}

/// Orders that start or restart something.
fn starts(fake: &FakeHost) -> usize {
    fake.systemd
        .orders()
        .iter()
        .filter(|order| matches!(order, Order::Start(_) | Order::Restart(_)))
        .count()
}

fn outcome(result: Result<Done, StepError>) -> StepOutcome {
    result.unwrap_or_else(|error| panic!("{error:?}")).outcome
}

#[tokio::test]
async fn an_install_writes_everything_once_and_a_second_run_changes_nothing() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    let first = to_start(&fake, &spec(V1)).await;
    assert!(
        first
            .iter()
            .all(|(_, outcome, _)| *outcome == StepOutcome::Changed),
        "{first:?}"
    );
    assert_eq!(starts(&fake), 1);
    assert!(fake.host().systemd.unit(UNIT).await.unwrap().is_enabled());
    let token = fake
        .root
        .read_text(paths::AGENT_TOKEN)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(token.len(), 64);
    assert_eq!(
        fake.root.mode(paths::AGENT_TOKEN).await.unwrap(),
        Some(0o600)
    );
    assert_eq!(
        fake.root.mode(paths::SERVER_DIR).await.unwrap(),
        Some(0o700)
    );
    assert_eq!(fake.root.mode(paths::DATA_DIR).await.unwrap(), Some(0o755));
    let config = fake.root.read_text(paths::CONFIG).await.unwrap().unwrap();
    assert!(!config.contains(&token), "no secret in the configuration");

    let before = record(&fake).await;
    fake.systemd.clear_orders();
    let second = to_start(&fake, &spec(V1)).await;
    assert!(
        second
            .iter()
            .all(|(_, outcome, _)| *outcome == StepOutcome::Unchanged),
        "{second:?}"
    );
    assert_eq!(fake.systemd.orders(), [], "nothing is ordered of systemd");
    assert_eq!(record(&fake).await, before);
    assert_eq!(
        fake.root
            .read_text(paths::AGENT_TOKEN)
            .await
            .unwrap()
            .unwrap(),
        token
    );
}

#[tokio::test]
async fn each_step_run_twice_in_a_row_is_unchanged_the_second_time() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    for which in TO_START {
        assert_eq!(
            outcome(step(&fake, &spec(V1), which).await),
            StepOutcome::Changed,
            "{which:?}"
        );
        assert_eq!(
            outcome(step(&fake, &spec(V1), which).await),
            StepOutcome::Unchanged,
            "{which:?}"
        );
    }
}

#[tokio::test]
async fn a_specification_that_lacks_something_is_refused() {
    let fake = FakeHost::new("cp1");
    for broken in [
        K3sSpec {
            role: K3sRole::Unspecified.into(),
            ..spec(V1)
        },
        K3sSpec {
            role: K3sRole::Agent.into(),
            ..spec(V1)
        },
        K3sSpec {
            binary_sha256: "../../etc/passwd".to_owned(),
            ..spec(V1)
        },
        K3sSpec {
            version: String::new(),
            ..spec(V1)
        },
        K3sSpec {
            node_name: String::new(),
            ..spec(V1)
        },
        K3sSpec {
            node_ip: String::new(),
            ..spec(V1)
        },
    ] {
        assert_eq!(
            step(&fake, &broken, Step::Binary)
                .await
                .unwrap_err()
                .reason(),
            "SPEC_INVALID"
        );
    }
    assert_eq!(
        step(&fake, &spec(V1), Step::Unspecified)
            .await
            .unwrap_err()
            .reason(),
        "SPEC_INVALID"
    );
}
