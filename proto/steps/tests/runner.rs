//! The runner with small steps: order, resume, cancel, failure, panic, progress.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_steps::{
    Done, End, Journal, JournalError, Plan, PlanError, Probe, Reporter, Resume, Runner, Step,
    StepError, StepEvent, StepInfo,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// Keeps what was recorded; refuses from the `broken_after`th event on.
#[derive(Default)]
struct Memory {
    lines: Mutex<Vec<String>>,
    broken_after: Option<usize>,
}

#[async_trait]
impl Journal for Memory {
    async fn record(&self, step: &str, event: StepEvent) -> Result<(), JournalError> {
        let mut lines = self.lines.lock().unwrap();
        if self.broken_after.is_some_and(|limit| lines.len() >= limit) {
            return Err(JournalError("disk full".into()));
        }
        lines.push(match event {
            StepEvent::Started(started) => format!("{step} started {}", started.attempt),
            StepEvent::Progress(progress) => format!("{step} progress {}", progress.done),
            StepEvent::Retrying(_) => format!("{step} retrying"),
            StepEvent::Finished(finished) => format!("{step} {}", finished.outcome().as_str_name()),
            StepEvent::Failed(failed) => format!("{step} failed {}", failed.error.unwrap().reason),
        });
        Ok(())
    }
}

impl Memory {
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// A step made of a closure.
struct Act<F>(F);

#[async_trait]
impl<F, R> Step for Act<F>
where
    F: Fn(Reporter) -> R + Send + Sync,
    R: Future<Output = Result<Done, StepError>> + Send,
{
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        (self.0)(reporter.clone()).await
    }
}

fn info(id: &str) -> StepInfo {
    StepInfo {
        id: id.to_owned(),
        title: format!("do {id}"),
        host: "cp1".to_owned(),
    }
}

fn good() -> impl Step + 'static {
    Act(|_| async { Ok(Done::changed("")) })
}

async fn run(plan: &Plan, resume: Resume) -> (End, Vec<String>) {
    let journal = Arc::new(Memory::default());
    let end = Runner::new(journal.clone())
        .run(plan, resume, &CancellationToken::new())
        .await;
    (end, journal.lines())
}

#[tokio::test]
async fn steps_run_in_order_and_are_journalled() {
    let plan = Plan::new().then(info("a"), good()).then(info("b"), good());
    let (end, lines) = run(&plan, Resume::default()).await;
    assert!(matches!(end, End::Succeeded));
    assert_eq!(
        lines,
        [
            "a started 1",
            "a STEP_OUTCOME_CHANGED",
            "b started 1",
            "b STEP_OUTCOME_CHANGED"
        ]
    );
}

#[tokio::test]
async fn a_resumed_run_skips_what_is_finished_and_counts_attempts() {
    let plan = Plan::new().then(info("a"), good()).then(info("b"), good());
    let resume = Resume {
        finished: ["a".to_owned()].into(),
        attempts: [("b".to_owned(), 1)].into(),
    };
    let (end, lines) = run(&plan, resume).await;
    assert!(matches!(end, End::Succeeded));
    assert_eq!(lines, ["b started 2", "b STEP_OUTCOME_CHANGED"]);
}

#[tokio::test]
async fn what_nothing_orders_runs_at_the_same_time() {
    let gate = Arc::new(Semaphore::new(0));
    let (first, second) = (gate.clone(), gate);
    // `a` ends only when `b` has begun, so this hangs if they are run one after the other.
    let plan = Plan::new()
        .then(
            info("a"),
            Act(move |_| {
                let gate = first.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(Done::changed(""))
                }
            }),
        )
        .after(
            &[],
            info("b"),
            Act(move |_| {
                second.add_permits(1);
                async { Ok(Done::unchanged("")) }
            }),
        );
    assert!(matches!(
        run(&plan, Resume::default()).await.0,
        End::Succeeded
    ));
}

#[tokio::test]
async fn a_failure_ends_the_run_and_undoes_what_was_done_in_reverse() {
    struct Undone(&'static str, Arc<Mutex<Vec<&'static str>>>);
    #[async_trait]
    impl Step for Undone {
        async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
            Ok(Done::changed(""))
        }
        async fn undo(&self) -> Result<(), StepError> {
            self.1.lock().unwrap().push(self.0);
            Ok(())
        }
    }
    let undone = Arc::new(Mutex::new(Vec::new()));
    let plan = Plan::new()
        .then(info("a"), Undone("a", undone.clone()))
        .then(info("b"), Undone("b", undone.clone()))
        .then(
            info("c"),
            Act(|_| async { Err(StepError::new("BROKEN", "it broke")) }),
        )
        .then(info("d"), good());
    let (end, lines) = run(&plan, Resume::default()).await;
    assert!(matches!(end, End::Failed(error) if error.reason() == "BROKEN"));
    assert_eq!(lines.last().unwrap(), "c failed BROKEN");
    assert_eq!(*undone.lock().unwrap(), ["b", "a"]);
}

#[tokio::test]
async fn a_panic_in_one_undo_does_not_keep_the_others_from_theirs() {
    struct Undone(bool, Arc<Mutex<bool>>);
    #[async_trait]
    impl Step for Undone {
        async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
            Ok(Done::changed(""))
        }
        async fn undo(&self) -> Result<(), StepError> {
            assert!(!self.0, "a bug");
            *self.1.lock().unwrap() = true;
            Ok(())
        }
    }
    let undone = Arc::new(Mutex::new(false));
    let plan = Plan::new()
        .then(info("a"), Undone(false, undone.clone()))
        .then(info("b"), Undone(true, undone.clone()))
        .then(
            info("c"),
            Act(|_| async { Err(StepError::new("BROKEN", "it broke")) }),
        );
    let (end, _) = run(&plan, Resume::default()).await;
    assert!(matches!(end, End::Failed(error) if error.reason() == "BROKEN"));
    assert!(*undone.lock().unwrap());
}

#[tokio::test]
async fn a_plan_that_can_not_end_is_a_failure_and_no_cancel() {
    let plan = Plan::new().after(&["nowhere"], info("a"), good());
    let (end, _) = run(&plan, Resume::default()).await;
    assert!(matches!(end, End::Failed(error) if error.reason() == "INTERNAL"));
}

#[tokio::test]
async fn a_panic_is_a_failure_that_says_so() {
    let plan = Plan::new().then(info("a"), Act(|_| async { panic!("a bug") }));
    let (end, lines) = run(&plan, Resume::default()).await;
    assert!(matches!(end, End::Failed(error) if error.reason() == "INTERNAL"));
    assert_eq!(lines, ["a started 1", "a failed INTERNAL"]);
}

#[tokio::test]
async fn a_cancel_waits_for_the_end_of_the_running_step() {
    let begun = Arc::new(Notify::new());
    let go_on = Arc::new(Notify::new());
    let (told, wait) = (begun.clone(), go_on.clone());
    let plan = Plan::new()
        .then(
            info("a"),
            Act(move |_| {
                told.notify_one();
                let wait = wait.clone();
                async move {
                    wait.notified().await;
                    Ok(Done::changed(""))
                }
            }),
        )
        .then(info("b"), good());
    let journal = Arc::new(Memory::default());
    let cancel = CancellationToken::new();
    let runner = Runner::new(journal.clone());
    let (end, ()) = tokio::join!(runner.run(&plan, Resume::default(), &cancel), async {
        begun.notified().await;
        cancel.cancel();
        go_on.notify_one();
    });
    assert!(matches!(end, End::Cancelled));
    assert_eq!(journal.lines(), ["a started 1", "a STEP_OUTCOME_CHANGED"]);
}

#[tokio::test]
async fn a_broken_journal_stops_the_work() {
    let journal = Arc::new(Memory {
        broken_after: Some(2),
        ..Memory::default()
    });
    let plan = Plan::new().then(info("a"), good()).then(info("b"), good());
    let end = Runner::new(journal)
        .run(&plan, Resume::default(), &CancellationToken::new())
        .await;
    assert!(matches!(end, End::Journal(_)));
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_at_most_four_times_a_second_and_always_when_complete() {
    let plan = Plan::new().then(
        info("a"),
        Act(|reporter: Reporter| async move {
            for done in 1..=1000 {
                let progress = pb::StepProgress {
                    done,
                    total: 1000,
                    ..pb::StepProgress::default()
                };
                reporter.progress(progress).await;
                tokio::time::advance(std::time::Duration::from_millis(1)).await;
            }
            Ok(Done::changed(""))
        }),
    );
    let (_, lines) = run(&plan, Resume::default()).await;
    let progress: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("progress"))
        .collect();
    assert_eq!(
        progress,
        [
            "a progress 1",
            "a progress 251",
            "a progress 501",
            "a progress 751",
            "a progress 1000"
        ]
    );
}

#[tokio::test]
async fn a_probe_can_fail_a_step_and_run_it_twice() {
    struct Twice;
    #[async_trait]
    impl Probe for Twice {
        async fn after(&self, info: &StepInfo) -> Result<(), StepError> {
            if info.id == "b" {
                Err(StepError::new("INJECTED", "injected"))
            } else {
                Ok(())
            }
        }
        fn run_twice(&self, info: &StepInfo) -> bool {
            info.id == "a"
        }
    }
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    let plan = Plan::new()
        .then(
            info("a"),
            Act(move |_| {
                *counted.lock().unwrap() += 1;
                async { Ok(Done::changed("")) }
            }),
        )
        .then(info("b"), good());
    let runner = Runner::new(Arc::new(Memory::default())).with_probe(Arc::new(Twice));
    let end = runner
        .run(&plan, Resume::default(), &CancellationToken::new())
        .await;
    assert!(matches!(end, End::Failed(error) if error.reason() == "INJECTED"));
    assert_eq!(*count.lock().unwrap(), 2);
}

#[test]
fn a_plan_that_could_hang_is_found() {
    let plan = Plan::new()
        .after(&["later"], info("a"), good())
        .then(info("later"), good());
    assert!(matches!(plan.check(), Err(PlanError::Order { .. })));
    let plan = Plan::new().then(info("a"), good()).then(info("a"), good());
    assert_eq!(plan.check(), Err(PlanError::Twice("a".to_owned())));
}
