//! What stands before every call: who calls, may it, and a row in the audit trail for whatever changes something.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use canasta_transport::facts::CertificateFacts;
use canasta_transport::limit::{Limit, LogLimit, Rate, SourceLimit};
use canasta_transport::listen::{Peer, PeerInfo, RefusalReason, RefusedHandshake};
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::roles::{Role, Rule, rule_for};
use canasta_transport::spiffe::{Identity, Kind};
use canasta_transport::status::{Fault, code_name};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use jiff::Timestamp;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::caller::{AuditSubject, Audited, Caller, OperationStarted};
use super::ending::ending_with;
use super::roles::TABLE;
use crate::identity::Directory;
use crate::logging::line;
use crate::store::{AuditEntry, Store};

/// Calls of one address without a certificate.
const ANONYMOUS: Rate = Rate {
    burst: 10.0,
    per_second: 1.0,
};
/// Rows and lines about callers that were refused. Those about members of the fleet and those about strangers have a
/// limit each: who has no certificate can't crowd out what is told of those who have one.
const REFUSED: Rate = Rate {
    burst: 60.0,
    per_second: 1.0,
};

/// The gate. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    directory: Directory,
    anonymous: SourceLimit,
    refused_members: LogLimit,
    refused_strangers: Limit,
    lines_of_strangers: LogLimit,
    refused_handshakes: AtomicU64,
}

impl Gate {
    /// A gate that asks this directory and writes to this store.
    pub fn new(store: Store, directory: Directory) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                directory,
                anonymous: SourceLimit::new(ANONYMOUS),
                refused_members: LogLimit::new(REFUSED),
                refused_strangers: Limit::new(REFUSED),
                lines_of_strangers: LogLimit::new(REFUSED),
                refused_handshakes: AtomicU64::new(0),
            }),
        }
    }

    /// Judges a user in the handshake.
    ///
    /// # Errors
    /// When its certificate is revoked or its holder removed.
    pub fn admit(
        &self,
        identity: &Identity,
        facts: &CertificateFacts,
    ) -> Result<(), HandshakeRefusal> {
        let known = match &identity.kind {
            Kind::User(name) => self.inner.directory.role(name, &facts.serial).is_some(),
            _ => false,
        };
        if known {
            Ok(())
        } else {
            Err(HandshakeRefusal::Revoked {
                presented: identity.clone(),
            })
        }
    }

    /// Logs, counts and audits a caller that did not get through the handshake. Must be called on a tokio runtime.
    pub fn refused_handshake(&self, refused: &RefusedHandshake) {
        self.inner
            .refused_handshakes
            .fetch_add(1, Ordering::Relaxed);
        let RefusedHandshake {
            remote,
            identity,
            reason,
        } = refused;
        let Some(identity) = identity else {
            // Strangers are in the log alone: anyone can make as many rows of them as he likes.
            if let Some(left_out) = self.inner.lines_of_strangers.take() {
                match reason {
                    RefusalReason::Refused(_) => {
                        tracing::warn!(%remote, left_out, %reason, "refused a stranger");
                    }
                    _ => {
                        tracing::info!(%remote, left_out, %reason, "a stranger did not finish the handshake");
                    }
                }
            }
            return;
        };
        let who = identity.kind.to_string();
        if let Some(left_out) = self.inner.refused_members.take() {
            tracing::warn!(%remote, who, left_out, %reason, "refused a caller");
            let gate = self.clone();
            let entry = AuditEntry {
                who,
                from: remote.clone(),
                what: "handshake".to_owned(),
            };
            let outcome = format!("refused: {reason}");
            tokio::spawn(async move { gate.inner.note_refused(&entry, &outcome).await });
        }
    }

    /// How many callers did not get through the handshake since the start.
    pub fn refused_handshakes(&self) -> u64 {
        self.inner.refused_handshakes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Inner {
    /// Who calls, by the connection that the call came over.
    async fn caller(&self, peer: &PeerInfo) -> Result<Caller, Box<Fault>> {
        let caller = |role| Caller {
            who: peer.peer.to_string(),
            from: peer.remote.clone(),
            role,
        };
        match &peer.peer {
            Peer::Anonymous => Ok(caller(Role::Anonymous)),
            Peer::Local { .. } => Ok(caller(Role::Admin)),
            Peer::Identified { identity, facts } => {
                let Kind::User(name) = &identity.kind else {
                    return Err(not_admitted(identity).into());
                };
                if facts.not_after <= Timestamp::now() {
                    return Err(expired(name.as_str(), facts.not_after).into());
                }
                let role = self
                    .directory
                    .role(name, &facts.serial)
                    .ok_or_else(|| not_admitted(identity))?;
                if self.directory.first_use(name, &facts.serial) {
                    let seen = self.store.user_seen(&facts.serial, Timestamp::now()).await;
                    seen.map_err(Fault::from)?;
                }
                Ok(caller(role))
            }
        }
    }

    /// Whether the caller may make the call.
    fn judge(&self, caller: &Caller, method: &str) -> Result<&'static Rule, Box<Fault>> {
        if caller.role == Role::Anonymous
            && let Err(pause) = self.anonymous.take(&caller.from)
        {
            return Err(Fault::new(
                Code::ResourceExhausted,
                "TOO_MANY_CALLS",
                "too many calls without a certificate from this address",
            )
            .hint("wait some seconds and try again")
            .retry_after(pause)
            .into());
        }
        match rule_for(TABLE, method) {
            Some(rule) if caller.role >= rule.least => Ok(rule),
            Some(rule) => Err(denied(caller, rule).into()),
            None if caller.role == Role::Anonymous => Err(Fault::new(
                Code::PermissionDenied,
                "NO_CERTIFICATE",
                "a caller without a certificate may enrol and redeem tokens only",
            )
            .into()),
            None => Err(Fault::new(
                Code::Unimplemented,
                "UNKNOWN_CALL",
                "this controller does not know that call",
            )
            .hint("use a CLI of the controller's version")
            .into()),
        }
    }

    async fn note_refused(&self, entry: &AuditEntry, outcome: &str) {
        if let Err(error) = self.store.refused_audit(entry, "", outcome).await {
            let error = line(&error);
            tracing::error!(error, "failed to write the audit trail");
        }
    }

    /// Lets a call through, with a row in the audit trail when it changes something.
    async fn pass<S>(
        self: Arc<Self>,
        mut service: S,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let Some(peer) = request.extensions().get::<PeerInfo>() else {
            return Err(Status::internal("the connection of this call is not known"));
        };
        let method = request.uri().path().to_owned();
        let entry = AuditEntry {
            who: peer.peer.to_string(),
            from: peer.remote.clone(),
            what: what(&method),
        };
        let unknown = matches!(peer.peer, Peer::Anonymous);
        let judged = match self.caller(peer).await {
            Ok(caller) => self.judge(&caller, &method).map(|rule| (caller, rule)),
            Err(fault) => Err(fault),
        };
        let (caller, rule) = match judged {
            Ok(passed) => passed,
            Err(fault) => {
                self.refused(&entry, unknown, &fault).await;
                return Err((*fault).into());
            }
        };
        request.extensions_mut().insert(caller);
        if rule.mutates && unknown {
            return self.pass_stranger(service, request, entry).await;
        }
        if !rule.mutates {
            let Ok(response) = service.call(request).await;
            return Ok(response);
        }
        let row = self.store.begin_audit(&entry).await?;
        // Goes on when the caller goes away: what was begun is brought to an end, and so is its row.
        let finished = tokio::spawn(async move {
            let Ok(mut response) = service.call(request).await;
            self.end(row, &mut response).await;
            response
        });
        finished
            .await
            .map_err(|_| Status::internal("the call was cut off"))
    }

    /// Logs and audits a call that was refused, each as far as the limits allow.
    async fn refused(&self, entry: &AuditEntry, unknown: bool, fault: &Fault) {
        let audited = matches!(fault.code, Code::PermissionDenied | Code::Unauthenticated);
        let (line, row) = if unknown {
            let row = audited && self.refused_strangers.take();
            (self.lines_of_strangers.take(), row)
        } else {
            let line = self.refused_members.take();
            (line, audited && line.is_some())
        };
        if let Some(left_out) = line {
            let AuditEntry { who, from, what } = entry;
            tracing::info!(who, from, what, left_out, %fault, "refused a call");
        }
        if row {
            self.note_refused(entry, &outcome(fault)).await;
        }
    }

    /// Lets a caller without a certificate through. The row about a change is written with the change itself; what does
    /// not succeed is audited at a bounded rate: anyone could fill the disk and push the rows that matter out of sight.
    async fn pass_stranger<S>(
        self: Arc<Self>,
        mut service: S,
        mut request: Request<Body>,
        entry: AuditEntry,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        request.extensions_mut().insert(entry.clone());
        let finished = tokio::spawn(async move {
            let Ok(mut response) = service.call(request).await;
            if response.extensions_mut().remove::<Audited>().is_some() {
                return response;
            }
            let status = Status::from_header_map(response.headers());
            let failed = status.is_some_and(|status| status.code() != Code::Ok);
            if !failed || self.refused_strangers.take() {
                match self.store.begin_audit(&entry).await {
                    Ok(row) => self.end(row, &mut response).await,
                    Err(error) => {
                        tracing::error!(error = line(&error), "failed to write the audit trail");
                    }
                }
            }
            response
        });
        finished
            .await
            .map_err(|_| Status::internal("the call was cut off"))
    }

    async fn end(&self, row: i64, response: &mut Response<Body>) {
        let status = Status::from_header_map(response.headers());
        let (subject, outcome) = match status {
            Some(status) if status.code() != Code::Ok => {
                let fault = Fault::from_status(&status);
                let outcome = outcome(&fault);
                (fault.subject, outcome)
            }
            _ => (String::new(), "ok".to_owned()),
        };
        let extensions = response.extensions_mut();
        let subject = extensions
            .remove::<AuditSubject>()
            .map_or(subject, |AuditSubject(subject)| subject);
        let operation = extensions
            .remove::<OperationStarted>()
            .map_or_else(String::new, |OperationStarted(id)| id);
        let ended = self
            .store
            .end_audit(row, &subject, &operation, &outcome)
            .await;
        if let Err(error) = ended {
            let error = line(&error);
            tracing::error!(error, row, "failed to end a row of the audit trail");
        }
    }
}

/// `HostService/AddHost` for `/canasta.fleet.v1.HostService/AddHost`, cut to a bound: the path is the caller's.
fn what(method: &str) -> String {
    let known = rule_for(TABLE, method).map(|rule| rule.method);
    let path = known.unwrap_or("unknown call").trim_start_matches('/');
    path.strip_prefix("canasta.fleet.v1.")
        .unwrap_or(path)
        .to_owned()
}

fn outcome(fault: &Fault) -> String {
    format!("{} {}", code_name(fault.code), fault.reason)
}

fn denied(caller: &Caller, rule: &Rule) -> Fault {
    let call = what(rule.method);
    if caller.role == Role::Anonymous {
        return Fault::new(
            Code::PermissionDenied,
            "NO_CERTIFICATE",
            format!("{call} needs the role {}, and this caller has shown no certificate", rule.least),
        )
        .hint("an admin runs `canasta user add NAME --role ROLE`; redeem that token with `canasta context add`");
    }
    Fault::new(
        Code::PermissionDenied,
        "ROLE_TOO_LOW",
        format!(
            "{call} needs the role {}, and {} has the role {}",
            rule.least, caller.who, caller.role
        ),
    )
    .hint("ask an admin of the fleet")
}

fn not_admitted(identity: &Identity) -> Fault {
    Fault::new(
        Code::Unauthenticated,
        "REVOKED",
        format!("{} has been removed or has no business here", identity.kind),
    )
}

fn expired(name: &str, at: Timestamp) -> Fault {
    Fault::new(
        Code::Unauthenticated,
        "CERTIFICATE_EXPIRED",
        format!("the certificate of user {name} expired at {at}"),
    )
    .hint(format!(
        "an admin runs `canasta user add {name}` for a new token"
    ))
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, service: S) -> Gated<S> {
        Gated {
            inner: self.inner.clone(),
            service,
        }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Gated<S> {
    inner: Arc<Inner>,
    service: S,
}

impl<S> fmt::Debug for Gated<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gated").finish_non_exhaustive()
    }
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone that was polled to readiness does the call.
        let spare = self.service.clone();
        let service = std::mem::replace(&mut self.service, spare);
        let closed = request
            .extensions()
            .get::<PeerInfo>()
            .map(|peer| peer.closed().clone());
        let passing = self.inner.clone().pass(service, request);
        Box::pin(async move {
            let response = passing.await.unwrap_or_else(Status::into_http);
            Ok(match closed {
                Some(closed) => response.map(|body| ending_with(body, &closed)),
                None => response,
            })
        })
    }
}

#[cfg(test)]
mod tests;
