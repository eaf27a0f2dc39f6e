//! Proofs of shares as tasks of the agent.

use canasta_host::nfs::{Failure, ProofError, Proven, Reason};
use canasta_proto::pb;
use canasta_proto::pb::StepOutcome::Changed;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::pb::task_spec::Verb;
use canasta_proto::pb::watch_task_response::Event;
use tonic::Code;
use tonic::transport::Channel;

use crate::fixture::{fault, joined};

pub(crate) const SHARE: &str = "/srv/nfs/canasta";

pub(crate) type Client = AgentServiceClient<Channel>;
pub(crate) type Ended = Result<(pb::StepOutcome, String), pb::ErrorReport>;

/// Does a verb to its end.
pub(crate) async fn done(client: &mut Client, verb: Verb) -> Ended {
    let task_id = uuid::Uuid::now_v7().to_string();
    let request = pb::StartTaskRequest {
        task_id: task_id.clone(),
        spec: Some(pb::TaskSpec { verb: Some(verb) }),
    };
    client.start_task(request).await.expect("started");
    let watch = pb::WatchTaskRequest {
        task_id,
        after_seq: 0,
    };
    let mut events = client.watch_task(watch).await.expect("watch").into_inner();
    while let Some(event) = events.message().await.expect("event") {
        match event.event {
            Some(Event::Finished(end)) => return Ok((end.outcome(), end.detail)),
            Some(Event::Failed(end)) => return Err(end.error.expect("an error")),
            _ => {}
        }
    }
    panic!("no end");
}

fn proof() -> pb::MountProofTask {
    pb::MountProofTask {
        server: "10.0.0.5".to_owned(),
        path: SHARE.to_owned(),
        action: pb::MountProofAction::Write.into(),
        nonce: "0123456789abcdef".to_owned(),
    }
}

#[tokio::test]
async fn a_proof_is_made_or_its_reason_told() {
    let (_controller, node, _agent, mut client) = joined().await;
    node.host.nfs.on_prove(|proof| {
        assert_eq!((proof.server.as_str(), proof.port), ("10.0.0.5", 2049));
        Ok(Proven {
            address: "10.0.0.5".parse().expect("an address"),
            milliseconds: 12,
            handle: "4300".to_owned(),
        })
    });
    let made = done(&mut client, Verb::MountProof(proof())).await;
    let (outcome, detail) = made.expect("proven");
    assert_eq!(outcome, Changed);
    assert!(detail.contains("handle 4300"), "{detail}");
    node.host.nfs.on_prove(|_| {
        let reason = Reason::NotAClientOrNoShare;
        Err(ProofError::Failed(Failure::new(
            "opening the share",
            reason,
            "NFS4ERR_NOENT",
        )))
    });
    let failed = done(&mut client, Verb::MountProof(proof())).await;
    assert_eq!(
        failed.expect_err("no proof").reason,
        "NFS_NOT_A_CLIENT_OR_NO_SHARE"
    );
    for (error, reason, words) in [
        (
            ProofError::TimedOut {
                limit: std::time::Duration::from_secs(150),
            },
            "NFS_SERVER_HANGS",
            "killed after 150 s",
        ),
        (
            ProofError::NoAnswer {
                program: "/usr/libexec/canasta-agent/nfs-proof",
            },
            "PROOF_FAILED",
            "/usr/libexec/canasta-agent/nfs-proof",
        ),
    ] {
        let error = std::sync::Mutex::new(Some(error));
        node.host.nfs.on_prove(move |_| {
            let error = error.lock().expect("no holder panics").take();
            Err(error.expect("asked once"))
        });
        let failed = done(&mut client, Verb::MountProof(proof())).await;
        let report = failed.expect_err("no proof");
        assert_eq!(report.reason, reason);
        assert!(format!("{report:?}").contains(words), "{report:?}");
    }
}

#[tokio::test]
async fn a_proof_that_breaks_a_rule_is_refused() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let edits: [fn(&mut pb::MountProofTask); 8] = [
        |task| task.server = String::new(),
        |task| task.server = "10.0.0.5:2049".to_owned(),
        |task| task.server = "a b".to_owned(),
        |task| task.path = "/a?version=3".to_owned(),
        |task| task.action = 0,
        |task| task.action = 99,
        |task| task.nonce = "short".to_owned(),
        |task| task.nonce = "../../etc/passwd".to_owned(),
    ];
    for edit in edits {
        let mut task = proof();
        edit(&mut task);
        let verb = Verb::MountProof(task);
        let what = format!("{verb:?}");
        let request = pb::StartTaskRequest {
            task_id: "t1".to_owned(),
            spec: Some(pb::TaskSpec { verb: Some(verb) }),
        };
        let fault = fault(&client.start_task(request).await.expect_err(&what));
        assert_eq!(fault.code, Code::InvalidArgument, "{what}: {fault:?}");
        assert!(
            !fault.subject.is_empty() && !fault.message.contains('\n'),
            "{what}"
        );
    }
}
