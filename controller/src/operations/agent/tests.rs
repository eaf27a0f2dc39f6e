//! Steps on an agent that answers, vanishes and comes back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_proto::pb::watch_task_response::Event;
use canasta_steps::{
    Done, End, Journal, JournalError, Plan, Reporter, Resume, Runner, Step, StepError, StepEvent,
    StepInfo,
};
use canasta_transport::status::Fault;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::AgentTask;
use super::stub::{Bench, Script, event};

/// Keeps all that is told.
#[derive(Default)]
struct Told(Mutex<Vec<StepEvent>>);

#[async_trait]
impl Journal for Told {
    async fn record(&self, _: &str, event: StepEvent) -> Result<(), JournalError> {
        self.0.lock().expect("told").push(event);
        Ok(())
    }
}

struct Task(AgentTask);

#[async_trait]
impl Step for Task {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        self.0.run(pb::TaskSpec::default(), reporter).await
    }
}

/// Runs a task as a step; `earlier` attempts were made before.
async fn run(bench: &Bench, earlier: u32, patience: Duration) -> (End, Vec<StepEvent>) {
    let task = AgentTask::new(
        bench.fleet.clone(),
        bench.host.clone(),
        "op",
        "step",
        patience,
    );
    let info = StepInfo {
        id: "step".to_owned(),
        title: String::new(),
        host: "cp1".to_owned(),
    };
    let plan = Plan::new().then(info, Task(task));
    let told = Arc::<Told>::default();
    let mut resume = Resume::default();
    resume.attempts.insert("step".to_owned(), earlier);
    let runner = Runner::new(Arc::clone(&told) as Arc<dyn Journal>);
    let end = runner.run(&plan, resume, &CancellationToken::new()).await;
    let events = told.0.lock().expect("told").clone();
    (end, events)
}

fn scripts(bench: &Bench, scripts: impl IntoIterator<Item = Script>) {
    bench.agent.scripts.lock().expect("scripts").extend(scripts);
}

fn started(bench: &Bench) -> Vec<String> {
    bench.agent.started.lock().expect("started").clone()
}

fn finished(seq: u64) -> Result<pb::WatchTaskResponse, Status> {
    let done = Done::repaired("whole again");
    event(seq, Event::Finished(done.into()))
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_task_is_followed_over_broken_connections_without_losing_its_place() {
    let bench = Bench::connected().await;
    let progress = pb::StepProgress {
        done: 1,
        total: 2,
        ..pb::StepProgress::default()
    };
    let stopping = Fault::new(Code::Unavailable, "AGENT_STOPPING", "the agent stops");
    scripts(
        &bench,
        [
            vec![event(1, Event::Started(pb::StepStarted { attempt: 1 }))],
            vec![
                event(1, Event::Progress(progress.clone())),
                Err(Status::unavailable("reset")),
            ],
            vec![
                event(2, Event::Retrying(pb::StepRetrying::default())),
                Err(stopping.into()),
            ],
            vec![finished(3)],
        ],
    );
    let (end, events) = run(&bench, 0, LONG).await;
    assert!(matches!(end, End::Succeeded), "{end:?}");
    assert_eq!(started(&bench), ["op-step-1"]);
    let watched = bench.agent.watched.lock().expect("watched").clone();
    let numbers: Vec<_> = watched.iter().map(|(_, after)| *after).collect();
    assert_eq!(numbers, [0, 1, 1, 2]);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, StepEvent::Retrying(_)))
    );
    let Some(StepEvent::Finished(finished)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(finished.outcome(), pb::StepOutcome::Repaired);
    assert_eq!(finished.detail, "whole again");
}

#[tokio::test]
async fn a_task_that_the_agents_restart_cut_off_is_started_again_at_most_twice() {
    let interrupted = || vec![event(1, Event::Interrupted(pb::TaskInterrupted {}))];
    let bench = Bench::connected().await;
    scripts(&bench, [interrupted(), vec![finished(2)]]);
    let (end, events) = run(&bench, 0, LONG).await;
    assert!(matches!(end, End::Succeeded), "{end:?}");
    assert_eq!(started(&bench), ["op-step-1", "op-step-1-r2"]);
    let retrying = events.iter().find_map(|event| match event {
        StepEvent::Retrying(retrying) => retrying.error.as_ref(),
        _ => None,
    });
    assert_eq!(retrying.expect("told").reason, "TASK_INTERRUPTED");

    let bench = Bench::connected().await;
    scripts(&bench, [interrupted(), interrupted(), interrupted()]);
    let End::Failed(error) = run(&bench, 0, LONG).await.0 else {
        panic!("it can't go on for ever")
    };
    assert_eq!(error.reason(), "TASK_INTERRUPTED");
    assert!(error.report().hint.contains("journalctl -u canasta-agent"));
    assert_eq!(started(&bench).len(), 3);
}

#[tokio::test]
async fn a_failed_task_fails_the_step_with_its_evidence() {
    let bench = Bench::connected().await;
    let report = pb::ErrorReport {
        reason: "K3S_EXITED".to_owned(),
        evidence: vec![pb::Evidence::default()],
        ..pb::ErrorReport::default()
    };
    let failed = pb::StepFailed {
        error: Some(report.clone()),
    };
    scripts(&bench, [vec![event(1, Event::Failed(failed))]]);
    let End::Failed(error) = run(&bench, 0, LONG).await.0 else {
        panic!("it failed")
    };
    assert_eq!(*error.report(), report);
}

#[tokio::test]
async fn what_an_earlier_attempt_started_is_followed_and_not_started_again() {
    let bench = Bench::connected().await;
    // The newest ids that could be there are looked for first; these are of no task.
    let unknown = || vec![Err(Status::not_found("unknown"))];
    scripts(&bench, [unknown(), unknown(), vec![finished(1)]]);
    let (end, _) = run(&bench, 1, LONG).await;
    assert!(matches!(end, End::Succeeded), "{end:?}");
    assert!(started(&bench).is_empty());
    let watched = bench.agent.watched.lock().expect("watched").clone();
    let ids: Vec<_> = watched.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["op-step-1-r3", "op-step-1-r2", "op-step-1"]);
}

#[tokio::test]
async fn an_agent_that_is_away_is_waited_for_until_patience_ends() {
    let bench = Bench::connected().await;
    bench.link.cut();
    scripts(&bench, [vec![finished(1)]]);
    let asks = bench.link.listeners() + 2;
    let ((end, _), ()) = tokio::join!(run(&bench, 0, LONG), async {
        // The task asks for the agent, is told once more that nobody is there, and waits for one.
        while bench.link.listeners() < asks {
            tokio::task::yield_now().await;
        }
        bench.link.cut();
        while bench.link.listeners() == asks {
            tokio::task::yield_now().await;
        }
        bench.reconnect();
    });
    assert!(matches!(end, End::Succeeded), "{end:?}");

    bench.link.cut();
    let End::Failed(error) = run(&bench, 0, Duration::from_millis(20)).await.0 else {
        panic!("nobody is there")
    };
    assert_eq!(error.reason(), "AGENT_UNREACHABLE");
    assert!(error.to_string().contains("192.0.2.1:7443"), "{error}");
    assert!(!error.report().hint.is_empty());
}
