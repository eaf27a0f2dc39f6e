//! A small agent: the real transport and API, and nothing behind them.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use canasta_proto::pb;
use canasta_proto::pb::agent_service_server::{AgentService, AgentServiceServer};
use canasta_proto::pb::enrol_host_response::Event;
use canasta_proto::pb::enrolment_service_client::EnrolmentServiceClient;
use canasta_proto::token::Token;
use canasta_transport::keys::PrivateKey;
use canasta_transport::listen::{self, Connections, Limits};
use canasta_transport::material::{Material, Reloadable};
use canasta_transport::tls::ServerTls;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::support::Lab;

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An agent that has a key, and a certificate when it has joined.
pub(crate) struct Agent {
    pub(crate) key: PrivateKey,
    pub(crate) port: u16,
    listener: Option<std::net::TcpListener>,
    pub(crate) material: Option<Reloadable>,
    /// The connections that the controller has to it.
    pub(crate) connections: Connections,
    /// It makes certificate requests and refuses what comes back.
    pub(crate) refuses_certificates: Arc<AtomicBool>,
    /// It has refused one.
    pub(crate) refused: Arc<Notify>,
    server: Option<AbortOnDropHandle<()>>,
    /// How renewals go.
    pub(crate) installs: Arc<Mutex<Installs>>,
}

/// How renewals go.
#[derive(Debug, Default)]
pub(crate) struct Installs {
    /// So many of the next ones fail.
    pub(crate) failing: usize,
    /// When each was tried.
    pub(crate) tried: Vec<Instant>,
}

impl Agent {
    pub(crate) fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        Self {
            key: PrivateKey::generate().expect("key"),
            port: listener.local_addr().expect("address").port(),
            listener: Some(listener),
            material: None,
            connections: Connections::default(),
            refuses_certificates: Arc::default(),
            refused: Arc::default(),
            server: None,
            installs: Arc::default(),
        }
    }

    pub(crate) fn request(&self, token: &Token) -> pb::EnrolHostRequest {
        pb::EnrolHostRequest {
            token: token.secret().to_owned(),
            csr: self.key.csr().expect("csr").into(),
            hostname: "node-1".to_owned(),
            advertise: String::new(),
            port: self.port.into(),
            expected_name: String::new(),
            agent_version: "0.1.0".to_owned(),
        }
    }

    /// Sends the token, and returns the certificate and the rest of the answer.
    pub(crate) async fn enrol(
        &self,
        lab: &Lab,
        token: &Token,
        request: pb::EnrolHostRequest,
    ) -> Result<(pb::IssuedCertificate, Streaming<pb::EnrolHostResponse>), Status> {
        let mut client = EnrolmentServiceClient::new(lab.stranger(token.pin()).await);
        let mut events = client.enrol_host(request).await?.into_inner();
        match events.message().await?.and_then(|first| first.event) {
            Some(Event::Issued(issued)) => Ok((issued, events)),
            other => panic!("no certificate but {other:?}"),
        }
    }

    /// Joins the fleet, serves, and returns what came of the controller's dialling back.
    pub(crate) async fn join(&mut self, lab: &Lab, token: &Token) -> pb::DialBack {
        let request = self.request(token);
        let (issued, mut events) = self.enrol(lab, token, request).await.expect("enrolled");
        self.install(&issued);
        self.serve();
        match events
            .message()
            .await
            .expect("event")
            .and_then(|last| last.event)
        {
            Some(Event::DialBack(dial_back)) => dial_back,
            other => panic!("no dial back but {other:?}"),
        }
    }

    pub(crate) fn install(&mut self, issued: &pb::IssuedCertificate) {
        let material = Material::new(&issued.certificate, &self.key, &issued.ca_certificate);
        self.material = Some(Reloadable::new(material.expect("material")));
    }

    pub(crate) fn material(&self) -> &Reloadable {
        self.material.as_ref().expect("joined")
    }

    pub(crate) fn serial(&self) -> String {
        self.material().current().facts().serial.clone()
    }

    /// Opens the port.
    pub(crate) fn serve(&mut self) {
        let listener = self.listener.take().unwrap_or_else(|| {
            std::net::TcpListener::bind(("127.0.0.1", self.port)).expect("port")
        });
        listener.set_nonblocking(true).expect("nonblocking");
        let listener = TcpListener::from_std(listener).expect("listener");
        let material = self.material().clone();
        let tls = ServerTls::agent(material.clone());
        let connections = self.connections.clone();
        let api = Api {
            material,
            refuses_certificates: self.refuses_certificates.clone(),
            refused: self.refused.clone(),
            next: Arc::default(),
            installs: self.installs.clone(),
        };
        self.server = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let incoming = listen::tcp(
                listener,
                tls,
                connections.clone(),
                Limits::default(),
                Arc::new(|_| {}),
            );
            let _close = CloseOnDrop(connections);
            Server::builder()
                .add_service(AgentServiceServer::new(api))
                .serve_with_incoming(incoming)
                .await
                .expect("serve");
        })));
    }

    /// Closes the port and all connections.
    pub(crate) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // Ends with the abort.
            let _ = server.await;
        }
    }
}

struct CloseOnDrop(Connections);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(|_, _| true);
    }
}

struct Api {
    material: Reloadable,
    refuses_certificates: Arc<AtomicBool>,
    refused: Arc<Notify>,
    next: Arc<Mutex<Option<PrivateKey>>>,
    installs: Arc<Mutex<Installs>>,
}

#[tonic::async_trait]
impl AgentService for Api {
    async fn get_facts(
        &self,
        _request: Request<pb::GetFactsRequest>,
    ) -> Result<Response<pb::GetFactsResponse>, Status> {
        Ok(Response::new(pb::GetFactsResponse {
            facts: Some(pb::NodeFacts {
                hostname: "node-1".to_owned(),
                ..pb::NodeFacts::default()
            }),
        }))
    }

    type WatchStatusStream = Events<pb::WatchStatusResponse>;

    async fn watch_status(
        &self,
        _request: Request<pb::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let first = pb::WatchStatusResponse {
            hostname: "node-1".to_owned(),
            ..pb::WatchStatusResponse::default()
        };
        let events = stream::iter([Ok(first)]).chain(stream::pending());
        Ok(Response::new(Box::pin(events)))
    }

    async fn create_csr(
        &self,
        _request: Request<pb::CreateCsrRequest>,
    ) -> Result<Response<pb::CreateCsrResponse>, Status> {
        let key = PrivateKey::generate().expect("key");
        let csr = key.csr().expect("csr").into();
        *self.next.lock().expect("lock") = Some(key);
        Ok(Response::new(pb::CreateCsrResponse { csr }))
    }

    async fn install_certificate(
        &self,
        request: Request<pb::InstallCertificateRequest>,
    ) -> Result<Response<pb::InstallCertificateResponse>, Status> {
        if self.refuses_certificates.load(Ordering::Relaxed) {
            self.refused.notify_one();
            return Err(Status::internal("no room on the disk"));
        }
        let request = request.into_inner();
        {
            let mut installs = self.installs.lock().expect("lock");
            installs.tried.push(Instant::now());
            if installs.failing > 0 {
                installs.failing -= 1;
                return Err(Status::resource_exhausted("the disk is full"));
            }
        }
        let key = self
            .next
            .lock()
            .expect("lock")
            .take()
            .expect("a request before");
        let material = Material::new(&request.certificate, &key, &request.ca_certificate);
        drop(self.material.replace(material.expect("material")));
        Ok(Response::new(pb::InstallCertificateResponse {}))
    }

    async fn preflight(
        &self,
        _request: Request<pb::PreflightRequest>,
    ) -> Result<Response<pb::PreflightResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn start_task(
        &self,
        _request: Request<pb::StartTaskRequest>,
    ) -> Result<Response<pb::StartTaskResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type WatchTaskStream = Events<pb::WatchTaskResponse>;

    async fn watch_task(
        &self,
        _request: Request<pb::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn stat_artefact(
        &self,
        _request: Request<pb::StatArtefactRequest>,
    ) -> Result<Response<pb::StatArtefactResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn push_artefact(
        &self,
        _request: Request<Streaming<pb::PushArtefactRequest>>,
    ) -> Result<Response<pb::PushArtefactResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type TunnelStream = Events<pb::TunnelResponse>;
    type ReceiveProbesStream = Events<pb::ReceiveProbesResponse>;

    async fn tunnel(
        &self,
        _request: Request<Streaming<pb::TunnelRequest>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_api_credentials(
        &self,
        _request: Request<pb::GetApiCredentialsRequest>,
    ) -> Result<Response<pb::GetApiCredentialsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_journal(
        &self,
        _request: Request<pb::GetJournalRequest>,
    ) -> Result<Response<pb::GetJournalResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn create_join_credential(
        &self,
        _: Request<pb::CreateJoinCredentialRequest>,
    ) -> Result<Response<pb::CreateJoinCredentialResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn store_join_credential(
        &self,
        _: Request<pb::StoreJoinCredentialRequest>,
    ) -> Result<Response<pb::StoreJoinCredentialResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn receive_probes(
        &self,
        _: Request<pb::ReceiveProbesRequest>,
    ) -> Result<Response<Self::ReceiveProbesStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn send_probes(
        &self,
        _: Request<pb::SendProbesRequest>,
    ) -> Result<Response<pb::SendProbesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn inspect_uninstall(
        &self,
        _: Request<pb::InspectUninstallRequest>,
    ) -> Result<Response<pb::InspectUninstallResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_exports(
        &self,
        _: Request<pb::ListExportsRequest>,
    ) -> Result<Response<pb::ListExportsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn inspect_export(
        &self,
        _: Request<pb::InspectExportRequest>,
    ) -> Result<Response<pb::InspectExportResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
