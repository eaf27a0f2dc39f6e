//! Ids, and calls that are dropped half way.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use canasta_host::fake::FakeHost;
use canasta_proto::pb;
use canasta_proto::pb::watch_task_response::Event;
use canasta_steps::{Done, NoProbe, Reporter, Step, StepError, StepInfo};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{TaskError, TaskId, Tasks, Work};
use crate::agent::Life;

#[test]
fn ids_are_file_names_at_most() {
    for good in [
        "a",
        "0198c0de-0000-7000-8000-000000000000:write-config:1",
        &"a".repeat(200),
    ] {
        assert!(good.parse::<TaskId>().is_ok(), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "-a",
        "a\nb",
        "ä",
        "a\u{202e}",
        "$(x)",
        &"a".repeat(201),
    ] {
        assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
    }
}

/// Counts its runs.
struct Counting(Arc<AtomicUsize>);

#[async_trait]
impl Step for Counting {
    async fn run(&self, _reporter: &Reporter) -> Result<Done, StepError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Done::changed("counted"))
    }
}

fn work(runs: &Arc<AtomicUsize>) -> Work {
    Work {
        info: StepInfo {
            id: "count".to_owned(),
            title: "count".to_owned(),
            host: String::new(),
        },
        step: Box::new(Counting(Arc::clone(runs))),
        spec: pb::TaskSpec::default(),
        cut: CancellationToken::new(),
    }
}

/// Polls a call at most so often, each time when it asks to be. `None` when it has not ended then; it is dropped.
async fn dropped_after<T>(polls: usize, call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match call.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn a_start_that_is_dropped_at_any_point_loses_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let host = FakeHost::new("cp1").host();
    let life = Life::default();
    let tasks = Tasks::load(
        directory.path(),
        Arc::clone(&host.machine),
        Arc::new(NoProbe),
        life.clone(),
    )
    .await
    .expect("tasks");
    for polls in 0.. {
        let id: TaskId = format!("t{polls}").parse().expect("id");
        let runs = Arc::default();
        let call = tasks.start(id.clone(), work(&runs));
        let answered = dropped_after(polls, call).await.is_some();
        // The controller asks again, as it does when a connection breaks.
        tasks.start(id.clone(), work(&runs)).await.expect("start");
        let mut events = tasks.follow(&id, 0).await.expect("follow");
        let mut seen = Vec::new();
        while let Some(event) = events.next().await.expect("event") {
            seen.push(event.event.expect("an event"));
        }
        assert!(
            matches!(seen[..], [Event::Started(_), Event::Finished(_)]),
            "dropped after {polls} polls: {seen:?}"
        );
        assert_eq!(runs.load(Ordering::Relaxed), 1, "after {polls} polls");
        if answered {
            break;
        }
    }
    life.end();
    life.ended().await;
}

#[tokio::test]
async fn no_task_begins_beside_work_that_excludes_them() {
    let directory = tempfile::tempdir().expect("directory");
    let host = FakeHost::new("cp1").host();
    let life = Life::default();
    let machine = Arc::clone(&host.machine);
    let tasks = Tasks::load(directory.path(), machine, Arc::new(NoProbe), life.clone())
        .await
        .expect("tasks");
    let runs: Arc<AtomicUsize> = Arc::default();
    let (began, gone_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, go_on, seen) = (Arc::clone(&began), Arc::clone(&gone_on), Arc::clone(&runs));
    let beside = tasks.clone();
    let working = tokio::spawn(async move {
        let work = async move {
            begin.notify_one();
            go_on.notified().await;
            seen.load(Ordering::Relaxed)
        };
        beside.exclusive(work).await
    });
    began.notified().await;
    let id: TaskId = "t1".parse().expect("id");
    let start = tasks.start(id, work(&runs));
    let (_started, before) = tokio::join!(start, async {
        tokio::task::yield_now().await;
        gone_on.notify_one();
        working.await.expect("no panic").expect("nothing runs")
    });
    assert_eq!(before, 0);
    tasks.drained().await;
    let refused = tasks.exclusive(async {}).await;
    assert!(matches!(refused, Err(TaskError::Stopping)), "{refused:?}");
    life.end();
    life.ended().await;
}
