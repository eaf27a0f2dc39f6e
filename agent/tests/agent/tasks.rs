//! Tasks: once per id, one at a time, and never lost.

use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::pb::task_spec::Verb;
use canasta_proto::pb::watch_task_response::Event;
use tonic::Code;
use tonic::transport::Channel;

use crate::fixture::{fault, joined, restarted};

pub(crate) fn start_request(id: &str) -> pb::StartTaskRequest {
    let task = pb::K3sInstallTask {
        spec: Some(pb::K3sSpec {
            role: pb::K3sRole::Server.into(),
            version: "v1.34.8+k3s1".to_owned(),
            binary_sha256: "a".repeat(64),
            node_ip: "10.0.0.5".to_owned(),
            flannel_link: "eth0".to_owned(),
            node_name: "cp1".to_owned(),
            tls_sans: vec!["k8s.example.org".to_owned()],
            server_url: String::new(),
            local_paths: Vec::new(),
        }),
        step: pb::K3sInstallStep::Snapshot.into(),
    };
    pb::StartTaskRequest {
        task_id: id.to_owned(),
        spec: Some(pb::TaskSpec {
            verb: Some(Verb::K3sInstall(task)),
        }),
    }
}

async fn start(client: &mut AgentServiceClient<Channel>, id: &str) -> bool {
    client
        .start_task(start_request(id))
        .await
        .expect("start")
        .into_inner()
        .started
}

async fn watch(
    client: &mut AgentServiceClient<Channel>,
    id: &str,
    after_seq: u64,
) -> tonic::Streaming<pb::WatchTaskResponse> {
    let request = pb::WatchTaskRequest {
        task_id: id.to_owned(),
        after_seq,
    };
    client
        .watch_task(request)
        .await
        .expect("watch")
        .into_inner()
}

/// All stored events of a task that ends.
async fn events(
    client: &mut AgentServiceClient<Channel>,
    id: &str,
    after_seq: u64,
) -> Vec<pb::WatchTaskResponse> {
    let mut stream = watch(client, id, after_seq).await;
    let mut seen = Vec::new();
    while let Some(event) = stream.message().await.expect("event") {
        if !matches!(event.event, Some(Event::Progress(_))) {
            seen.push(event);
        }
    }
    seen
}

#[tokio::test]
async fn a_task_runs_once_per_id_and_its_events_are_told_again() {
    let (_controller, _node, _agent, mut client) = joined().await;
    assert!(start(&mut client, "op1:snapshot:1").await);
    let first = events(&mut client, "op1:snapshot:1", 0).await;
    assert!(
        matches!(first[0].event, Some(Event::Started(_))),
        "{first:?}"
    );
    assert!(
        matches!(first.last().expect("last").event, Some(Event::Finished(_))),
        "{first:?}"
    );
    assert_eq!(
        first.iter().map(|event| event.seq).collect::<Vec<_>>(),
        [1, 2]
    );

    assert!(!start(&mut client, "op1:snapshot:1").await);
    assert_eq!(events(&mut client, "op1:snapshot:1", 0).await, first);
    assert_eq!(events(&mut client, "op1:snapshot:1", 1).await, first[1..]);
    assert!(events(&mut client, "op1:snapshot:1", 2).await.is_empty());
}

#[tokio::test]
async fn a_task_is_finished_whoever_listens() {
    let (controller, node, agent, mut client) = joined().await;
    node.gate.close();
    assert!(start(&mut client, "t1").await);
    let mut stream = watch(&mut client, "t1", 0).await;
    stream.message().await.expect("event").expect("started");
    drop((stream, client));
    node.gate.let_one_through();
    let mut client = controller
        .dial(agent.local_addr().expect("listening"))
        .await;
    assert_eq!(events(&mut client, "t1", 0).await.len(), 2);
}

#[tokio::test]
async fn one_task_at_a_time_and_the_second_hears_of_the_first() {
    let (_controller, node, _agent, mut client) = joined().await;
    node.gate.close();
    assert!(start(&mut client, "t1").await);
    let status = client
        .start_task(start_request("t2"))
        .await
        .expect_err("busy");
    let fault = fault(&status);
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::FailedPrecondition, "TASK_RUNNING")
    );
    assert_eq!(fault.subject, "t1");
    assert!(!start(&mut client, "t1").await);
    node.gate.let_one_through();
    events(&mut client, "t1", 0).await;
    // Whoever has heard the end may start the next at once.
    node.gate.let_one_through();
    assert!(start(&mut client, "t2").await);
    assert_eq!(events(&mut client, "t2", 0).await.len(), 2);
}

#[tokio::test]
async fn a_task_that_a_crash_cut_off_is_interrupted() {
    let (controller, node, agent, mut client) = joined().await;
    node.gate.close();
    assert!(start(&mut client, "t1").await);
    let mut stream = watch(&mut client, "t1", 0).await;
    stream.message().await.expect("event").expect("started");
    agent.abort().await;
    stream.message().await.expect_err("the connection broke");

    let (_agent, mut client) = restarted(&controller, &node).await;
    let seen = events(&mut client, "t1", 1).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(
        matches!(seen[0].event, Some(Event::Interrupted(_))) && seen[0].seq == 2,
        "{seen:?}"
    );
    assert!(!start(&mut client, "t1").await);
    node.gate.let_one_through();
    assert!(start(&mut client, "t2").await);
    assert_eq!(events(&mut client, "t2", 0).await.len(), 2);
}

#[tokio::test]
async fn an_orderly_end_lets_the_task_finish() {
    let (controller, node, agent, mut client) = joined().await;
    node.gate.close();
    assert!(start(&mut client, "t1").await);
    let ending = tokio::spawn(agent.shutdown());
    node.gate.let_one_through();
    ending.await.expect("ended");
    let (_agent, mut client) = restarted(&controller, &node).await;
    let seen = events(&mut client, "t1", 0).await;
    assert!(
        matches!(seen.last().expect("last").event, Some(Event::Finished(_))),
        "{seen:?}"
    );
}

#[tokio::test]
async fn an_orderly_end_does_not_wait_for_a_step_that_failed_because_of_it() {
    let (controller, node, agent, mut client) = joined().await;
    node.gate.close();
    assert!(start(&mut client, "t1").await);
    let mut stream = watch(&mut client, "t1", 0).await;
    stream.message().await.expect("event").expect("started");
    // The picture of the node can't be made without its systemd.
    node.host.systemd.set_unreachable(true);
    let half = node.options().timings.drain / 2;
    let ending = tokio::spawn(agent.shutdown());
    node.gate.let_one_through();
    let ended = tokio::time::timeout(half, ending).await;
    ended.expect("nothing is waited for").expect("ended");
    let cut = stream.message().await.expect_err("not the end of the task");
    assert_eq!(cut.code(), Code::Unavailable, "{cut:?}");

    node.host.systemd.set_unreachable(false);
    let (_agent, mut client) = restarted(&controller, &node).await;
    let seen = events(&mut client, "t1", 1).await;
    assert!(
        matches!(
            seen[..],
            [pb::WatchTaskResponse {
                event: Some(Event::Interrupted(_)),
                ..
            }]
        ),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_task_that_nobody_knows_is_told_so() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let request = pb::WatchTaskRequest {
        task_id: "none".to_owned(),
        after_seq: 0,
    };
    let status = client.watch_task(request).await.expect_err("unknown");
    let fault = fault(&status);
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::NotFound, "TASK_UNKNOWN")
    );
}
