//! The gRPC services of the controller, on TCP 7440 and on the unix socket.
//!
//! [`gate`] stands before all of them: it finds out who calls, compares with the table in [`roles`], limits callers without
//! a certificate, and writes the audit trail. The services translate between the wire and the rest of the program.

mod artefact;
mod audit;
pub mod caller;
mod cluster;
mod ending;
mod enrolment;
mod fault;
pub mod gate;
mod host;
mod operation;
pub mod roles;
mod storage;
mod user;
mod wire;

use std::path::PathBuf;

use canasta_proto::pb;
use canasta_proto::pb::artefact_service_server::ArtefactServiceServer;
use canasta_proto::pb::audit_service_server::AuditServiceServer;
use canasta_proto::pb::cluster_service_server::ClusterServiceServer;
use canasta_proto::pb::enrolment_service_server::EnrolmentServiceServer;
use canasta_proto::pb::host_service_server::HostServiceServer;
use canasta_proto::pb::operation_service_server::OperationServiceServer;
use canasta_proto::pb::storage_service_server::StorageServiceServer;
use canasta_proto::pb::user_service_server::UserServiceServer;
use canasta_transport::listen::Connections;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use fault::{Answer, invalid};

use crate::identity::{Directory, Enrolment, Issuer, Tokens};
use crate::operations::Operations;
use crate::workflows;

/// The full names of all services that are served.
pub const SERVICES: &[&str] = &[
    "canasta.fleet.v1.EnrolmentService",
    "canasta.fleet.v1.HostService",
    "canasta.fleet.v1.ClusterService",
    "canasta.fleet.v1.OperationService",
    "canasta.fleet.v1.ArtefactService",
    "canasta.fleet.v1.StorageService",
    "canasta.fleet.v1.UserService",
    "canasta.fleet.v1.AuditService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// What the services work with.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) issuer: Issuer,
    pub(crate) tokens: Tokens,
    pub(crate) directory: Directory,
    pub(crate) connections: Connections,
    pub(crate) operations: Operations,
    pub(crate) context: workflows::Context,
    /// Packages of the agent that the controller's own package brings.
    pub(crate) agent_packages: PathBuf,
    /// The address that join commands tell, `HOST:PORT`.
    pub(crate) advertised: String,
}

/// The descriptors for reflection can't be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the descriptors of the services")]
pub struct DescriptorError(#[source] tonic_reflection::server::Error);

/// What the standard health service says.
#[derive(Debug, Clone)]
pub(crate) struct Health(HealthReporter);

impl Health {
    async fn set(&self, status: ServingStatus) {
        // The empty name stands for the controller as a whole.
        for service in SERVICES.iter().chain(&[""]) {
            self.0.set_service_status(*service, status).await;
        }
    }

    /// No new calls are taken from now on.
    pub(crate) async fn stopping(&self) {
        self.set(ServingStatus::NotServing).await;
    }
}

/// All services, and what says how they are.
pub(crate) async fn routes(parts: Parts) -> Result<(Routes, Health), DescriptorError> {
    let Parts {
        issuer,
        tokens,
        directory,
        connections,
        operations,
        context,
        agent_packages,
        advertised,
    } = parts;
    let workflows::Context { store, fleet, .. } = context.clone();
    let certificates = Enrolment::new(
        store.clone(),
        issuer.clone(),
        tokens.clone(),
        directory.clone(),
    );
    let enrolment = enrolment::EnrolmentApi {
        enrolment: certificates.clone(),
        issuer: issuer.clone(),
        fleet: fleet.clone(),
        operations: operations.clone(),
    };
    let host = host::HostApi {
        store: store.clone(),
        fleet: fleet.clone(),
        tokens: tokens.clone(),
        operations: operations.clone(),
        context: context.clone(),
        advertised,
    };
    let user = user::UserApi {
        store: store.clone(),
        issuer,
        tokens,
        directory,
        connections,
        enrolment: certificates,
    };
    let artefact = artefact::ArtefactApi {
        artefacts: context.artefacts.clone(),
        shipped: agent_packages,
    };
    let storage = storage::StorageApi {
        context: context.clone(),
        operations: operations.clone(),
    };
    let cluster = cluster::ClusterApi {
        context,
        operations: operations.clone(),
    };
    let operation = operation::OperationApi { operations, fleet };
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let reporter = Health(health_reporter);
    reporter.set(ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(
        EnrolmentServiceServer::new(enrolment).max_decoding_message_size(enrolment::MAX_MESSAGE),
    )
    .add_service(HostServiceServer::new(host))
    .add_service(ClusterServiceServer::new(cluster))
    .add_service(OperationServiceServer::new(operation))
    .add_service(ArtefactServiceServer::new(artefact))
    .add_service(StorageServiceServer::new(storage))
    .add_service(UserServiceServer::new(user))
    .add_service(AuditServiceServer::new(audit::AuditApi { store }))
    .add_service(health)
    .add_service(reflection().build_v1().map_err(DescriptorError)?)
    .add_service(reflection().build_v1alpha().map_err(DescriptorError)?);
    Ok((routes, reporter))
}
