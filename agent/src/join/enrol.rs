//! The enrolment itself: pinned first contact, clocks, then the token; the certificate; and whether the controller
//! reached this node.
//!
//! The token leaves this machine only after the peer has proved to be the controller behind the token's pin, the clocks
//! agree and the port is open. The key is on disk before that, so a join that was cut off can be repeated.

use std::sync::Arc;
use std::time::SystemTime;

use canasta_proto::address::{Address, CONTROLLER_PORT};
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::enrol_host_response::Event;
use canasta_proto::pb::enrolment_service_client::EnrolmentServiceClient;
use canasta_proto::token::{Purpose, Token};
use canasta_transport::dial::{self, Dialled};
use canasta_transport::facts::CertificateFacts;
use canasta_transport::status::Fault;
use canasta_transport::tls::ClientTls;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::error::{JoinError, MAX_SKEW_SECONDS};
use super::message::{Attempt, Done, JoinRequest};
use super::patience::Patience;
use crate::agent::{Core, State};
use crate::listener;

/// What was asked, checked.
struct Wanted {
    /// `HOST:PORT`.
    controller: String,
    token: Token,
    advertise: String,
    name: String,
}

impl Wanted {
    fn check(request: &JoinRequest) -> Result<Self, JoinError> {
        let token =
            Token::parse(Purpose::Join, request.token.reveal()).map_err(JoinError::Token)?;
        let controller: Address = request
            .controller
            .trim()
            .parse()
            .map_err(JoinError::Controller)?;
        let advertise = match &request.advertise {
            Some(text) => text
                .trim()
                .parse::<Address>()
                .map_err(JoinError::Advertise)?
                .to_string(),
            None => String::new(),
        };
        let name = match &request.name {
            Some(text) => text
                .trim()
                .parse::<HostName>()
                .map_err(JoinError::Name)?
                .into(),
            None => String::new(),
        };
        Ok(Self {
            controller: controller.with_default_port(CONTROLLER_PORT),
            token,
            advertise,
            name,
        })
    }
}

/// Joins the fleet of the token. An identity from before stays in use until the new one is stored.
///
/// # Errors
/// Each with what to do next.
pub(crate) async fn join(
    core: &Arc<Core>,
    request: &JoinRequest,
    progress: impl Fn(String) + Send + Sync,
) -> Result<Done, JoinError> {
    let Ok(_joining) = Arc::clone(&core.joining).try_lock_owned() else {
        return Err(JoinError::Busy);
    };
    if core.life.stopping.is_cancelled() {
        return Err(JoinError::Stopping);
    }
    let wanted = Wanted::check(request)?;
    progress(format!(
        "connecting to the controller at {}",
        wanted.controller
    ));
    let mut exchange = Exchange::begin(core, &wanted, &progress).await?;
    exchange.compare_clocks().await?;
    progress(
        "the controller is the one that made the token, and the clocks agree; sending the token"
            .to_owned(),
    );
    let (issued, events) = exchange.enrol().await?;
    exchange.take_up(issued).await?;
    progress("the certificate is stored; waiting for the controller to dial back".to_owned());
    let dial_back = exchange.dial_back(events).await;
    exchange.done(dial_back)
}

/// One enrolment.
struct Exchange<'a> {
    core: &'a Arc<Core>,
    wanted: &'a Wanted,
    client: EnrolmentServiceClient<Channel>,
    patience: Patience,
    /// Hears what is waited for.
    progress: &'a (dyn Fn(String) + Send + Sync),
    /// The port, opened before the token is spent; `None` when it was open before.
    listener: Option<TcpListener>,
}

impl<'a> Exchange<'a> {
    async fn begin(
        core: &'a Arc<Core>,
        wanted: &'a Wanted,
        progress: &'a (dyn Fn(String) + Send + Sync),
    ) -> Result<Self, JoinError> {
        let limits = dial::Limits {
            connect: core.timings.join_connect,
            ..dial::Limits::default()
        };
        let tls = ClientTls::pinned(wanted.token.pin());
        let Dialled { channel, .. } = dial::connect(&wanted.controller, &tls, &limits)
            .await
            .map_err(JoinError::Dial)?;
        Ok(Self {
            core,
            wanted,
            client: EnrolmentServiceClient::new(channel),
            patience: Patience::new(core.timings.join_patience),
            progress,
            listener: None,
        })
    }

    /// Makes a call until the controller takes it: one that has had too many from this address says when to come again. The call
    /// alone is made again and not the join, whose first call would use up the room that there is for its second.
    async fn taken<T, A>(
        &mut self,
        call: impl Fn(EnrolmentServiceClient<Channel>) -> A,
    ) -> Result<T, JoinError>
    where
        A: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let answer = within(self.core, self.wanted, call(self.client.clone())).await?;
            let status = match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let fault = Fault::from_status(&status);
            let Some(pause) = self.patience.pause(&fault) else {
                return Err(JoinError::Refused(Box::new(fault)));
            };
            (self.progress)(format!(
                "the controller at {} says: {fault}; trying again in {:.1} s",
                self.wanted.controller,
                pause.as_secs_f64()
            ));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.core.life.stopping.cancelled() => return Err(JoinError::Stopping),
            }
        }
    }

    /// Refuses to go on when the clocks differ by more than the limit, either way.
    async fn compare_clocks(&mut self) -> Result<(), JoinError> {
        let machine = Arc::clone(&self.core.host.machine);
        let asked = |mut client: EnrolmentServiceClient<Channel>| {
            let machine = Arc::clone(&machine);
            async move {
                let before = machine.now();
                let answer = client.get_clock(pb::GetClockRequest {}).await?;
                let times = (before, machine.now());
                Ok(answer.map(|answer| (answer, times)))
            }
        };
        let (answer, (before, after)) = self.taken(asked).await?;
        let here =
            Timestamp::try_from(before + after.duration_since(before).unwrap_or_default() / 2)
                .unwrap_or(Timestamp::UNIX_EPOCH);
        let there = answer
            .now
            .and_then(|now| SystemTime::try_from(now).ok())
            .and_then(|now| Timestamp::try_from(now).ok())
            .ok_or_else(|| JoinError::Cut {
                address: self.wanted.controller.clone(),
            })?;
        let ahead = here.as_second() - there.as_second();
        if ahead.abs() > MAX_SKEW_SECONDS {
            return Err(JoinError::Skew {
                seconds: ahead.abs(),
                behind: ahead < 0,
                here,
                there,
            });
        }
        Ok(())
    }

    /// Opens the port, sends the token, and answers with the certificate and the stream that goes on.
    async fn enrol(
        &mut self,
    ) -> Result<(pb::IssuedCertificate, Streaming<pb::EnrolHostResponse>), JoinError> {
        let port = if let Some(address) = self.core.listening() {
            address.port()
        } else {
            let listener =
                listener::bind(&self.core.config.listen_candidates()).map_err(JoinError::Listen)?;
            let port = listener.local_addr().map_or(0, |address| address.port());
            self.listener = Some(listener);
            port
        };
        let facts = self
            .core
            .host
            .machine
            .facts()
            .await
            .map_err(JoinError::Machine)?;
        let key = self
            .core
            .identity
            .join_key()
            .await
            .map_err(JoinError::Identity)?;
        let csr = key
            .csr()
            .map_err(|source| JoinError::Identity(crate::identity::IdentityError::Key(source)))?;
        let request = pb::EnrolHostRequest {
            token: self.wanted.token.secret().to_owned(),
            csr: csr.into(),
            hostname: facts.hostname,
            advertise: self.wanted.advertise.clone(),
            port: port.into(),
            expected_name: self.wanted.name.clone(),
            agent_version: crate::VERSION.to_owned(),
        };
        let asked = |mut client: EnrolmentServiceClient<Channel>| {
            let request = request.clone();
            async move { client.enrol_host(request).await }
        };
        let mut events = self.taken(asked).await?;
        let first = within(self.core, self.wanted, events.message()).await??;
        match first.and_then(|answer| answer.event) {
            Some(Event::Issued(issued)) => Ok((issued, events)),
            _ => Err(self.cut()),
        }
    }

    /// Checks and stores the certificate, and serves with it.
    async fn take_up(&mut self, issued: pb::IssuedCertificate) -> Result<(), JoinError> {
        let ca_pin =
            CertificateFacts::from_der(&issued.ca_certificate).map(|facts| facts.spki_sha256);
        if ca_pin != Ok(self.wanted.token.pin()) {
            return Err(JoinError::OtherCa {
                address: self.wanted.controller.clone(),
            });
        }
        let identity = &self.core.identity;
        let key = identity.join_key().await.map_err(JoinError::Identity)?;
        let now = self.core.host.machine.now();
        let material = identity
            .take_join(
                issued.certificate.to_vec(),
                issued.ca_certificate.to_vec(),
                key,
                now,
            )
            .await
            .map_err(JoinError::Identity)?;
        self.core.serve_as(&material, self.listener.take());
        Ok(())
    }

    /// What the controller says of dialling this node; `None` when it does not say. The node has joined in any case.
    async fn dial_back(
        &self,
        mut events: Streaming<pb::EnrolHostResponse>,
    ) -> Option<pb::DialBack> {
        match within(self.core, self.wanted, events.message()).await {
            Ok(Ok(Some(pb::EnrolHostResponse {
                event: Some(Event::DialBack(dial_back)),
            }))) => Some(dial_back),
            Ok(Err(status)) => {
                tracing::warn!(error = %status, "the controller did not tell whether it reached this node");
                None
            }
            _ => None,
        }
    }

    fn done(&self, dial_back: Option<pb::DialBack>) -> Result<Done, JoinError> {
        let State::Joined {
            fleet_id,
            name,
            listening,
        } = self.core.state()
        else {
            return Err(self.cut());
        };
        let reached = dial_back.as_ref().map(|dial_back| dial_back.reached);
        let attempts = dial_back
            .map(|dial_back| dial_back.attempts)
            .unwrap_or_default()
            .into_iter()
            .map(|pb::DialAttempt { address, error }| Attempt { address, error })
            .collect();
        let hint = match reached {
            Some(true) => String::new(),
            Some(false) => format!(
                "let the controller reach port {}/tcp of this node (firewall, security group), or join again with --advertise ADDR[:PORT] and a new token from `canasta host token {name}`",
                listening.port()
            ),
            None => format!("look at `canasta host show {name}`"),
        };
        Ok(Done {
            name,
            fleet_id,
            listening: listening.to_string(),
            reached,
            attempts,
            hint,
        })
    }

    fn cut(&self) -> JoinError {
        JoinError::Cut {
            address: self.wanted.controller.clone(),
        }
    }
}

/// Bounds an answer of the controller; a shutdown ends the wait too.
async fn within<T>(
    core: &Core,
    wanted: &Wanted,
    answer: impl Future<Output = T>,
) -> Result<T, JoinError> {
    tokio::select! {
        answered = tokio::time::timeout(core.timings.join_answer, answer) => {
            answered.map_err(|_| JoinError::Silent {
                address: wanted.controller.clone(),
                seconds: core.timings.join_answer.as_secs(),
            })
        }
        () = core.life.stopping.cancelled() => Err(JoinError::Stopping),
    }
}

impl From<Status> for JoinError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(Fault::from_status(&status)))
    }
}
