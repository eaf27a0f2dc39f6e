//! `AgentService`, for the fleet's controller alone: the handshake lets nobody else in. Tonic's server types stay here.
//!
//! Every call is the same three lines: check what came in (`check`), have it done elsewhere, turn what went wrong into
//! a status ([`error`]).

mod artefact;
mod check;
pub mod error;
mod join;
mod probes;
mod roles;
mod services;
mod storage;

use std::pin::Pin;
use std::sync::Arc;

use canasta_host::journal::Since;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_server::{AgentService, AgentServiceServer};
use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::agent::Core;
use crate::k3s::api::administrator;
use crate::k3s::paths::{AGENT_UNIT, SERVER_UNIT};
use crate::k3s::uninstall;
use crate::tasks::bound_evidence;
use crate::{preflight, status, tunnel};
use error::Error;

/// The largest message in either direction, in bytes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The unit of this program.
const OWN_UNIT: &str = "canasta-agent.service";
/// The most bytes of journal lines in one answer.
const JOURNAL_BYTES: usize = 1024 * 1024;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The services of the agent's port: its own and the standard health service.
pub(crate) async fn services(
    core: Arc<Core>,
) -> services::Services<impl tonic_health::pb::health_server::Health> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AgentServiceServer<Api>>().await;
    core.life
        .spawn(services::leave(reporter, Arc::clone(&core)));
    let agent = AgentServiceServer::new(Api { core })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    services::Services::new(agent, health)
}

/// The calls.
#[derive(Debug)]
pub(crate) struct Api {
    core: Arc<Core>,
}

#[tonic::async_trait]
impl AgentService for Api {
    type WatchStatusStream = Answers<pb::WatchStatusResponse>;
    type WatchTaskStream = Answers<pb::WatchTaskResponse>;
    type TunnelStream = Answers<pb::TunnelResponse>;
    type ReceiveProbesStream = Answers<pb::ReceiveProbesResponse>;

    async fn get_facts(
        &self,
        _request: Request<pb::GetFactsRequest>,
    ) -> Result<Response<pb::GetFactsResponse>, Status> {
        let facts = self.core.facts.collect().await;
        Ok(Response::new(pb::GetFactsResponse { facts: Some(facts) }))
    }

    async fn watch_status(
        &self,
        _request: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let statuses = status::watch(Arc::clone(&self.core));
        Ok(Response::new(ReceiverStream::new(statuses).map(Ok).boxed()))
    }

    async fn preflight(
        &self,
        request: Request<pb::PreflightRequest>,
    ) -> Result<Response<pb::PreflightResponse>, Status> {
        let role = check::role("role", request.into_inner().role)?;
        let findings = preflight::preflight(&self.core.host, role).await;
        let facts = self.core.facts.collect().await;
        Ok(Response::new(pb::PreflightResponse {
            findings,
            facts: Some(facts),
        }))
    }

    async fn start_task(
        &self,
        request: Request<pb::StartTaskRequest>,
    ) -> Result<Response<pb::StartTaskResponse>, Status> {
        let (id, work) = check::task(&self.core, request.into_inner())?;
        let started = self.core.tasks.start(id, work).await.map_err(Error::from)?;
        Ok(Response::new(pb::StartTaskResponse { started }))
    }

    async fn watch_task(
        &self,
        request: Request<pb::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let pb::WatchTaskRequest { task_id, after_seq } = request.into_inner();
        let id = check::task_id(&task_id)?;
        let follower = self
            .core
            .tasks
            .follow(&id, after_seq)
            .await
            .map_err(Error::from)?;
        let events = futures_util::stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(event) => event.map(|event| (Ok(event), Some(follower))),
                Err(error) => Some((Err(Error::from(error).into()), None)),
            }
        });
        Ok(Response::new(events.boxed()))
    }

    async fn stat_artefact(
        &self,
        request: Request<pb::StatArtefactRequest>,
    ) -> Result<Response<pb::StatArtefactResponse>, Status> {
        let pb::StatArtefactRequest { sha256, size } = request.into_inner();
        let (sha256, size) = check::artefact(&sha256, size)?;
        let held = self
            .core
            .artefacts
            .stat(&sha256, size)
            .await
            .map_err(Error::from)?;
        Ok(Response::new(pb::StatArtefactResponse {
            complete: held.complete,
            offset: held.offset,
        }))
    }

    async fn push_artefact(
        &self,
        request: Request<Streaming<pb::PushArtefactRequest>>,
    ) -> Result<Response<pb::PushArtefactResponse>, Status> {
        let size = artefact::take(&self.core, request.into_inner()).await?;
        Ok(Response::new(pb::PushArtefactResponse { size }))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<pb::TunnelRequest>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let from_caller = request.into_inner().map(|message| {
            message
                .map_err(Error::Call)
                .and_then(|message| check::tunnel_data(message.data))
        });
        let back = tunnel::open(&self.core.host, Box::pin(from_caller), &self.core.life)
            .await
            .map_err(Error::from)?;
        let answers = ReceiverStream::new(back).map(|data| {
            let data = data.map_err(Error::from)?;
            Ok(pb::TunnelResponse { data })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn get_api_credentials(
        &self,
        _request: Request<pb::GetApiCredentialsRequest>,
    ) -> Result<Response<pb::GetApiCredentialsResponse>, Status> {
        let credentials = administrator(&self.core.host).await.map_err(Error::from)?;
        Ok(Response::new(credentials))
    }

    async fn get_journal(
        &self,
        request: Request<pb::GetJournalRequest>,
    ) -> Result<Response<pb::GetJournalResponse>, Status> {
        let (unit, lines) = check::journal(request.into_inner())?;
        let evidence = self.journal(unit, lines).await?;
        Ok(Response::new(pb::GetJournalResponse {
            evidence: Some(evidence),
        }))
    }

    async fn create_csr(
        &self,
        _request: Request<pb::CreateCsrRequest>,
    ) -> Result<Response<pb::CreateCsrResponse>, Status> {
        let csr = self.core.identity.create_csr().await.map_err(Error::from)?;
        Ok(Response::new(pb::CreateCsrResponse { csr: csr.into() }))
    }

    async fn install_certificate(
        &self,
        request: Request<pb::InstallCertificateRequest>,
    ) -> Result<Response<pb::InstallCertificateResponse>, Status> {
        let pb::InstallCertificateRequest {
            certificate,
            ca_certificate,
        } = request.into_inner();
        let leaf = check::certificate("certificate", &certificate)?;
        let ca = check::certificate("ca_certificate", &ca_certificate)?;
        let now = self.core.host.machine.now();
        self.core
            .identity
            .install(leaf, ca, now)
            .await
            .map_err(Error::from)?;
        Ok(Response::new(pb::InstallCertificateResponse {}))
    }

    async fn create_join_credential(
        &self,
        request: Request<pb::CreateJoinCredentialRequest>,
    ) -> Result<Response<pb::CreateJoinCredentialResponse>, Status> {
        let created = join::create(&self.core, request.into_inner()).await?;
        Ok(Response::new(created))
    }

    async fn store_join_credential(
        &self,
        request: Request<pb::StoreJoinCredentialRequest>,
    ) -> Result<Response<pb::StoreJoinCredentialResponse>, Status> {
        let stored = join::store(&self.core, request.into_inner()).await?;
        Ok(Response::new(stored))
    }

    async fn receive_probes(
        &self,
        request: Request<pb::ReceiveProbesRequest>,
    ) -> Result<Response<Self::ReceiveProbesStream>, Status> {
        let answers = probes::listen(&self.core, request.into_inner())?;
        Ok(Response::new(answers))
    }

    async fn send_probes(
        &self,
        request: Request<pb::SendProbesRequest>,
    ) -> Result<Response<pb::SendProbesResponse>, Status> {
        let results = probes::probe(&self.core, request.into_inner()).await?;
        Ok(Response::new(results))
    }

    async fn inspect_uninstall(
        &self,
        request: Request<pb::InspectUninstallRequest>,
    ) -> Result<Response<pb::InspectUninstallResponse>, Status> {
        let asked = request.into_inner().local_paths;
        check::local_paths("local_paths", &asked)?;
        let k3s = self.core.facts.collect().await.k3s;
        let found = uninstall::inspect(&self.core.host, k3s, &asked)
            .await
            .map_err(join::refused)?;
        Ok(Response::new(found))
    }

    async fn list_exports(
        &self,
        _request: Request<pb::ListExportsRequest>,
    ) -> Result<Response<pb::ListExportsResponse>, Status> {
        let listed = storage::list(&self.core).await?;
        Ok(Response::new(listed))
    }

    async fn inspect_export(
        &self,
        request: Request<pb::InspectExportRequest>,
    ) -> Result<Response<pb::InspectExportResponse>, Status> {
        let found = storage::inspect(&self.core, request.into_inner()).await?;
        Ok(Response::new(found))
    }
}

impl Api {
    async fn journal(&self, unit: pb::JournalUnit, lines: usize) -> Result<pb::Evidence, Error> {
        let host = &self.core.host;
        let unit = match unit {
            pb::JournalUnit::CanastaAgent => OWN_UNIT,
            _ => match host.systemd.unit(AGENT_UNIT).await {
                Ok(unit) if unit.is_loaded() => AGENT_UNIT,
                _ => SERVER_UNIT,
            },
        };
        let found = host.journal.tail(unit, lines, Since::Start).await?;
        let mut evidence = pb::Evidence {
            title: format!("journal of {unit}"),
            lines: found.into_iter().map(|line| line.message).collect(),
            source: "agent".to_owned(),
            at: Some(host.machine.now().into()),
        };
        bound_evidence(&mut evidence, &mut JOURNAL_BYTES.clone());
        Ok(evidence)
    }
}
