//! First contact: the one service that callers without a certificate reach.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::pin::Pin;

use canasta_proto::address::{AGENT_PORT, Address};
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::enrolment_service_server::EnrolmentService;
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status};

use super::caller::{AuditSubject, Audited, caller_of, entry_of};
use super::{Answer, invalid, wire};
use crate::fleet::Fleet;
use crate::identity::{Enrolment, HostRequest, Issuer};
use crate::operations::Operations;
use crate::operations::locks::Wanted;
use crate::store::Join;

/// The most bytes of a message from a caller without a certificate.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// The most characters of what a machine tells of itself.
const MAX_TEXT: usize = 253;

/// Turns tokens into certificates.
#[derive(Debug)]
pub(super) struct EnrolmentApi {
    pub(super) enrolment: Enrolment,
    pub(super) issuer: Issuer,
    pub(super) fleet: Fleet,
    pub(super) operations: Operations,
}

#[tonic::async_trait]
impl EnrolmentService for EnrolmentApi {
    async fn get_clock(
        &self,
        _request: Request<pb::GetClockRequest>,
    ) -> Answer<pb::GetClockResponse> {
        Ok(Response::new(pb::GetClockResponse {
            now: Some(wire::time(jiff::Timestamp::now())),
        }))
    }

    type EnrolHostStream =
        Pin<Box<dyn Stream<Item = Result<pb::EnrolHostResponse, Status>> + Send>>;

    async fn enrol_host(
        &self,
        request: Request<pb::EnrolHostRequest>,
    ) -> Answer<Self::EnrolHostStream> {
        let from = caller_of(&request).from;
        let entry = entry_of(&request);
        let request = request.into_inner();
        let asked = HostRequest {
            secret: &request.token,
            csr: &request.csr,
            expected: expected(&request.expected_name)?,
            join: join(&request, &from)?,
            entry,
        };
        // A machine that is being changed must not be replaced by another one in the middle.
        let name = self.enrolment.host_of(&asked).await?;
        let wanted = Wanted::change_of(&name);
        let held = self.operations.hold(&wanted, "enrol-host", &from)?;
        let enrolled = self.enrolment.host(&asked).await?;
        drop(held);
        let (host, audited) = (enrolled.name, enrolled.audited);
        tracing::info!(%host, %from, "a host has enrolled");
        let key = enrolled.certificate.spki_sha256;
        let issued = event(pb::enrol_host_response::Event::Issued(wire::issued(
            &self.issuer,
            host.to_string(),
            enrolled.certificate,
        )));
        let subject = AuditSubject(format!("host {host}"));
        let fleet = self.fleet.clone();
        // The agent listens only when it has its certificate, so it is dialled when that is on its way.
        let dialled = stream::once(async move {
            let dial_back = fleet.dial_back(&host, key).await;
            event(pb::enrol_host_response::Event::DialBack(dial_back))
        });
        let events = stream::iter([issued]).chain(dialled).map(Ok);
        let mut response = Response::new(Box::pin(events) as Self::EnrolHostStream);
        response.extensions_mut().insert(subject);
        if audited {
            response.extensions_mut().insert(Audited);
        }
        Ok(response)
    }

    async fn redeem_user(
        &self,
        request: Request<pb::RedeemUserRequest>,
    ) -> Answer<pb::RedeemUserResponse> {
        let entry = entry_of(&request);
        let request = request.into_inner();
        let redeemed = self
            .enrolment
            .user(&request.token, &request.csr, &entry)
            .await;
        let (leaf, role) = redeemed?;
        let audited = leaf.audited;
        let subject = AuditSubject(format!("user {}", leaf.name));
        let mut response = Response::new(pb::RedeemUserResponse {
            issued: Some(wire::issued(
                &self.issuer,
                leaf.name.to_string(),
                leaf.certificate,
            )),
            role: pb::Role::from(role).into(),
        });
        response.extensions_mut().insert(subject);
        if audited {
            response.extensions_mut().insert(Audited);
        }
        Ok(response)
    }
}

fn event(event: pb::enrol_host_response::Event) -> pb::EnrolHostResponse {
    pb::EnrolHostResponse { event: Some(event) }
}

fn expected(name: &str) -> Result<Option<HostName>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let parsed = name.parse().map(Some);
    parsed.map_err(|rule| invalid("expected_name", "INVALID_NAME", rule).into())
}

/// What a machine tells of itself, checked.
fn join(request: &pb::EnrolHostRequest, from: &str) -> Result<Join, Status> {
    let port = if request.port == 0 {
        AGENT_PORT
    } else {
        u16::try_from(request.port)
            .ok()
            .and_then(NonZeroU16::new)
            .ok_or_else(|| invalid("port", "INVALID_PORT", "a port is a number from 1 to 65535"))?
            .get()
    };
    let advertise = match request.advertise.as_str() {
        "" => String::new(),
        text => text
            .parse::<Address>()
            .map_err(|rule| invalid("advertise", "INVALID_ADDRESS", rule))?
            .with_default_port(port),
    };
    let source = from.parse::<SocketAddr>().map_or_else(
        |_| String::new(),
        |from| Address::from_ip(from.ip().to_canonical(), port).with_default_port(port),
    );
    Ok(Join {
        advertise,
        source,
        hostname: text("hostname", &request.hostname, "._-")?,
        agent_version: text("agent_version", &request.agent_version, "._-+~")?,
    })
}

/// A text that is shown to people and stored: letters, digits and these signs, not hidden like a file. Empty is not told.
fn text(field: &str, text: &str, signs: &str) -> Result<String, Status> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || signs.as_bytes().contains(&byte);
    if text.len() > MAX_TEXT || text.starts_with('.') || !text.bytes().all(plain) {
        let signs: Vec<String> = signs.chars().map(|sign| format!("'{sign}'")).collect();
        let rule = format!(
            "at most {MAX_TEXT} letters, digits and {}, and no '.' at the beginning",
            signs.join(", ")
        );
        return Err(invalid(field, "INVALID_TEXT", rule).into());
    }
    Ok(text.to_owned())
}
