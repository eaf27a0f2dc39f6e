//! Both services of the port as one: a call is compared with the table of [`roles`](super::roles) and goes by its path.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use canasta_proto::pb::agent_service_server::AgentServiceServer;
use canasta_transport::listen::PeerInfo;
use futures_util::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use super::Api;
use super::roles::judge;
use crate::agent::Core;

/// Where the calls of the standard health service begin.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Tells who watches the health that the agent is going down. The streams end when no task runs any more: they would
/// hold up an orderly end.
pub(super) async fn leave(mut reporter: HealthReporter, core: Arc<Core>) {
    const ALL: [&str; 2] = ["", <AgentServiceServer<Api> as NamedService>::NAME];
    core.life.stopping.cancelled().await;
    for service in ALL {
        reporter
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
    core.tasks.drained().await;
    for service in ALL {
        reporter.clear_service_status(service).await;
    }
}

/// The agent's own service, which answers unknown calls too, and the health service.
#[derive(Debug)]
pub(crate) struct Services<H> {
    agent: AgentServiceServer<Api>,
    health: HealthServer<H>,
}

impl<H> Services<H> {
    pub(super) fn new(agent: AgentServiceServer<Api>, health: HealthServer<H>) -> Self {
        Self { agent, health }
    }
}

impl<H> Clone for Services<H> {
    fn clone(&self) -> Self {
        Self {
            agent: self.agent.clone(),
            health: self.health.clone(),
        }
    }
}

impl<H: Health> Service<http::Request<Body>> for Services<H> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<PeerInfo>();
        if let Err(fault) = judge(peer, request.uri().path()) {
            tracing::warn!(%fault, "refused a call");
            return Box::pin(std::future::ready(Ok(Status::from(*fault).into_http())));
        }
        if request.uri().path().starts_with(HEALTH) {
            self.health.call(request)
        } else {
            self.agent.call(request)
        }
    }
}
