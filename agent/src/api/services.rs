//! Both services of the port as one: a call goes by its path.

use std::convert::Infallible;
use std::task::{Context, Poll};

use canasta_proto::pb::agent_service_server::AgentServiceServer;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::Api;

/// Where the calls of the standard health service begin.
const HEALTH: &str = "/grpc.health.v1.Health/";

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
        if request.uri().path().starts_with(HEALTH) {
            self.health.call(request)
        } else {
            self.agent.call(request)
        }
    }
}
