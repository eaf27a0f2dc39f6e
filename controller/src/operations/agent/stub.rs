//! An agent that does as a test says, behind a plain connection, and a fleet that has it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::pb::agent_service_server::{AgentService, AgentServiceServer};
use canasta_proto::pb::push_artefact_request::Part;
use canasta_proto::pb::watch_task_response::Event;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::config::Timings;
use crate::fleet::Fleet;
use crate::fleet::stub::Stub;
use crate::identity::Issuer;
use crate::store::{StateDir, Store};

/// What a watch of a task brings: events, then perhaps an error, then its end.
pub(crate) type Script = Vec<Result<pb::WatchTaskResponse, Status>>;

/// What the agent does and what it saw.
#[derive(Default)]
pub(crate) struct Agent {
    /// Ids of tasks, as they were started.
    pub(crate) started: Mutex<Vec<String>>,
    /// Id and number of each watch.
    pub(crate) watched: Mutex<Vec<(String, u64)>>,
    /// What each watch brings, in order; then nothing is known.
    pub(crate) scripts: Mutex<VecDeque<Script>>,
    /// What was pushed.
    pub(crate) artefact: Mutex<Vec<u8>>,
    /// After how many more bytes each push is cut.
    pub(crate) cuts: Mutex<VecDeque<usize>>,
    /// Calls about artefacts are not answered, and nothing is read from them.
    pub(crate) mute: Mutex<Mute>,
    /// The size of each chunk that came.
    pub(crate) chunks: Mutex<Vec<usize>>,
    /// Where the tunnel leads, and the credentials for it.
    pub(crate) api: Mutex<Option<(SocketAddr, pb::GetApiCredentialsResponse)>>,
}

/// Which calls an agent takes and does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mute {
    /// It answers all.
    #[default]
    Nothing,
    /// What it holds of an artefact.
    Stat,
    /// The push of an artefact.
    Push,
}

/// An event with its number.
#[expect(clippy::unnecessary_wraps, reason = "an item of a script")]
pub(crate) fn event(seq: u64, event: Event) -> Result<pb::WatchTaskResponse, Status> {
    Ok(pb::WatchTaskResponse {
        seq,
        at: None,
        event: Some(event),
    })
}

impl Agent {
    /// Never returns from a call that is not answered.
    async fn silent(&self, call: Mute) {
        let mute = *self.mute.lock().expect("mute");
        if mute == call {
            std::future::pending::<()>().await;
        }
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not of this test"))
}

struct Api(Arc<Agent>);

#[async_trait]
impl AgentService for Api {
    type WatchStatusStream = BoxStream<'static, Result<pb::WatchStatusResponse, Status>>;
    type WatchTaskStream = BoxStream<'static, Result<pb::WatchTaskResponse, Status>>;
    type TunnelStream = BoxStream<'static, Result<pb::TunnelResponse, Status>>;
    type ReceiveProbesStream = BoxStream<'static, Result<pb::ReceiveProbesResponse, Status>>;

    async fn get_facts(
        &self,
        _: Request<pb::GetFactsRequest>,
    ) -> Result<Response<pb::GetFactsResponse>, Status> {
        not_here()
    }

    async fn watch_status(
        &self,
        _: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        not_here()
    }

    async fn preflight(
        &self,
        _: Request<pb::PreflightRequest>,
    ) -> Result<Response<pb::PreflightResponse>, Status> {
        not_here()
    }

    async fn start_task(
        &self,
        request: Request<pb::StartTaskRequest>,
    ) -> Result<Response<pb::StartTaskResponse>, Status> {
        let id = request.into_inner().task_id;
        self.0.started.lock().expect("started").push(id);
        Ok(Response::new(pb::StartTaskResponse { started: true }))
    }

    async fn watch_task(
        &self,
        request: Request<pb::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let request = request.into_inner();
        let mut watched = self.0.watched.lock().expect("watched");
        watched.push((request.task_id, request.after_seq));
        let script = self.0.scripts.lock().expect("scripts").pop_front();
        match script {
            Some(script) => Ok(Response::new(stream::iter(script).boxed())),
            None => Err(Status::not_found("unknown")),
        }
    }

    async fn stat_artefact(
        &self,
        request: Request<pb::StatArtefactRequest>,
    ) -> Result<Response<pb::StatArtefactResponse>, Status> {
        self.0.silent(Mute::Stat).await;
        let offset = self.0.artefact.lock().expect("artefact").len() as u64;
        Ok(Response::new(pb::StatArtefactResponse {
            complete: offset == request.into_inner().size,
            offset,
        }))
    }

    async fn push_artefact(
        &self,
        request: Request<Streaming<pb::PushArtefactRequest>>,
    ) -> Result<Response<pb::PushArtefactResponse>, Status> {
        self.0.silent(Mute::Push).await;
        let mut left = self.0.cuts.lock().expect("cuts").pop_front();
        let mut parts = request.into_inner();
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(Part::Header(header)) => {
                    let held = self.0.artefact.lock().expect("artefact").len() as u64;
                    assert_eq!(header.offset, held);
                }
                Some(Part::Chunk(chunk)) => {
                    self.0.chunks.lock().expect("chunks").push(chunk.len());
                    let taken = left.map_or(chunk.len(), |left| left.min(chunk.len()));
                    self.0
                        .artefact
                        .lock()
                        .expect("artefact")
                        .extend_from_slice(&chunk[..taken]);
                    if let Some(left) = &mut left {
                        *left -= taken;
                        if *left == 0 {
                            return Err(Status::unavailable("connection reset"));
                        }
                    }
                }
                None => {}
            }
        }
        let size = self.0.artefact.lock().expect("artefact").len() as u64;
        Ok(Response::new(pb::PushArtefactResponse { size }))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<pb::TunnelRequest>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let address = self
            .0
            .api
            .lock()
            .expect("api")
            .as_ref()
            .map(|(address, _)| *address);
        let address = address.ok_or_else(|| Status::unavailable("no API"))?;
        let (mut reader, mut writer) = TcpStream::connect(address).await?.into_split();
        let mut from_caller = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = from_caller.message().await {
                if writer.write_all(&message.data).await.is_err() {
                    return;
                }
            }
        });
        let (sender, back) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut buffer = vec![0; 1000];
            while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                let data = bytes::Bytes::copy_from_slice(&buffer[..count]);
                if sender.send(Ok(pb::TunnelResponse { data })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(back).boxed()))
    }

    async fn get_api_credentials(
        &self,
        _: Request<pb::GetApiCredentialsRequest>,
    ) -> Result<Response<pb::GetApiCredentialsResponse>, Status> {
        let api = self.0.api.lock().expect("api");
        let (_, credentials) = api
            .as_ref()
            .ok_or_else(|| Status::failed_precondition("none"))?;
        Ok(Response::new(credentials.clone()))
    }

    async fn get_journal(
        &self,
        _: Request<pb::GetJournalRequest>,
    ) -> Result<Response<pb::GetJournalResponse>, Status> {
        Ok(Response::new(pb::GetJournalResponse {
            evidence: Some(pb::Evidence {
                title: "journal of k3s.service".to_owned(),
                lines: vec!["level=fatal msg=\"no\"".to_owned()],
                ..pb::Evidence::default()
            }),
        }))
    }

    async fn create_csr(
        &self,
        _: Request<pb::CreateCsrRequest>,
    ) -> Result<Response<pb::CreateCsrResponse>, Status> {
        not_here()
    }

    async fn install_certificate(
        &self,
        _: Request<pb::InstallCertificateRequest>,
    ) -> Result<Response<pb::InstallCertificateResponse>, Status> {
        not_here()
    }

    async fn create_join_credential(
        &self,
        _: Request<pb::CreateJoinCredentialRequest>,
    ) -> Result<Response<pb::CreateJoinCredentialResponse>, Status> {
        not_here()
    }

    async fn store_join_credential(
        &self,
        _: Request<pb::StoreJoinCredentialRequest>,
    ) -> Result<Response<pb::StoreJoinCredentialResponse>, Status> {
        not_here()
    }

    async fn receive_probes(
        &self,
        _: Request<pb::ReceiveProbesRequest>,
    ) -> Result<Response<Self::ReceiveProbesStream>, Status> {
        not_here()
    }

    async fn send_probes(
        &self,
        _: Request<pb::SendProbesRequest>,
    ) -> Result<Response<pb::SendProbesResponse>, Status> {
        not_here()
    }

    async fn inspect_uninstall(
        &self,
        _: Request<pb::InspectUninstallRequest>,
    ) -> Result<Response<pb::InspectUninstallResponse>, Status> {
        not_here()
    }
}

/// A fleet with one host, whose agent a test connects and cuts.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) fleet: Fleet,
    pub(crate) host: HostName,
    pub(crate) agent: Arc<Agent>,
    pub(crate) link: Stub,
    pub(crate) timings: Timings,
    client: AgentServiceClient<Channel>,
    _state: StateDir,
}

impl Bench {
    /// The agent serves and is connected.
    pub(crate) async fn connected() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::take(dir.path()).expect("state");
        let issuer = Issuer::open(&state, Duration::from_secs(3600)).expect("CA");
        let store = Store::open(&state, issuer.fleet().as_str())
            .await
            .expect("database");
        let timings = Timings {
            dial_back: Duration::from_millis(50),
            node_ready: Duration::from_secs(2),
            ..Timings::default()
        };
        let fleet = Fleet::start(store.clone(), issuer, timings.clone())
            .await
            .expect("fleet");
        let host: HostName = "cp1".parse().expect("name");
        let link = fleet.stub(&Fleet::row(&host));
        let agent = Arc::<Agent>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = AgentServiceServer::new(Api(Arc::clone(&agent)));
        let serving = Server::builder()
            .add_service(server)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving.map(drop));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("address");
        let client = AgentServiceClient::new(endpoint.connect_lazy());
        link.connect(client.clone());
        Self {
            dir,
            store,
            fleet,
            host,
            agent,
            link,
            timings,
            client,
            _state: state,
        }
    }

    /// The agent is back.
    pub(crate) fn reconnect(&self) {
        self.link.connect(self.client.clone());
    }
}
