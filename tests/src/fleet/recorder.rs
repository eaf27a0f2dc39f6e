//! A controller that writes down every byte that it is told inside TLS: the proof that a token was not sent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::pb::enrolment_service_server::{EnrolmentService, EnrolmentServiceServer};
use canasta_proto::token::{Purpose, SECRET_BYTES, Token};
use canasta_transport::authority::{Authority, IssueRequest};
use canasta_transport::keys::PrivateKey;
use jiff::Timestamp;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::place;

type Heard = Arc<Mutex<Record>>;

#[derive(Debug, Default)]
struct Record {
    bytes: Vec<u8>,
    calls: Vec<&'static str>,
    connections: usize,
}

/// A controller of a fleet of its own that gives nothing away and keeps what it hears.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    authority: Authority,
    heard: Heard,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts one whose clock is ahead by so much.
    ///
    /// # Panics
    /// When it can't start.
    pub async fn start(ahead: Duration) -> Self {
        let authority = Authority::create(Timestamp::now()).expect("a CA");
        let acceptor = acceptor(&authority);
        let address = place::free();
        let listener = TcpListener::bind(address).await.expect("a free port");
        let heard = Heard::default();
        let service = Service {
            ahead,
            heard: Arc::clone(&heard),
        };
        let keeper = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                lock(&keeper).connections += 1;
                let (acceptor, heard, service) =
                    (acceptor.clone(), Arc::clone(&keeper), service.clone());
                tokio::spawn(serve(acceptor, stream, heard, service));
            }
        });
        Self {
            address,
            authority,
            heard,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A join token that it might have made.
    pub fn token(&self) -> Token {
        Token::new(Purpose::Join, self.authority.ca_pin(), [7; SECRET_BYTES])
    }

    /// All that came inside TLS.
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.heard).bytes.clone()
    }

    /// The calls that came.
    pub fn calls(&self) -> Vec<&'static str> {
        lock(&self.heard).calls.clone()
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        lock(&self.heard).connections
    }

    /// Whether this text came inside TLS.
    pub fn has_heard(&self, text: &str) -> bool {
        let bytes = self.bytes();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(heard: &Heard) -> std::sync::MutexGuard<'_, Record> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Presents itself as the controller of its fleet and asks for no certificate.
fn acceptor(authority: &Authority) -> TlsAcceptor {
    let key = PrivateKey::generate().expect("a key");
    let public = key.public().expect("a public key");
    let request = IssueRequest::usual(&public, authority.fleet().controller(), Timestamp::now());
    let leaf = authority.issue(&request).expect("a certificate");
    let chain = vec![leaf, authority.certificate().clone()];
    let pem = key.reveal_pem().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .expect("ring speaks TLS 1.3")
    .with_no_client_auth()
    .with_single_cert(chain, key)
    .expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, heard: Heard, service: Service) {
    // A caller that does not like the certificate ends the handshake.
    let Ok(inner) = acceptor.accept(stream).await else {
        return;
    };
    let recorded = Recorded { inner, heard };
    let incoming = tokio_stream::once(Ok::<_, io::Error>(recorded));
    // How the connection ends is the caller's business.
    let _ended = tonic::transport::Server::builder()
        .add_service(EnrolmentServiceServer::new(service))
        .serve_with_incoming(incoming)
        .await;
}

/// A connection that writes down what is read from it.
struct Recorded {
    inner: TlsStream<TcpStream>,
    heard: Heard,
}

impl Connected for Recorded {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        lock(&self.heard)
            .bytes
            .extend_from_slice(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[derive(Debug, Clone)]
struct Service {
    ahead: Duration,
    heard: Heard,
}

#[tonic::async_trait]
impl EnrolmentService for Service {
    type EnrolHostStream = tokio_stream::Empty<Result<pb::EnrolHostResponse, Status>>;

    async fn get_clock(
        &self,
        _request: Request<pb::GetClockRequest>,
    ) -> Result<Response<pb::GetClockResponse>, Status> {
        lock(&self.heard).calls.push("GetClock");
        let now = std::time::SystemTime::now() + self.ahead;
        Ok(Response::new(pb::GetClockResponse {
            now: Some(now.into()),
        }))
    }

    async fn enrol_host(
        &self,
        _request: Request<pb::EnrolHostRequest>,
    ) -> Result<Response<Self::EnrolHostStream>, Status> {
        lock(&self.heard).calls.push("EnrolHost");
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn redeem_user(
        &self,
        _request: Request<pb::RedeemUserRequest>,
    ) -> Result<Response<pb::RedeemUserResponse>, Status> {
        lock(&self.heard).calls.push("RedeemUser");
        Err(Status::permission_denied("this controller only listens"))
    }
}
