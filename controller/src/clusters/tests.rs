//! What is told of a cluster, by its API and by its agents.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use canasta_steps::{
    Done, End, Journal, JournalError, Plan, Reporter, Resume, Runner, Step, StepError, StepEvent,
    StepInfo,
};
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Clusters;
use super::fake::{self, Body};
use crate::operations::agent::stub::Bench;
use crate::store::clusters::{ClusterRow, NodeRow};

const VERSION: &str = "v1.34.8+k3s1";

/// What the API says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// The node is Ready as soon as somebody watches.
    ReadyWhenWatched,
    /// It never is.
    NeverReady,
}

fn node(ready: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-cp1", "uid": "1", "resourceVersion": "7", "labels": {"node-role.kubernetes.io/control-plane": "true"}},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "PLEG is not healthy"}],
            "nodeInfo": {
                "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                "kubeletVersion": VERSION, "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "",
            },
        },
    })
}

fn answer(says: Says, request: &Request<Incoming>) -> Response<Body> {
    let whole = |value: Value| Full::new(Bytes::from(value.to_string())).boxed();
    let query = request.uri().query().unwrap_or_default();
    let body = match request.uri().path() {
        "/version" => whole(json!({
            "major": "1", "minor": "34", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        })),
        "/api/v1/nodes" if query.contains("watch=") => {
            let news = (says == Says::ReadyWhenWatched)
                .then(|| json!({"type": "MODIFIED", "object": node("True")}));
            let line = |value: Value| Ok(Frame::data(Bytes::from(format!("{value}\n"))));
            // A watch stays open.
            let events = stream::iter(news.map(line)).chain(stream::pending());
            BodyExt::boxed(StreamBody::new(events))
        }
        "/api/v1/nodes" => whole(json!({
            "apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "7"}, "items": [node("False")],
        })),
        path => panic!("nobody asks for {path}"),
    };
    Response::builder()
        .header("content-type", "application/json")
        .body(body)
        .expect("an answer")
}

async fn serve(bench: &Bench, says: Says) {
    fake::serve(&bench.agent, move |request| {
        Box::pin(std::future::ready(answer(says, &request)))
    })
    .await;
}

/// Waits for the node as a step does.
struct Wait(Clusters, canasta_proto::name::HostName);

#[async_trait]
impl Step for Wait {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        self.0
            .wait_node_ready(&self.1, "node-cp1", VERSION, reporter)
            .await?;
        Ok(Done::unchanged("ready"))
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<StepEvent>>);

#[async_trait]
impl Journal for Told {
    async fn record(&self, _: &str, event: StepEvent) -> Result<(), JournalError> {
        self.0.lock().expect("told").push(event);
        Ok(())
    }
}

async fn wait(bench: &Bench) -> End {
    let clusters = Clusters::new(
        bench.store.clone(),
        bench.fleet.clone(),
        bench.timings.clone(),
    );
    let info = StepInfo {
        id: "wait".to_owned(),
        title: String::new(),
        host: String::new(),
    };
    let plan = Plan::new().then(info, Wait(clusters, bench.host.clone()));
    Runner::new(Arc::<Told>::default())
        .run(&plan, Resume::default(), &CancellationToken::new())
        .await
}

#[tokio::test]
async fn a_node_is_waited_for_by_a_watch_through_the_tunnel() {
    let bench = Bench::connected().await;
    serve(&bench, Says::ReadyWhenWatched).await;
    let end = wait(&bench).await;
    assert!(matches!(end, End::Succeeded), "{end:?}");
}

#[tokio::test]
async fn a_node_that_never_gets_ready_fails_with_its_condition_and_the_journal() {
    let bench = Bench::connected().await;
    serve(&bench, Says::NeverReady).await;
    let End::Failed(error) = wait(&bench).await else {
        panic!("it is not ready")
    };
    let report = error.report();
    assert_eq!(report.reason, "NODE_NOT_READY");
    assert_eq!(
        report.causes,
        ["Ready is False (KubeletNotReady): PLEG is not healthy"]
    );
    assert_eq!(report.evidence[0].title, "journal of k3s.service");
}

#[tokio::test]
async fn a_cluster_is_shown_as_its_api_and_its_agents_see_it() {
    let bench = Bench::connected().await;
    serve(&bench, Says::NeverReady).await;
    let cluster = ClusterRow {
        name: "c".to_owned(),
        k3s_version: VERSION.to_owned(),
        ca_hash: "ab".to_owned(),
        endpoint: "https://10.0.0.5:6443".to_owned(),
        adopted: false,
        created_at: 1,
        public_ips: vec!["203.0.113.7".to_owned()],
    };
    let node = NodeRow {
        host: "cp1".to_owned(),
        cluster: "c".to_owned(),
        node_name: "node-cp1".to_owned(),
        role: "control-plane".to_owned(),
        node_ip: "10.0.0.5".to_owned(),
        tls_sans: vec!["10.0.0.5".to_owned()],
    };
    bench
        .store
        .put_cluster_node(&cluster, &node)
        .await
        .expect("stored");
    assert_eq!(bench.store.cluster("c").await.expect("read"), Some(cluster));
    assert_eq!(
        bench.store.cluster_node("cp1").await.expect("read"),
        Some(node)
    );
    let clusters = Clusters::new(
        bench.store.clone(),
        bench.fleet.clone(),
        bench.timings.clone(),
    );
    let shown = clusters.get("c").await.expect("read").expect("known");
    let api = shown.api.expect("asked");
    assert!(api.reachable, "{}", api.error);
    assert_eq!(
        (api.version.as_str(), api.source.as_str()),
        (VERSION, "API server through the agent on cp1")
    );
    let node = &shown.nodes[0];
    assert_eq!(
        (node.ready, node.kubelet_version.as_str()),
        (Some(false), VERSION)
    );
    // The test's agent tells no facts.
    assert!(node.agent_error.contains("cp1"), "{}", node.agent_error);

    bench.link.cut();
    let shown = clusters.list().await.expect("read").remove(0);
    assert_eq!(shown.nodes[0].ready, None);
    assert!(
        shown.nodes[0].ready_reason.contains("192.0.2.1:7443"),
        "{}",
        shown.nodes[0].ready_reason
    );
    assert_eq!(clusters.get("d").await.expect("read"), None);
}
