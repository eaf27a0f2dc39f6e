//! As much of a controller as an agent needs: a CA, enrolment with settable answers, and a client.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::pb::enrol_host_response::Event;
use canasta_proto::pb::enrolment_service_server::{EnrolmentService, EnrolmentServiceServer};
use canasta_proto::token::{Purpose, SECRET_BYTES, Token};
use canasta_transport::authority::{Authority, IssueRequest};
use canasta_transport::dial::{self, DialError};
use canasta_transport::keys::{PrivateKey, PublicKey};
use canasta_transport::listen::{self, Connections, Limits};
use canasta_transport::material::{Material, Reloadable};
use canasta_transport::spiffe::Identity;
use canasta_transport::status::Fault;
use canasta_transport::tls::{ClientTls, ServerTls};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// What the controller does with the next enrolments.
#[derive(Debug, Clone, Default)]
pub(crate) enum Answer {
    /// Issues a certificate and dials back.
    #[default]
    Issue,
    /// Refuses the token with this reason.
    Refuse(&'static str),
    /// Ends the call once without a certificate, then issues.
    CutOnce,
}

/// What was seen and what is to be done.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) answer: Answer,
    /// Added to the clock that is told.
    pub(crate) clock_offset_seconds: i64,
    /// Calls of GetClock.
    pub(crate) clocks: usize,
    /// Each enrolment: the token's secret and the key.
    pub(crate) enrolments: Vec<(pb::EnrolHostRequest, Vec<u8>)>,
    /// How many calls are refused for want of room, and when to come again.
    pub(crate) full: (usize, Duration),
    /// An address that is dialled instead of the agent's.
    pub(crate) dial_instead: Option<String>,
}

impl Shared {
    /// Refuses a call while there is no room, as the controller's gate does.
    fn room(&mut self) -> Result<(), Status> {
        let (refusals, pause) = &mut self.full;
        if *refusals == 0 {
            return Ok(());
        }
        *refusals -= 1;
        let fault = Fault::new(Code::ResourceExhausted, "TOO_MANY_CALLS", "too many calls");
        Err(fault.hint("wait").retry_after(*pause).into())
    }
}

pub(crate) struct Controller {
    pub(crate) authority: Arc<Authority>,
    pub(crate) material: Reloadable,
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Mutex<Shared>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Controller {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("address")).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let authority = Authority::create(Timestamp::now()).expect("authority");
        Self::of(authority, address).await
    }

    /// A controller of this CA.
    pub(crate) async fn of(authority: Authority, address: SocketAddr) -> Self {
        let authority = Arc::new(authority);
        let material = Reloadable::new(material(&authority, authority.fleet().controller()));
        let listener = TcpListener::bind(address).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let incoming = listen::tcp(
            listener,
            ServerTls::controller(material.clone(), Arc::new(|_, _| Ok(()))),
            Connections::default(),
            Limits::default(),
            Arc::new(|_| {}),
        );
        let enrolment = Enrolment {
            authority: Arc::clone(&authority),
            material: material.clone(),
            shared: Arc::clone(&shared),
        };
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .serve_with_incoming(EnrolmentServiceServer::new(enrolment), incoming)
                .await
                .expect("serve");
        });
        Self {
            authority,
            material,
            address,
            shared,
            server,
        }
    }

    /// A join token of this fleet.
    pub(crate) fn token(&self) -> Token {
        Token::new(Purpose::Join, self.authority.ca_pin(), [7; SECRET_BYTES])
    }

    pub(crate) fn agent_identity(&self) -> Identity {
        self.authority.fleet().agent("cp1".parse().expect("name"))
    }

    pub(crate) fn see<T>(&self, look: impl FnOnce(&mut Shared) -> T) -> T {
        look(&mut self.shared.lock().expect("lock"))
    }

    /// Dials the agent as the controller.
    pub(crate) async fn dial(&self, address: SocketAddr) -> AgentServiceClient<Channel> {
        self.dial_as(&self.material, address).await.expect("dial")
    }

    /// Dials the agent as whoever has this material.
    pub(crate) async fn dial_as(
        &self,
        material: &Reloadable,
        address: SocketAddr,
    ) -> Result<AgentServiceClient<Channel>, DialError> {
        let tls = ClientTls::fleet(material.clone(), self.agent_identity());
        dial::connect(&address.to_string(), &tls, &dial::Limits::default())
            .await
            .map(|dialled| AgentServiceClient::new(dialled.channel))
    }

    /// Issues a leaf for the key of a request.
    pub(crate) fn sign(&self, csr: &[u8], identity: Identity) -> Vec<u8> {
        issue(&self.authority, csr, identity)
    }
}

/// Key and certificate of someone.
pub(crate) fn material(authority: &Authority, identity: Identity) -> Material {
    let key = PrivateKey::generate().expect("key");
    let public = key.public().expect("public");
    let leaf = authority
        .issue(&IssueRequest::usual(&public, identity, Timestamp::now()))
        .expect("leaf");
    Material::new(&leaf, &key, authority.certificate()).expect("material")
}

fn issue(authority: &Authority, csr: &[u8], identity: Identity) -> Vec<u8> {
    let public = PublicKey::from_csr(csr).expect("request");
    let request = IssueRequest::usual(&public, identity, Timestamp::now());
    authority.issue(&request).expect("leaf").to_vec()
}

struct Enrolment {
    authority: Arc<Authority>,
    material: Reloadable,
    shared: Arc<Mutex<Shared>>,
}

#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    type EnrolHostStream = ReceiverStream<Result<pb::EnrolHostResponse, Status>>;

    async fn get_clock(
        &self,
        _request: Request<pb::GetClockRequest>,
    ) -> Result<Response<pb::GetClockResponse>, Status> {
        let mut shared = self.shared.lock().expect("lock");
        shared.room()?;
        shared.clocks += 1;
        let offset = Duration::from_secs(shared.clock_offset_seconds.unsigned_abs());
        let now = SystemTime::now();
        let now = if shared.clock_offset_seconds < 0 {
            now - offset
        } else {
            now + offset
        };
        Ok(Response::new(pb::GetClockResponse {
            now: Some(now.into()),
        }))
    }

    async fn enrol_host(
        &self,
        request: Request<pb::EnrolHostRequest>,
    ) -> Result<Response<Self::EnrolHostStream>, Status> {
        let request = request.into_inner();
        let public = PublicKey::from_csr(&request.csr).expect("request");
        let (answer, dial_instead) = {
            let mut shared = self.shared.lock().expect("lock");
            shared.room()?;
            shared
                .enrolments
                .push((request.clone(), public.spki().to_vec()));
            let answer = shared.answer.clone();
            if matches!(answer, Answer::CutOnce) {
                shared.answer = Answer::Issue;
            }
            (answer, shared.dial_instead.clone())
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        match answer {
            Answer::Refuse(reason) => {
                return Err(
                    Fault::new(Code::PermissionDenied, reason, "the token was refused")
                        .hint("make a new one")
                        .into(),
                );
            }
            Answer::CutOnce => return Ok(Response::new(ReceiverStream::new(receiver))),
            Answer::Issue => {}
        }
        let identity = self.authority.fleet().agent("cp1".parse().expect("name"));
        let issued = pb::IssuedCertificate {
            name: "cp1".to_owned(),
            fleet_id: self.authority.fleet().to_string(),
            certificate: issue(&self.authority, &request.csr, identity.clone()).into(),
            ca_certificate: self.authority.certificate().to_vec().into(),
        };
        let material = self.material.clone();
        tokio::spawn(async move {
            let event = |event| Ok(pb::EnrolHostResponse { event: Some(event) });
            let _ = sender.send(event(Event::Issued(issued))).await;
            let address = dial_instead.unwrap_or_else(|| format!("127.0.0.1:{}", request.port));
            let tls = ClientTls::fleet(material, identity);
            // The agent may still be storing the certificate: its port is bound, and the handshake waits.
            let dialled = dial::connect(&address, &tls, &dial::Limits::default()).await;
            let attempt = pb::DialAttempt {
                address,
                error: dialled
                    .as_ref()
                    .err()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            };
            let dial_back = pb::DialBack {
                reached: dialled.is_ok(),
                attempts: vec![attempt],
            };
            let _ = sender.send(event(Event::DialBack(dial_back))).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn redeem_user(
        &self,
        _request: Request<pb::RedeemUserRequest>,
    ) -> Result<Response<pb::RedeemUserResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}
