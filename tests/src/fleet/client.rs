//! A caller of the controller: every service over one channel, and what tests ask again and again.

use canasta_proto::pb;
use canasta_proto::pb::artefact_service_client::ArtefactServiceClient;
use canasta_proto::pb::audit_service_client::AuditServiceClient;
use canasta_proto::pb::cluster_service_client::ClusterServiceClient;
use canasta_proto::pb::enrolment_service_client::EnrolmentServiceClient;
use canasta_proto::pb::host_service_client::HostServiceClient;
use canasta_proto::pb::operation_event::Event;
use canasta_proto::pb::operation_service_client::OperationServiceClient;
use canasta_proto::pb::storage_service_client::StorageServiceClient;
use canasta_proto::pb::user_service_client::UserServiceClient;
use canasta_transport::status::Fault;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::program;

/// A caller of the controller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Calls through this channel.
    pub fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// Hosts.
    pub fn hosts(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    /// Clusters.
    pub fn clusters(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    /// Operations.
    pub fn operations(&self) -> OperationServiceClient<Channel> {
        OperationServiceClient::new(self.channel.clone())
    }

    /// Artefacts.
    pub fn artefacts(&self) -> ArtefactServiceClient<Channel> {
        ArtefactServiceClient::new(self.channel.clone())
    }

    /// Storage.
    pub fn storage(&self) -> StorageServiceClient<Channel> {
        StorageServiceClient::new(self.channel.clone())
    }

    /// Users.
    pub fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.channel.clone())
    }

    /// The audit trail.
    pub fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone())
    }

    /// First contact.
    pub fn enrolment(&self) -> EnrolmentServiceClient<Channel> {
        EnrolmentServiceClient::new(self.channel.clone())
    }

    /// Adds a host and returns its join token.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer has no token.
    pub async fn add_host(&self, name: &str) -> Result<String, Fault> {
        let request = pb::AddHostRequest {
            name: name.to_owned(),
            ..pb::AddHostRequest::default()
        };
        let answer = self.hosts().add_host(request).await.map_err(fault)?;
        Ok(answer.into_inner().join.expect("a token").token)
    }

    /// A new join token for a known host.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer has no token.
    pub async fn host_token(&self, name: &str) -> Result<String, Fault> {
        let request = pb::CreateHostTokenRequest {
            name: name.to_owned(),
        };
        let answer = self
            .hosts()
            .create_host_token(request)
            .await
            .map_err(fault)?;
        Ok(answer.into_inner().join.expect("a token").token)
    }

    /// A host; with `refresh`, its agent is asked now.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn host(&self, name: &str, refresh: bool) -> Result<pb::Host, Fault> {
        let request = pb::GetHostRequest {
            name: name.to_owned(),
            refresh,
        };
        let answer = self.hosts().get_host(request).await.map_err(fault)?;
        Ok(answer.into_inner().host.expect("a host"))
    }

    /// Starts or plans an install.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer has no plan.
    pub async fn install(
        &self,
        request: pb::InstallControlPlaneRequest,
    ) -> Result<(String, pb::InstallPlan), Fault> {
        let answer = self
            .clusters()
            .install_control_plane(request)
            .await
            .map_err(fault)?;
        let answer = answer.into_inner();
        Ok((answer.operation_id, answer.plan.expect("a plan")))
    }

    /// Starts or plans an adoption.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer has no plan.
    pub async fn adopt(
        &self,
        request: pb::AdoptControlPlaneRequest,
    ) -> Result<(String, pb::InstallPlan), Fault> {
        let answer = self
            .clusters()
            .adopt_control_plane(request)
            .await
            .map_err(fault)?;
        let answer = answer.into_inner();
        Ok((answer.operation_id, answer.plan.expect("a plan")))
    }

    /// Starts the join of a worker, and tells the operation.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer is of no host.
    pub async fn join_worker(&self, host: &str, control_plane: &str) -> Result<String, Fault> {
        let request = pb::JoinWorkersRequest {
            hosts: vec![host.to_owned()],
            control_plane: control_plane.to_owned(),
            ..pb::JoinWorkersRequest::default()
        };
        let answer = self.clusters().join_workers(request).await.map_err(fault)?;
        let join = answer.into_inner().joins.pop().expect("the join of a host");
        match join.error {
            Some(report) => Err(Fault::from_report(Code::FailedPrecondition, &report)),
            None => Ok(join.operation_id),
        }
    }

    /// Starts an uninstall; the operation is empty where nothing is to be done. Forced, it destroys what the plan tells.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer has no plan.
    pub async fn uninstall(
        &self,
        host: &str,
        force: bool,
    ) -> Result<(String, pb::UninstallPlan), Fault> {
        let ask = async |dry_run, discard| {
            let request = pb::UninstallK3sRequest {
                host: host.to_owned(),
                force,
                dry_run,
                discard,
            };
            let answer = self.clusters().uninstall_k3s(request).await;
            Ok::<_, Fault>(answer.map_err(fault)?.into_inner())
        };
        let planned = ask(true, Vec::new()).await?.plan.unwrap_or_default();
        let answer = ask(false, planned.discard).await?;
        Ok((answer.operation_id, answer.plan.expect("a plan")))
    }

    /// Starts a drain, and tells the operation.
    ///
    /// # Errors
    /// What the controller refuses with.
    pub async fn drain(&self, node: &str) -> Result<String, Fault> {
        let request = pb::DrainNodeRequest {
            node: node.to_owned(),
            ..pb::DrainNodeRequest::default()
        };
        let answer = self.clusters().drain_node(request).await.map_err(fault)?;
        Ok(answer.into_inner().operation_id)
    }

    /// Starts a set-up of shared storage on an NFS share.
    ///
    /// # Errors
    /// What the controller refuses with.
    pub async fn setup_nfs(
        &self,
        request: pb::SetupNfsRequest,
    ) -> Result<pb::SetupNfsResponse, Fault> {
        let answer = self.storage().setup_nfs(request).await.map_err(fault)?;
        Ok(answer.into_inner())
    }

    /// Starts a removal of shared storage.
    ///
    /// # Errors
    /// What the controller refuses with.
    pub async fn remove_storage(
        &self,
        request: pb::RemoveStorageRequest,
    ) -> Result<pb::RemoveStorageResponse, Fault> {
        let answer = self
            .storage()
            .remove_storage(request)
            .await
            .map_err(fault)?;
        Ok(answer.into_inner())
    }

    /// Starts a check of the shared storage of a cluster; the only one where none is named.
    ///
    /// # Errors
    /// What the controller refuses with.
    pub async fn check_storage(&self, cluster: &str) -> Result<pb::CheckStorageResponse, Fault> {
        let request = pb::CheckStorageRequest {
            cluster: cluster.to_owned(),
        };
        let answer = self.storage().check_storage(request).await.map_err(fault)?;
        Ok(answer.into_inner())
    }

    /// Shows an operation.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn operation(&self, id: &str) -> Result<pb::Operation, Fault> {
        let request = pb::GetOperationRequest { id: id.to_owned() };
        let answer = self
            .operations()
            .get_operation(request)
            .await
            .map_err(fault)?;
        Ok(answer.into_inner().operation.expect("an operation"))
    }

    /// Follows an operation to its end: all events after a number. A controller that goes away ends it too.
    ///
    /// # Errors
    /// How the stream ended, when it ended before the operation did.
    pub async fn events(&self, id: &str, after_seq: u64) -> Result<Vec<pb::OperationEvent>, Fault> {
        let request = pb::WatchOperationRequest {
            id: id.to_owned(),
            after_seq,
        };
        let mut stream = self
            .operations()
            .watch_operation(request)
            .await
            .map_err(fault)?
            .into_inner();
        let mut events = Vec::new();
        let end = tokio::time::Instant::now() + super::DEADLINE;
        loop {
            let next = tokio::time::timeout_at(end, stream.message()).await;
            let Ok(message) = next else {
                panic!(
                    "operation {id} does not end; the last event is {:#?}",
                    events.last()
                );
            };
            match message.map_err(fault)? {
                Some(message) => events.extend(message.event),
                None => break,
            }
        }
        Ok(events)
    }

    /// Waits for the end of an operation and returns it.
    ///
    /// # Panics
    /// When it can't be followed, or its events have a gap.
    pub async fn ended(&self, id: &str) -> pb::Operation {
        let events = self
            .events(id, 0)
            .await
            .expect("the operation can be followed");
        check_events(&events);
        self.operation(id).await.expect("the operation is known")
    }

    /// Imports a k3s of this version.
    ///
    /// # Errors
    /// What the controller refuses with.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn import(&self, version: &str, file: &[u8]) -> Result<pb::Artefact, Fault> {
        let header = pb::ImportHeader {
            name: "k3s".to_owned(),
            version: version.to_owned(),
            sha256: program::sha256(file),
            size: file.len() as u64,
            arch: std::env::consts::ARCH.to_owned(),
        };
        let mut parts = vec![pb::import_artefact_request::Part::Header(header)];
        let chunks = file.chunks(256 * 1024);
        parts.extend(
            chunks.map(|chunk| pb::import_artefact_request::Part::Chunk(chunk.to_vec().into())),
        );
        let messages = parts
            .into_iter()
            .map(|part| pb::ImportArtefactRequest { part: Some(part) });
        let answer = self
            .artefacts()
            .import_artefact(tokio_stream::iter(messages))
            .await;
        Ok(answer
            .map_err(fault)?
            .into_inner()
            .artefact
            .expect("an artefact"))
    }

    /// The newest rows of the audit trail.
    ///
    /// # Panics
    /// When it can't be read.
    pub async fn audit_rows(&self) -> Vec<pb::AuditRow> {
        let request = pb::ListAuditRequest { limit: 200 };
        let answer = self.audit().list_audit(request).await;
        answer.expect("the audit trail").into_inner().rows
    }
}

/// Reads the fault out of a status.
pub fn fault(status: Status) -> Fault {
    Fault::from_status(&status)
}

/// An install with everything at its default.
pub fn install_on(host: &str) -> pb::InstallControlPlaneRequest {
    pb::InstallControlPlaneRequest {
        host: host.to_owned(),
        ..pb::InstallControlPlaneRequest::default()
    }
}

/// Checks that the events are those of a whole operation: the plan first, the end last, each number once and none left out.
///
/// # Panics
/// When they are not.
pub fn check_events(events: &[pb::OperationEvent]) {
    let first = events.first().and_then(|event| event.event.as_ref());
    assert!(
        matches!(first, Some(Event::Planned(_))),
        "the first event is {first:?}"
    );
    let last = events.last().and_then(|event| event.event.as_ref());
    assert!(
        matches!(last, Some(Event::Ended(_))),
        "the last event is {last:?}"
    );
    let stored = events
        .iter()
        .filter(|event| !matches!(event.event, Some(Event::Progress(_))));
    for (expected, event) in (1..).zip(stored) {
        assert_eq!(event.seq, expected, "{event:?}");
    }
}
