//! A node with an agent on it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use canasta_agent::join::client;
use canasta_agent::join::message::{Answer, Ask, Done, Failure, JoinRequest, TokenText};
use canasta_agent::{Agent, AgentOptions, RunningAgent, State};
use canasta_host::fake::FakeHost;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::token::Token;
use canasta_steps::{Probe, StepError, StepInfo};
use canasta_transport::status::Fault;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::transport::Channel;

use crate::controller::Controller;

/// A machine that outlives the agents on it.
pub(crate) struct Node {
    pub(crate) host: FakeHost,
    pub(crate) gate: Arc<Gate>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            host: FakeHost::new("cp1"),
            gate: Arc::new(Gate::open()),
        }
    }

    pub(crate) fn options(&self) -> AgentOptions {
        let mut options = AgentOptions::new(self.host.host());
        options.config.listen = Some("127.0.0.1:0".parse().expect("address"));
        options.probe = self.gate.clone();
        options.timings.join_retry_first = Duration::from_millis(10);
        options.timings.join_retry_last = Duration::from_millis(50);
        options.timings.join_answer = Duration::from_secs(10);
        options
    }

    pub(crate) async fn start(&self) -> RunningAgent {
        Agent::start(self.options()).await.expect("start")
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.host.root.path(path)
    }
}

/// Holds steps up before they run, while it is closed.
pub(crate) struct Gate(Semaphore);

impl Gate {
    fn open() -> Self {
        Self(Semaphore::new(Semaphore::MAX_PERMITS))
    }

    pub(crate) fn close(&self) {
        self.0.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn let_one_through(&self) {
        self.0.add_permits(1);
    }
}

#[async_trait]
impl Probe for Gate {
    async fn before(&self, _info: &StepInfo) -> Result<(), StepError> {
        self.0.acquire().await.expect("never closed").forget();
        Ok(())
    }
}

/// Asks the agent to join.
pub(crate) async fn join(
    agent: &RunningAgent,
    controller: SocketAddr,
    token: &Token,
) -> Result<Done, Failure> {
    let ask = Ask::Join(JoinRequest {
        controller: controller.to_string(),
        token: TokenText::new(token.reveal()),
        advertise: None,
        name: None,
    });
    match client::ask(agent.join_socket(), &ask, |_| {})
        .await
        .expect("answer")
    {
        Answer::Done(done) => Ok(done),
        Answer::Error(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

/// A controller, a node that has joined it, and a client of the controller.
pub(crate) async fn joined() -> (Controller, Node, RunningAgent, AgentServiceClient<Channel>) {
    let (controller, node) = (Controller::start().await, Node::new());
    let agent = node.start().await;
    join(&agent, controller.address, &controller.token())
        .await
        .expect("join");
    let client = controller
        .dial(agent.local_addr().expect("listening"))
        .await;
    (controller, node, agent, client)
}

/// Starts the agent of a node again and dials it.
pub(crate) async fn restarted(
    controller: &Controller,
    node: &Node,
) -> (RunningAgent, AgentServiceClient<Channel>) {
    let agent = node.start().await;
    let client = controller
        .dial(agent.local_addr().expect("listening"))
        .await;
    (agent, client)
}

pub(crate) async fn until(agent: &RunningAgent, wanted: impl FnMut(&State) -> bool) {
    let mut state = agent.state();
    tokio::time::timeout(Duration::from_secs(20), state.wait_for(wanted))
        .await
        .expect("in time")
        .expect("alive");
}

pub(crate) fn fault(status: &Status) -> Fault {
    Fault::from_status(status)
}
