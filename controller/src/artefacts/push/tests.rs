//! Pushes to an agent that go well, break off and are refused.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use canasta_steps::StepError;

use super::Pushed;
use crate::artefacts::{Artefact, Artefacts, Limits, PUSHES, Tell};
use crate::config::K3s;
use crate::operations::agent::stub::{Bench, Mute};
use crate::store::artefacts::ArtefactRow;

/// Short, and longer than a push over loopback ever pauses.
const STALL: Duration = Duration::from_millis(500);
const SIZE: usize = 5 * 1024 * 1024 + 77;

#[derive(Default)]
struct Told {
    bytes: Mutex<Vec<(u64, u64)>>,
    retried: Mutex<Vec<String>>,
}

#[async_trait]
impl Tell for Told {
    async fn bytes(&self, done: u64, total: u64, _: &str) {
        self.bytes.lock().expect("told").push((done, total));
    }

    async fn retrying(&self, error: StepError, _: Duration) {
        self.retried.lock().expect("told").push(error.to_string());
    }
}

/// Artefacts with one file, which is kept as if it had been downloaded.
async fn artefacts(bench: &Bench) -> (Artefacts, Artefact, Vec<u8>) {
    let directory = bench.dir.path().join("artefacts");
    let artefacts = Artefacts::open(
        bench.store.clone(),
        directory.clone(),
        K3s::default(),
        Limits {
            push_stall: STALL,
            ..Limits::default()
        },
    )
    .await
    .expect("artefacts");
    let file: Vec<u8> = (0..SIZE)
        .map(|index| u8::try_from(index % 253).expect("small"))
        .collect();
    let path = directory.join("file");
    std::fs::write(&path, &file).expect("write");
    let row = ArtefactRow {
        name: "k3s".to_owned(),
        version: "v1.34.8+k3s1".to_owned(),
        arch: "amd64".to_owned(),
        sha256: "file".to_owned(),
        size: SIZE as u64,
        source: String::new(),
        stored_at: 0,
        modified: 0,
    };
    (artefacts, Artefact { row, path }, file)
}

#[tokio::test]
async fn a_push_goes_on_where_it_was_cut_and_a_second_one_finds_all_there() {
    let bench = Bench::connected().await;
    let (artefacts, artefact, file) = artefacts(&bench).await;
    bench.agent.cuts.lock().expect("cuts").push_back(1_500_000);
    let told = Told::default();
    let patience = Duration::from_secs(5);
    let push = || artefacts.push(&bench.fleet, &bench.host, &artefact, &told, patience);
    let pushed = push().await.expect("the second try");
    assert!(matches!(pushed, Pushed::Sent(_)), "{pushed:?}");
    assert!(
        *bench.agent.artefact.lock().expect("artefact") == file,
        "the same bytes"
    );
    assert_eq!(told.retried.lock().expect("told").len(), 1);
    let total = SIZE as u64;
    assert_eq!(
        told.bytes.lock().expect("told").last(),
        Some(&(total, total))
    );
    let chunks = bench.agent.chunks.lock().expect("chunks").clone();
    assert!(chunks.iter().all(|size| *size <= super::CHUNK));
    assert_eq!(push().await.expect("there"), Pushed::There);
}

#[tokio::test]
async fn a_push_that_is_cut_again_and_again_ends() {
    let bench = Bench::connected().await;
    let (artefacts, artefact, _) = artefacts(&bench).await;
    bench.agent.cuts.lock().expect("cuts").extend([10; 5]);
    let told = Told::default();
    let error = artefacts
        .push(
            &bench.fleet,
            &bench.host,
            &artefact,
            &told,
            Duration::from_secs(5),
        )
        .await
        .expect_err("five cuts");
    assert_eq!(error.reason(), "AGENT_CALL_FAILED");
    assert!(error.report().hint.contains("run the command again"));
    assert_eq!(told.retried.lock().expect("told").len(), 4);
}

#[tokio::test]
async fn an_agent_that_never_answers_is_not_waited_for_for_ever() {
    let bench = Bench::connected().await;
    let (artefacts, artefact, _) = artefacts(&bench).await;
    let told = Told::default();
    let push = || {
        let patience = Duration::from_secs(5);
        artefacts.push(&bench.fleet, &bench.host, &artefact, &told, patience)
    };
    *bench.agent.mute.lock().expect("mute") = Mute::Push;
    let error = push().await.expect_err("nothing is taken");
    assert_eq!(error.reason(), "PUSH_STALLED");
    assert!(
        error.to_string().contains("host 'cp1'") && error.to_string().contains("500ms"),
        "{error}"
    );
    assert_eq!(told.retried.lock().expect("told").len(), 0);

    *bench.agent.mute.lock().expect("mute") = Mute::Stat;
    let error = push().await.expect_err("no answer");
    assert_eq!(error.reason(), "AGENT_CALL_FAILED");
    assert!(
        error
            .report()
            .causes
            .iter()
            .any(|cause| cause.contains("did not answer in time")),
        "{error:?}"
    );
    *bench.agent.mute.lock().expect("mute") = Mute::Nothing;
    assert_eq!(
        push().await.expect("it answers again"),
        Pushed::Sent(SIZE as u64)
    );
}

#[tokio::test]
async fn more_pushes_than_may_run_at_once_take_turns() {
    let bench = Bench::connected().await;
    let (artefacts, artefact, _) = artefacts(&bench).await;
    *bench.agent.mute.lock().expect("mute") = Mute::Push;
    let told = Told::default();
    let patience = Duration::from_secs(5);
    let push = || artefacts.push(&bench.fleet, &bench.host, &artefact, &told, patience);
    let begun = Instant::now();
    let ended = futures_util::future::join_all((0..=PUSHES).map(|_| push())).await;
    for pushed in ended {
        assert_eq!(
            pushed.expect_err("nothing is taken").reason(),
            "PUSH_STALLED"
        );
    }
    // The last one waits until another has stalled, and stalls then.
    assert!(begun.elapsed() >= 2 * STALL, "{:?}", begun.elapsed());
}
