//! A controller in a temporary directory, and its callers.

use std::path::PathBuf;
use std::time::Duration;

use canasta_controller::config::Config;
use canasta_controller::controller::{
    Controller, ControllerOptions, RunningController, StartError,
};
use canasta_proto::pb;
use canasta_proto::pb::audit_service_client::AuditServiceClient;
use canasta_proto::pb::enrolment_service_client::EnrolmentServiceClient;
use canasta_proto::pb::host_service_client::HostServiceClient;
use canasta_proto::pb::user_service_client::UserServiceClient;
use canasta_proto::token::{Purpose, Token};
use canasta_transport::dial::{self, DialError, Limits};
use canasta_transport::keys::PrivateKey;
use canasta_transport::material::{Material, Reloadable};
use canasta_transport::spiffe::Kind;
use canasta_transport::status::Fault;
use canasta_transport::tls::ClientTls;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The longest that anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A controller with its directory.
pub(crate) struct Lab {
    pub(crate) directory: TempDir,
    pub(crate) config: Config,
    controller: Option<RunningController>,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut lab = Self::prepare();
        change(&mut lab.config);
        lab.up().await.expect("start");
        lab
    }

    /// A directory and a configuration, and nothing running.
    pub(crate) fn prepare() -> Self {
        let directory = TempDir::new().expect("directory");
        let mut config = Config {
            listen: "127.0.0.1:0".parse().expect("address"),
            socket: directory.path().join("controller.sock"),
            socket_group: String::new(),
            state_dir: directory.path().join("state"),
            ..Config::default()
        };
        config.timings.backoff_first = Duration::from_millis(50);
        config.timings.backoff_most = Duration::from_millis(200);
        config.timings.dial = Duration::from_secs(2);
        config.timings.drain = Duration::from_secs(2);
        Self {
            directory,
            config,
            controller: None,
        }
    }

    pub(crate) async fn up(&mut self) -> Result<(), StartError> {
        let options = ControllerOptions::bind(self.config.clone())?;
        let controller = Controller::start(options).await?;
        // Joined agents and users find it again after a restart.
        self.config.listen = controller.address();
        self.controller = Some(controller);
        Ok(())
    }

    pub(crate) async fn down(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.shutdown().await;
        }
    }

    pub(crate) async fn crash(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.abort().await;
        }
    }

    pub(crate) fn controller(&self) -> &RunningController {
        self.controller.as_ref().expect("running")
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.config.state_dir.join(name)
    }

    pub(crate) fn address(&self) -> String {
        self.controller().address().to_string()
    }

    /// A channel over the unix socket: an admin's.
    pub(crate) async fn local(&self) -> Channel {
        dial::connect_unix(self.controller().socket(), &Limits::default())
            .await
            .expect("socket")
    }

    pub(crate) async fn hosts(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.local().await)
    }

    pub(crate) async fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.local().await)
    }

    pub(crate) async fn audit(&self) -> Vec<pb::AuditRow> {
        AuditServiceClient::new(self.local().await)
            .list_audit(pb::ListAuditRequest { limit: 0 })
            .await
            .expect("audit")
            .into_inner()
            .rows
    }

    pub(crate) async fn add_host(&self, name: &str) -> Token {
        let request = pb::AddHostRequest {
            name: name.to_owned(),
            address: String::new(),
        };
        let answer = self.hosts().await.add_host(request).await.expect("added");
        join_token(&answer.into_inner().join.expect("token"))
    }

    pub(crate) async fn host(&self, name: &str) -> pb::Host {
        let request = pb::GetHostRequest {
            name: name.to_owned(),
            refresh: false,
        };
        let answer = self.hosts().await.get_host(request).await.expect("host");
        answer.into_inner().host.expect("host")
    }

    pub(crate) async fn add_user(&self, name: &str, role: pb::Role) -> Token {
        let request = pb::AddUserRequest {
            name: name.to_owned(),
            role: role.into(),
        };
        let answer = self.users().await.add_user(request).await.expect("added");
        Token::parse(Purpose::User, &answer.into_inner().token).expect("token")
    }

    /// A caller without a certificate, who has pinned the CA.
    pub(crate) async fn stranger(&self, pin: [u8; 32]) -> Channel {
        dial::connect(&self.address(), &ClientTls::pinned(pin), &Limits::default())
            .await
            .expect("pinned")
            .channel
    }

    /// Adds a user, redeems the token and returns what the user shows from then on.
    pub(crate) async fn user(&self, name: &str, role: pb::Role) -> Reloadable {
        let token = self.add_user(name, role).await;
        let key = PrivateKey::generate().expect("key");
        let answer = self.redeem(&token, &key).await.expect("redeemed");
        let issued = answer.issued.expect("issued");
        assert_eq!(issued.name, name);
        assert_eq!(answer.role, i32::from(role));
        let material = Material::new(&issued.certificate, &key, &issued.ca_certificate);
        Reloadable::new(material.expect("material"))
    }

    pub(crate) async fn redeem(
        &self,
        token: &Token,
        key: &PrivateKey,
    ) -> Result<pb::RedeemUserResponse, Status> {
        let request = pb::RedeemUserRequest {
            token: token.secret().to_owned(),
            csr: key.csr().expect("csr").into(),
        };
        EnrolmentServiceClient::new(self.stranger(token.pin()).await)
            .redeem_user(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// A channel with a certificate.
    pub(crate) async fn dial(&self, material: &Reloadable) -> Result<Channel, DialError> {
        let current = material.current();
        let controller = current.identity().fleet.controller();
        assert_ne!(current.identity().kind, Kind::Controller);
        let tls = ClientTls::fleet(material.clone(), controller);
        let dialled = dial::connect(&self.address(), &tls, &Limits::default()).await?;
        Ok(dialled.channel)
    }
}

pub(crate) fn join_token(join: &pb::JoinToken) -> Token {
    Token::parse(Purpose::Join, &join.token).expect("token")
}

/// Asserts how a call was refused, and that the operator is told what to do.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
) -> Fault {
    let fault = Fault::from_status(&answer.expect_err(reason));
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (code, reason),
        "{fault:?}"
    );
    fault
}

/// Waits until a condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}
