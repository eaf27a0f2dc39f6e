//! Renewing the certificate of an agent, which is the controller's work: ask for a request, sign it, install the answer.

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_transport::keys::{KeyError, PublicKey};
use tokio::time::timeout;
use tonic::transport::Channel;

use super::Context;
use crate::identity::IssueError;
use crate::store::{self, Recorded, Shown};

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewError {
    /// The agent answered with an error.
    #[error("failed to renew the certificate: the agent refused to {what}")]
    Agent {
        /// What it was asked to do.
        what: &'static str,
        /// Its answer.
        source: Box<tonic::Status>,
    },
    /// The agent took too long.
    #[error("failed to renew the certificate: the agent did not answer in time")]
    TimedOut,
    /// Its request is of no use.
    #[error("failed to renew the certificate: the agent's request is of no use")]
    Request(#[source] KeyError),
    /// No certificate could be issued.
    #[error("failed to renew the certificate")]
    Issue(#[source] IssueError),
    /// Too many were made that the agent was not seen with.
    #[error(
        "failed to renew the certificate: too many renewed ones wait for the agent to show them"
    )]
    TooMany,
    /// The host was removed meanwhile.
    #[error("failed to renew the certificate: the host has been removed")]
    Removed,
    /// It could not be recorded.
    #[error("failed to record the renewed certificate")]
    Store(#[source] store::Error),
}

/// Renews the certificate of the agent behind `client`, which showed `shown` in the handshake. Until the agent was seen with the new one, both are on record.
pub(super) async fn renew(
    context: &Context,
    host: &HostName,
    client: &mut AgentServiceClient<Channel>,
    shown: &Shown,
) -> Result<(), RenewError> {
    let limit = context.timings.request;
    let refused = |what| {
        move |source| RenewError::Agent {
            what,
            source: Box::new(source),
        }
    };
    let csr = timeout(limit, client.create_csr(pb::CreateCsrRequest {}))
        .await
        .map_err(|_| RenewError::TimedOut)?
        .map_err(refused("make a request"))?
        .into_inner()
        .csr;
    let key = PublicKey::from_csr(&csr).map_err(RenewError::Request)?;
    let holder = context.issuer.fleet().agent(host.clone());
    let mut row = context
        .issuer
        .issue(&key, holder)
        .map_err(RenewError::Issue)?;
    row.pending = true;
    let recorded = context.store.record_renewal(&row, shown).await;
    match recorded.map_err(RenewError::Store)? {
        Some(Recorded::Done) => {}
        Some(_) => return Err(RenewError::Removed),
        None => return Err(RenewError::TooMany),
    }
    let request = pb::InstallCertificateRequest {
        certificate: row.der.into(),
        ca_certificate: context.issuer.ca_certificate().to_vec().into(),
    };
    timeout(limit, client.install_certificate(request))
        .await
        .map_err(|_| RenewError::TimedOut)?
        .map_err(refused("install the certificate"))?;
    tracing::info!(%host, serial = row.serial, "renewed the certificate of an agent");
    Ok(())
}
