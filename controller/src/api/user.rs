//! People: who may use the controller.

use std::sync::Arc;

use canasta_proto::name::UserName;
use canasta_proto::pb;
use canasta_proto::pb::user_service_server::UserService;
use canasta_proto::token::Purpose;
use canasta_transport::facts::CertificateFacts;
use canasta_transport::listen::{Connections, Peer, peer_of};
use canasta_transport::roles::Role;
use canasta_transport::spiffe::Kind;
use canasta_transport::status::Fault;
use jiff::Timestamp;
use tonic::{Code, Request, Response, Status};

use super::caller::{AuditSubject, caller_of};
use super::{Answer, invalid, wire};
use crate::identity::{Directory, Enrolment, Issuer, MakeError, Tokens};
use crate::store::{Store, UserRow};

/// Adds, lists and removes users.
#[derive(Debug)]
pub(super) struct UserApi {
    pub(super) store: Store,
    pub(super) issuer: Issuer,
    pub(super) tokens: Tokens,
    pub(super) directory: Directory,
    pub(super) connections: Connections,
    pub(super) enrolment: Enrolment,
}

#[tonic::async_trait]
impl UserService for UserApi {
    async fn add_user(&self, request: Request<pb::AddUserRequest>) -> Answer<pb::AddUserResponse> {
        let request = request.into_inner();
        let name = named(&request.name)?;
        let known = self.store.user(&name).await?;
        let role = role(request.role(), known.as_ref())?;
        let now = Timestamp::now();
        self.store.put_user(&name, role, now).await?;
        self.directory.refresh(&self.store, &name).await?;
        let made = self.tokens.make(Purpose::User, name.as_str()).await;
        let made = made.map_err(|error| match error {
            MakeError::HolderGone => user_not_known(&name).into(),
            error => Status::from(error),
        })?;
        let row = known.unwrap_or(UserRow {
            name: name.clone(),
            role,
            added_at: now,
            certificate_expires_at: None,
        });
        let user = shown(UserRow { role, ..row });
        let response = pb::AddUserResponse {
            user: Some(user),
            token: made.token.reveal(),
            token_expires_at: Some(wire::time(made.expires_at)),
        };
        let mut response = about(&name, response);
        // A role that was given is worth more than a token that was renewed.
        response.extensions_mut().insert(AuditSubject(
            format!("user {name} as {role:?}").to_lowercase(),
        ));
        Ok(response)
    }

    async fn list_users(
        &self,
        _request: Request<pb::ListUsersRequest>,
    ) -> Answer<pb::ListUsersResponse> {
        let users = self.store.users().await?.into_iter().map(shown).collect();
        Ok(Response::new(pb::ListUsersResponse { users }))
    }

    async fn remove_user(
        &self,
        request: Request<pb::RemoveUserRequest>,
    ) -> Answer<pb::RemoveUserResponse> {
        let name = named(&request.into_inner().name)?;
        if !self
            .directory
            .remove(&self.store, &name, Timestamp::now())
            .await?
        {
            return Err(user_not_known(&name).into());
        }
        let gone = Kind::User(name.clone());
        let closed = self.connections.close(|identity, _| identity.kind == gone);
        tracing::info!(user = %name, closed, "removed a user");
        Ok(about(&name, pb::RemoveUserResponse {}))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Answer<pb::RenewCertificateResponse> {
        let Some((name, shown)) = user_of(&request) else {
            return Err(Fault::new(
                Code::FailedPrecondition,
                "NO_CERTIFICATE",
                "only a user with a certificate can renew it",
            )
            .hint("on the controller's socket no certificate is needed")
            .into());
        };
        let leaf = self
            .enrolment
            .renew_user(name.clone(), &shown, &request.into_inner().csr)
            .await?;
        let response = pb::RenewCertificateResponse {
            issued: Some(wire::issued(
                &self.issuer,
                name.to_string(),
                leaf.certificate,
            )),
        };
        Ok(about(&name, response))
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Answer<pb::WhoAmIResponse> {
        let caller = caller_of(&request);
        Ok(Response::new(pb::WhoAmIResponse {
            name: caller.who,
            role: pb::Role::from(caller.role).into(),
            fleet_id: self.issuer.fleet().to_string(),
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}

/// The user whose certificate this connection showed, and what is known of that certificate.
fn user_of<T>(request: &Request<T>) -> Option<(UserName, Arc<CertificateFacts>)> {
    match &peer_of(request.extensions())?.peer {
        Peer::Identified { identity, facts } => match &identity.kind {
            Kind::User(name) => Some((name.clone(), Arc::clone(facts))),
            _ => None,
        },
        _ => None,
    }
}

/// There is no such user, or not any more.
pub(super) fn user_not_known(name: &UserName) -> Fault {
    Fault::new(
        Code::NotFound,
        "USER_NOT_KNOWN",
        format!("there is no user '{name}'"),
    )
    .about(format!("user {name}"))
    .hint("`canasta user list` shows all users")
}

fn named(name: &str) -> Result<UserName, Status> {
    name.parse()
        .map_err(|rule| invalid("name", "INVALID_NAME", rule).into())
}

/// The role that was asked for; a known user that none was asked for keeps its own.
fn role(asked: pb::Role, known: Option<&UserRow>) -> Result<Role, Status> {
    match (Role::try_from(asked), known) {
        (Ok(Role::Anonymous), _) | (Err(_), None) => Err(invalid(
            "role",
            "INVALID_ROLE",
            "a role is viewer, operator or admin",
        )
        .into()),
        (Ok(role), _) => Ok(role),
        (Err(_), Some(known)) => Ok(known.role),
    }
}

fn shown(row: UserRow) -> pb::User {
    pb::User {
        name: row.name.into(),
        role: pb::Role::from(row.role).into(),
        added_at: Some(wire::time(row.added_at)),
        certificate_expires_at: row.certificate_expires_at.map(wire::time),
    }
}

fn about<T>(name: &UserName, message: T) -> Response<T> {
    let mut response = Response::new(message);
    response
        .extensions_mut()
        .insert(AuditSubject(format!("user {name}")));
    response
}
