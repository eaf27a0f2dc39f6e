//! Hosts: adding, showing and removing them.

use std::collections::HashMap;

use canasta_proto::address::{AGENT_PORT, Address};
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::host_service_server::HostService;
use canasta_proto::token::Purpose;
use canasta_transport::facts::hex;
use canasta_transport::status::Fault;
use jiff::Timestamp;
use tonic::{Code, Request, Response, Status};

use super::caller::{AuditSubject, caller_of};
use super::{Answer, invalid, wire};
use crate::fleet::{Fleet, FleetError, Phase};
use crate::identity::{MakeError, Tokens};
use crate::operations::Operations;
use crate::operations::locks::Wanted;
use crate::store::{self, CertificateRow, Holder, HostRow, Store};
use crate::workflows::{Context, remove_host};

/// Adds, shows and removes hosts.
#[derive(Debug)]
pub(super) struct HostApi {
    pub(super) store: Store,
    pub(super) fleet: Fleet,
    pub(super) tokens: Tokens,
    pub(super) operations: Operations,
    pub(super) context: Context,
    /// The address that join commands tell, `HOST:PORT`.
    pub(super) advertised: String,
}

impl HostApi {
    async fn token(&self, host: &HostName) -> Result<pb::JoinToken, Status> {
        let made = self.tokens.make(Purpose::Join, host.as_str()).await;
        let made = made.map_err(|error| match error {
            MakeError::HolderGone => FleetError::NotRegistered { host: host.clone() }.into(),
            error => Status::from(error),
        })?;
        Ok(pb::JoinToken {
            token: made.token.reveal(),
            expires_at: Some(wire::time(made.expires_at)),
            controller_address: self.advertised.clone(),
        })
    }

    /// One host with what stands of it in other tables.
    async fn looked_up(&self, row: HostRow) -> Result<pb::Host, store::Error> {
        let name = row.name.as_str();
        let certificates = self.store.certificates(Holder::Agent(name)).await?;
        let own = certificates.iter().rfind(|row| !row.pending);
        let node = self.store.cluster_node(name).await?;
        Ok(self.shown(row, own, node.map(|node| (node.cluster, node.role))))
    }

    fn shown(
        &self,
        row: HostRow,
        own: Option<&CertificateRow>,
        membership: Option<(String, String)>,
    ) -> pb::Host {
        let (cluster, cluster_role) = membership.unwrap_or_default();
        let (state, since, reason) = self.standing(&row);
        pb::Host {
            state: state.into(),
            state_since: Some(wire::time(since)),
            state_reason: reason,
            addresses: row.addresses(),
            added_at: Some(wire::time(row.added_at)),
            certificate_expires_at: own.map(|row| wire::time(row.not_after)),
            public_key_sha256: own.map_or_else(String::new, |row| hex(&row.spki_sha256)),
            facts: row.facts,
            cluster,
            cluster_role,
            operation_id: self
                .operations
                .changer_of(row.name.as_str())
                .unwrap_or_default(),
            name: row.name.into(),
        }
    }

    fn standing(&self, row: &HostRow) -> (pb::HostState, Timestamp, String) {
        let Some(link) = self.fleet.state(&row.name) else {
            return (pb::HostState::WaitingForJoin, row.added_at, String::new());
        };
        let since = link.since;
        match link.phase {
            Phase::Waiting => (pb::HostState::WaitingForJoin, row.added_at, String::new()),
            Phase::NotDialled => (
                pb::HostState::NotDialled,
                since,
                "the controller has not dialled it yet since it was started".to_owned(),
            ),
            Phase::Connected => (pb::HostState::Connected, since, String::new()),
            Phase::Unreachable { reason } => (pb::HostState::Unreachable, since, reason),
            Phase::NeedsRejoin { reason } => (pb::HostState::NeedsRejoin, since, reason),
        }
    }
}

#[tonic::async_trait]
impl HostService for HostApi {
    async fn add_host(&self, request: Request<pb::AddHostRequest>) -> Answer<pb::AddHostResponse> {
        let by = caller_of(&request).who;
        let request = request.into_inner();
        let name: HostName = request
            .name
            .parse()
            .map_err(|rule| invalid("name", "INVALID_NAME", rule))?;
        let address = match request.address.as_str() {
            "" => String::new(),
            text => text
                .parse::<Address>()
                .map_err(|rule| invalid("address", "INVALID_ADDRESS", rule))?
                .with_default_port(AGENT_PORT),
        };
        // One that is just being removed is not added in the middle of it: its link would go with the old one's.
        let _held = match self.store.host(&name).await? {
            Some(_) => None,
            None => Some(
                self.operations
                    .hold(&Wanted::change_of(&name), "add-host", &by)?,
            ),
        };
        if !self
            .store
            .add_host(&name, &address, Timestamp::now())
            .await?
        {
            return Err(Fault::new(
                Code::AlreadyExists,
                "HOST_EXISTS",
                format!("host '{name}' is registered already"),
            )
            .about(format!("host {name}"))
            .hint(format!(
                "for a new join token run `canasta host token {name}`"
            ))
            .into());
        }
        let row = self.fleet.host(name.as_str()).await?;
        self.fleet.adopt(&row);
        let join = self.token(&name).await?;
        let response = pb::AddHostResponse {
            host: Some(self.looked_up(row).await?),
            join: Some(join),
        };
        Ok(about(&name, response))
    }

    async fn list_hosts(
        &self,
        _request: Request<pb::ListHostsRequest>,
    ) -> Answer<pb::ListHostsResponse> {
        let rows = self.store.hosts().await?;
        let own: HashMap<String, CertificateRow> = self
            .store
            .agent_certificates()
            .await?
            .into_iter()
            .map(|row| (row.name.clone(), row))
            .collect();
        let mut memberships = self.context.clusters.memberships().await?;
        let hosts = rows
            .into_iter()
            .map(|row| {
                let own = own.get(row.name.as_str());
                let membership = memberships.remove(row.name.as_str());
                self.shown(row, own, membership)
            })
            .collect();
        Ok(Response::new(pb::ListHostsResponse { hosts }))
    }

    async fn get_host(&self, request: Request<pb::GetHostRequest>) -> Answer<pb::GetHostResponse> {
        let request = request.into_inner();
        let row = self.fleet.host(&request.name).await?;
        let mut dial = None;
        if request.refresh {
            match self.fleet.refresh(&row.name).await {
                Ok(_) => {}
                Err(
                    FleetError::Unreachable { .. }
                    | FleetError::NeedsRejoin { .. }
                    | FleetError::NotDialled { .. }
                    | FleetError::NotJoined { .. },
                ) => {
                    let state = self.fleet.state(&row.name);
                    dial = Some(pb::DialBack {
                        reached: false,
                        attempts: state.map(|state| state.attempts).unwrap_or_default(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let row = self.fleet.host(&request.name).await?;
        Ok(Response::new(pb::GetHostResponse {
            host: Some(self.looked_up(row).await?),
            dial,
        }))
    }

    async fn remove_host(
        &self,
        request: Request<pb::RemoveHostRequest>,
    ) -> Answer<pb::RemoveHostResponse> {
        let by = caller_of(&request).who;
        let request = request.into_inner();
        let remove_host::Removed {
            host,
            cluster,
            owed,
        } = remove_host::remove(
            &self.context,
            &self.operations,
            &request.name,
            request.force,
            &by,
        )
        .await?;
        Ok(about(&host, pb::RemoveHostResponse { cluster, owed }))
    }

    async fn create_host_token(
        &self,
        request: Request<pb::CreateHostTokenRequest>,
    ) -> Answer<pb::CreateHostTokenResponse> {
        let by = caller_of(&request).who;
        let host = self.fleet.host(&request.into_inner().name).await?.name;
        // Another machine could join under the name of one that is being changed.
        let wanted = Wanted::change_of(&host);
        let _held = self.operations.hold(&wanted, "create-host-token", &by)?;
        let join = Some(self.token(&host).await?);
        Ok(about(&host, pb::CreateHostTokenResponse { join }))
    }
}

fn about<T>(host: &HostName, message: T) -> Response<T> {
    let mut response = Response::new(message);
    response
        .extensions_mut()
        .insert(AuditSubject(format!("host {host}")));
    response
}
