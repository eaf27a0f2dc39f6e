//! An agent that does as a test says, behind a plain connection, and a fleet that has it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::pb::agent_service_server::{AgentService, AgentServiceServer};
use canasta_proto::pb::push_artefact_request::Part;
use canasta_proto::pb::receive_probes_response::Event as Probe;
use canasta_proto::pb::watch_task_response::Event;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
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

/// What a task does to the world of a test.
pub(crate) type OnTask = Arc<dyn Fn(&pb::TaskSpec) + Send + Sync>;

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
    /// What it says of its node; nothing when it is not asked.
    pub(crate) facts: Mutex<Option<pb::NodeFacts>>,
    /// Does each task at once, and does not follow scripts.
    pub(crate) obliging: AtomicBool,
    /// Called with each task that is started.
    pub(crate) on_task: Mutex<Option<OnTask>>,
    /// What each task was to do, as they were started.
    pub(crate) specs: Mutex<Vec<pb::TaskSpec>>,
    /// What each credential was to be described by.
    pub(crate) made: Mutex<Vec<String>>,
    /// The credentials that it keeps.
    pub(crate) kept: Mutex<Vec<String>>,
    /// How often it refuses to listen for probes, since it listens for others.
    pub(crate) busy: AtomicU32,
    /// Ports that nothing gets through to.
    pub(crate) closed: Mutex<Vec<u32>>,
    /// What an uninstall would find.
    pub(crate) inspected: Mutex<Option<pb::InspectUninstallResponse>>,
    /// What looks before an uninstall were asked for.
    pub(crate) looked: Mutex<Vec<pb::InspectUninstallRequest>>,
    /// Where the tunnel leads, and the credentials for it.
    pub(crate) api: Mutex<Option<(SocketAddr, pb::GetApiCredentialsResponse)>>,
    /// Somebody wanted to go through the tunnel while it led nowhere.
    pub(crate) no_api: Notify,
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

impl Agent {
    /// What it says of its node now.
    fn facts(&self) -> Option<pb::NodeFacts> {
        let facts = self.facts.lock().expect("facts").clone()?;
        Some(pb::NodeFacts {
            observed_at: Some(crate::operations::stamp::now()),
            ..facts
        })
    }
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
        match self.0.facts() {
            Some(facts) => Ok(Response::new(pb::GetFactsResponse { facts: Some(facts) })),
            None => not_here(),
        }
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
        match self.0.facts() {
            Some(facts) => Ok(Response::new(pb::PreflightResponse {
                findings: Vec::new(),
                facts: Some(facts),
            })),
            None => not_here(),
        }
    }

    async fn start_task(
        &self,
        request: Request<pb::StartTaskRequest>,
    ) -> Result<Response<pb::StartTaskResponse>, Status> {
        let request = request.into_inner();
        self.0
            .started
            .lock()
            .expect("started")
            .push(request.task_id);
        let acts = self.0.on_task.lock().expect("on_task").clone();
        if let (Some(act), Some(spec)) = (acts, &request.spec) {
            act(spec);
        }
        self.0.specs.lock().expect("specs").extend(request.spec);
        Ok(Response::new(pb::StartTaskResponse { started: true }))
    }

    async fn watch_task(
        &self,
        request: Request<pb::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let request = request.into_inner();
        let mut watched = self.0.watched.lock().expect("watched");
        watched.push((request.task_id, request.after_seq));
        if self.0.obliging.load(Ordering::Relaxed) {
            let finished = pb::StepFinished {
                outcome: pb::StepOutcome::Unchanged.into(),
                detail: String::new(),
            };
            let script = vec![event(1, Event::Finished(finished))];
            return Ok(Response::new(stream::iter(script).boxed()));
        }
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
        let Some(address) = address else {
            self.0.no_api.notify_one();
            return Err(Status::unavailable("no API"));
        };
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
        let Some((_, credentials)) = api.as_ref() else {
            self.0.no_api.notify_one();
            return Err(Status::failed_precondition("none"));
        };
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
        request: Request<pb::CreateJoinCredentialRequest>,
    ) -> Result<Response<pb::CreateJoinCredentialResponse>, Status> {
        let mut made = self.0.made.lock().expect("made");
        made.push(request.into_inner().description);
        Ok(Response::new(pb::CreateJoinCredentialResponse {
            token: format!("K10aa::geheim{}", made.len()),
            kind: pb::JoinCredentialKind::BootstrapToken.into(),
            token_id: format!("id{}", made.len()),
        }))
    }

    async fn store_join_credential(
        &self,
        request: Request<pb::StoreJoinCredentialRequest>,
    ) -> Result<Response<pb::StoreJoinCredentialResponse>, Status> {
        let token = request.into_inner().token;
        self.0.kept.lock().expect("kept").push(token);
        Ok(Response::new(pb::StoreJoinCredentialResponse {}))
    }

    async fn receive_probes(
        &self,
        request: Request<pb::ReceiveProbesRequest>,
    ) -> Result<Response<Self::ReceiveProbesStream>, Status> {
        let less = |busy: u32| busy.checked_sub(1);
        let order = Ordering::Relaxed;
        if self.0.busy.fetch_update(order, order, less).is_ok() {
            return Err(Status::resource_exhausted("it listens for others"));
        }
        let closed = self.0.closed.lock().expect("closed").clone();
        let ports = request.into_inner().ports;
        let listeners = ports.iter().map(|port| pb::ProbeListenerState {
            port: Some(*port),
            listener: pb::ProbeListener::Socket.into(),
            error: String::new(),
        });
        let listening = Probe::Listening(pb::ProbeListening {
            listeners: listeners.collect(),
        });
        let open = ports
            .into_iter()
            .filter(|port| !closed.contains(&port.port));
        let arrivals = open.flat_map(|port| {
            (1..=5).map(move |sequence| {
                Probe::Arrival(pb::ProbeArrival {
                    port: Some(port),
                    sequence,
                    size: 64,
                })
            })
        });
        let events: Vec<_> = std::iter::once(listening)
            .chain(arrivals)
            .map(|event| Ok(pb::ReceiveProbesResponse { event: Some(event) }))
            .collect();
        Ok(Response::new(
            stream::iter(events).chain(stream::pending()).boxed(),
        ))
    }

    async fn send_probes(
        &self,
        request: Request<pb::SendProbesRequest>,
    ) -> Result<Response<pb::SendProbesResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.nonce.len(), 16);
        let closed = self.0.closed.lock().expect("closed").clone();
        let results = request.ports.into_iter().map(|port| {
            let outcome =
                if closed.contains(&port.port) && port.protocol() == pb::ProbeProtocol::Tcp {
                    pb::ProbeOutcome::NoAnswer
                } else {
                    pb::ProbeOutcome::Sent
                };
            pb::ProbeResult {
                port: Some(port),
                outcome: outcome.into(),
                error: String::new(),
            }
        });
        Ok(Response::new(pb::SendProbesResponse {
            results: results.collect(),
        }))
    }

    async fn inspect_uninstall(
        &self,
        request: Request<pb::InspectUninstallRequest>,
    ) -> Result<Response<pb::InspectUninstallResponse>, Status> {
        let mut looked = self.0.looked.lock().expect("looked");
        looked.push(request.into_inner());
        let inspected = self.0.inspected.lock().expect("inspected").clone();
        inspected.map_or_else(not_here, |inspected| Ok(Response::new(inspected)))
    }

    async fn list_exports(
        &self,
        _: Request<pb::ListExportsRequest>,
    ) -> Result<Response<pb::ListExportsResponse>, Status> {
        not_here()
    }

    async fn inspect_export(
        &self,
        _: Request<pb::InspectExportRequest>,
    ) -> Result<Response<pb::InspectExportResponse>, Status> {
        not_here()
    }
}

/// Serves an agent, and connects to it.
async fn serve(agent: &Arc<Agent>) -> AgentServiceClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = AgentServiceServer::new(Api(Arc::clone(agent)));
    let serving = Server::builder()
        .add_service(server)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving.map(drop));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("address");
    AgentServiceClient::new(endpoint.connect_lazy())
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
        let client = serve(&agent).await;
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

    /// Another host, whose agent serves and is connected. The link goes with the test's end of it.
    pub(crate) async fn add(&self, name: &str) -> (HostName, Arc<Agent>, Stub) {
        let host: HostName = name.parse().expect("name");
        let link = self.fleet.stub(&Fleet::row(&host));
        let agent = Arc::<Agent>::default();
        link.connect(serve(&agent).await);
        (host, agent, link)
    }

    /// The agent is back.
    pub(crate) fn reconnect(&self) {
        self.link.connect(self.client.clone());
    }
}
