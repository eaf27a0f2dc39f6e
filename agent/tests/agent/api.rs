//! What may come in, and who.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_transport::dial;
use canasta_transport::material::Reloadable;
use canasta_transport::tls::ClientTls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio::io::AsyncReadExt as _;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::controller::{Controller, material};
use crate::fixture::{fault, joined};
use crate::tasks::start_request;

/// Puts a text into a field of a specification.
type Set = fn(&mut pb::K3sSpec, String);
/// Changes a task so that it breaks a rule.
type Edit = fn(&mut pb::K3sInstallTask);

fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) {
    let fault = fault(&answer.expect_err(what));
    assert_eq!(fault.code, Code::InvalidArgument, "{what}: {fault:?}");
    assert_eq!(fault.reason, "INVALID_FIELD", "{what}");
    assert!(
        !fault.subject.is_empty() && !fault.hint.is_empty(),
        "{what}: {fault:?}"
    );
    assert!(
        !fault.message.contains(['\n', '\u{202e}']),
        "{what}: {fault:?}"
    );
}

/// Texts that no name, version, hash or address may be.
fn bad_texts() -> Vec<String> {
    [
        "",
        " ",
        "..",
        "a b",
        "a/b",
        "$(reboot)",
        "`id`",
        "a|b",
        "a\nb",
        "a\u{202e}b",
        "a;b",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["x".repeat(300)])
    .collect()
}

#[tokio::test]
async fn specifications_that_break_a_rule_are_refused() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let fields: [(&str, Set); 7] = [
        ("version", |spec, text| spec.version = text),
        ("binary_sha256", |spec, text| spec.binary_sha256 = text),
        ("node_ip", |spec, text| spec.node_ip = text),
        ("node_name", |spec, text| spec.node_name = text),
        ("tls_sans", |spec, text| spec.tls_sans = vec![text]),
        // Without a name the choice is flannel's.
        ("flannel_link", |spec, text| {
            spec.flannel_link = if text.is_empty() {
                " ".to_owned()
            } else {
                text
            };
        }),
        ("server_url", |spec, text| {
            spec.role = pb::K3sRole::Agent.into();
            spec.server_url = text;
        }),
    ];
    for (field, set) in fields {
        for text in bad_texts() {
            let mut request = start_request("t1");
            change(&mut request, |task| {
                set(task.spec.as_mut().expect("spec"), text.clone());
            });
            refused(
                &format!("{field} {text:?}"),
                client.start_task(request).await,
            );
        }
    }
    let changes: [(&str, Edit); 10] = [
        ("server of a server", |task| {
            task.spec.as_mut().expect("spec").server_url = "https://10.0.0.5:6443".to_owned();
        }),
        ("step", |task| task.step = 0),
        ("unknown step", |task| task.step = 99),
        ("no spec", |task| task.spec = None),
        ("role", |task| task.spec.as_mut().expect("spec").role = 0),
        ("unspecified ip", |task| {
            task.spec.as_mut().expect("spec").node_ip = "0.0.0.0".to_owned();
        }),
        ("link", |task| {
            task.spec.as_mut().expect("spec").flannel_link = "a/b".to_owned();
        }),
        ("long link", |task| {
            task.spec.as_mut().expect("spec").flannel_link = "a".repeat(16);
        }),
        ("san with a port", |task| {
            task.spec.as_mut().expect("spec").tls_sans = vec!["a:1".to_owned()];
        }),
        ("many sans", |task| {
            task.spec.as_mut().expect("spec").tls_sans = vec!["a".to_owned(); 65];
        }),
    ];
    for (what, edit) in changes {
        let mut request = start_request("t1");
        change(&mut request, edit);
        refused(what, client.start_task(request).await);
    }
    let no_verb = pb::StartTaskRequest {
        spec: Some(pb::TaskSpec { verb: None }),
        ..start_request("t1")
    };
    refused("no verb", client.start_task(no_verb).await);
    let no_spec = pb::StartTaskRequest {
        spec: None,
        ..start_request("t1")
    };
    refused("no spec", client.start_task(no_spec).await);
}

fn change(request: &mut pb::StartTaskRequest, edit: impl FnOnce(&mut pb::K3sInstallTask)) {
    match request.spec.as_mut().and_then(|spec| spec.verb.as_mut()) {
        Some(Verb::K3sInstall(task)) => edit(task),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn other_requests_that_break_a_rule_are_refused() {
    let (_controller, _node, _agent, mut client) = joined().await;
    for text in bad_texts() {
        refused("task id", client.start_task(start_request(&text)).await);
        let watch = pb::WatchTaskRequest {
            task_id: text.clone(),
            after_seq: 0,
        };
        refused("task id", client.watch_task(watch).await);
        let stat = pb::StatArtefactRequest {
            sha256: text.clone(),
            size: 1,
        };
        refused("sha256", client.stat_artefact(stat).await);
        let header = pb::PushHeader {
            sha256: text,
            size: 1,
            offset: 0,
        };
        let part = pb::push_artefact_request::Part::Header(header);
        let push = pb::PushArtefactRequest { part: Some(part) };
        let pushed = client.push_artefact(futures_util::stream::iter([push]));
        refused("sha256 of a push", pushed.await);
    }
    for size in [0, 512 * 1024 * 1024 + 1, u64::MAX] {
        let stat = pb::StatArtefactRequest {
            sha256: "a".repeat(64),
            size,
        };
        refused("size", client.stat_artefact(stat).await);
    }
    for role in [0, 99] {
        refused(
            "role",
            client.preflight(pb::PreflightRequest { role }).await,
        );
    }
    for (unit, lines) in [(0, 1), (99, 1), (1, 201)] {
        refused(
            "journal",
            client
                .get_journal(pb::GetJournalRequest { unit, lines })
                .await,
        );
    }
    for (certificate, ca_certificate) in [
        (vec![], vec![1]),
        (vec![1], vec![]),
        (vec![0; 20_000], vec![1]),
    ] {
        let request = pb::InstallCertificateRequest {
            certificate: certificate.into(),
            ca_certificate: ca_certificate.into(),
        };
        refused("certificate", client.install_certificate(request).await);
    }
    for parts in [
        vec![],
        vec![pb::PushArtefactRequest { part: None }],
        vec![pb::PushArtefactRequest {
            part: Some(pb::push_artefact_request::Part::Chunk(vec![1].into())),
        }],
    ] {
        refused(
            "push",
            client
                .push_artefact(futures_util::stream::iter(parts))
                .await,
        );
    }
}

#[tokio::test]
async fn requests_about_joins_probes_and_uninstalls_that_break_a_rule_are_refused() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let good = pb::CreateJoinCredentialRequest {
        ttl_seconds: 600,
        description: "w1".to_owned(),
    };
    for broken in [
        pb::CreateJoinCredentialRequest {
            ttl_seconds: 59,
            ..good.clone()
        },
        pb::CreateJoinCredentialRequest {
            ttl_seconds: 3601,
            ..good.clone()
        },
        pb::CreateJoinCredentialRequest {
            description: "x".repeat(101),
            ..good.clone()
        },
        pb::CreateJoinCredentialRequest {
            description: "a\nb".to_owned(),
            ..good.clone()
        },
        pb::CreateJoinCredentialRequest {
            description: "--ttl=0".to_owned(),
            ..good.clone()
        },
    ] {
        refused("create", client.create_join_credential(broken).await);
    }
    let not_a_server = client.create_join_credential(good).await;
    let not_a_server = fault(&not_a_server.expect_err("there is no k3s"));
    assert_eq!(not_a_server.code, Code::FailedPrecondition);
    assert_eq!(not_a_server.reason, "NOT_A_SERVER");
    for token in bad_texts()
        .into_iter()
        .chain([format!("K10{}::server:geheim", "0a".repeat(32))])
    {
        let answer = client
            .store_join_credential(pb::StoreJoinCredentialRequest { token })
            .await;
        assert!(!format!("{answer:?}").contains("geheim"));
        refused("store", answer);
    }
    let task = |step: i32, discard: &[&str]| {
        let mut request = start_request("uninstall");
        let uninstall = pb::K3sUninstallTask {
            step,
            discard: discard.iter().map(|&path| path.to_owned()).collect(),
            local_paths: Vec::new(),
        };
        let spec = request.spec.get_or_insert_default();
        spec.verb = Some(Verb::K3sUninstall(uninstall));
        request
    };
    for broken in [
        task(0, &[]),
        task(99, &[]),
        task(1, &["relative"]),
        task(1, &["/a/../b"]),
    ] {
        refused("uninstall", client.start_task(broken).await);
    }
    let port = |protocol: pb::ProbeProtocol, port| pb::ProbePort {
        protocol: protocol.into(),
        port,
    };
    let good = pb::SendProbesRequest {
        nonce: vec![1; 16].into(),
        address: "127.0.0.1".to_owned(),
        ports: vec![port(pb::ProbeProtocol::Udp, 8472)],
        count: 1,
        size: 64,
        timeout_ms: 100,
    };
    let edits: [fn(&mut pb::SendProbesRequest); 9] = [
        |request| request.nonce = vec![1; 15].into(),
        |request| request.address = "localhost".to_owned(),
        |request| request.address = "0.0.0.0".to_owned(),
        |request| request.ports.clear(),
        |request| request.ports[0].port = 70_000,
        |request| request.ports.push(request.ports[0]),
        |request| request.count = 51,
        |request| request.size = 1401,
        |request| request.timeout_ms = 99,
    ];
    for edit in edits {
        let mut broken = good.clone();
        edit(&mut broken);
        refused("send", client.send_probes(broken).await);
    }
    let broken = pb::ReceiveProbesRequest {
        nonce: good.nonce,
        ports: good.ports,
        seconds: 31,
    };
    refused("receive", client.receive_probes(broken).await);
}

#[tokio::test]
async fn probes_from_one_call_are_heard_by_the_other() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let ports = vec![pb::ProbePort {
        protocol: pb::ProbeProtocol::Udp.into(),
        port: port.into(),
    }];
    let receive = pb::ReceiveProbesRequest {
        nonce: vec![3; 16].into(),
        ports: ports.clone(),
        seconds: 20,
    };
    let mut heard = client
        .receive_probes(receive)
        .await
        .expect("it listens")
        .into_inner();
    let first = heard
        .message()
        .await
        .expect("alive")
        .expect("listening")
        .event;
    let Some(pb::receive_probes_response::Event::Listening(listening)) = first else {
        panic!("{first:?}");
    };
    assert_eq!(listening.listeners[0].listener(), pb::ProbeListener::Socket);
    let send = pb::SendProbesRequest {
        nonce: vec![3; 16].into(),
        address: "127.0.0.1".to_owned(),
        ports,
        count: 1,
        size: 100,
        timeout_ms: 1000,
    };
    let sent = client.send_probes(send).await.expect("sent").into_inner();
    assert_eq!(sent.results[0].outcome(), pb::ProbeOutcome::Sent);
    let next = heard
        .message()
        .await
        .expect("alive")
        .expect("an arrival")
        .event;
    let Some(pb::receive_probes_response::Event::Arrival(arrival)) = next else {
        panic!("{next:?}");
    };
    assert_eq!((arrival.sequence, arrival.size), (1, 100));
}

#[tokio::test]
async fn a_directory_of_volumes_is_plain_and_not_the_systems_wherever_it_is_named() {
    let (_controller, _node, _agent, mut client) = joined().await;
    for place in [
        "srv",
        "/srv/",
        "/srv/../etc",
        "/",
        "/etc/v",
        "/var/lib",
        "/var/lib/kubelet",
    ] {
        let local_paths = vec![place.to_owned()];
        let mut uninstall = start_request("uninstall");
        uninstall.spec.get_or_insert_default().verb =
            Some(Verb::K3sUninstall(pb::K3sUninstallTask {
                step: 1,
                local_paths: local_paths.clone(),
                ..pb::K3sUninstallTask::default()
            }));
        refused("uninstall", client.start_task(uninstall).await);
        let mut install = start_request("install");
        if let Some(Verb::K3sInstall(task)) = &mut install.spec.get_or_insert_default().verb {
            task.spec.get_or_insert_default().local_paths = local_paths.clone();
        }
        refused("install", client.start_task(install).await);
        let look = pb::InspectUninstallRequest { local_paths };
        refused("look", client.inspect_uninstall(look).await);
    }
}

#[tokio::test]
async fn a_clean_node_is_told_as_clean() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let found = client
        .inspect_uninstall(pb::InspectUninstallRequest::default())
        .await
        .expect("a look")
        .into_inner();
    assert!(found.clean && found.found.is_empty(), "{found:?}");
    assert_eq!(found.local_path, "/var/lib/rancher/k3s/storage");
    assert!(found.k3s.is_some_and(|k3s| !k3s.present));
}

#[tokio::test]
async fn looking_works_and_changes_nothing() {
    let (_controller, node, _agent, mut client) = joined().await;
    node.host.journal.log("k3s.service", "one");
    node.host.journal.log("k3s.service", "two");
    let request = pb::GetJournalRequest {
        unit: pb::JournalUnit::K3s.into(),
        lines: 1,
    };
    let evidence = client
        .get_journal(request)
        .await
        .expect("journal")
        .into_inner()
        .evidence
        .expect("evidence");
    assert_eq!(
        (evidence.title.as_str(), evidence.lines),
        ("journal of k3s.service", vec!["two".to_owned()])
    );
    let request = pb::PreflightRequest {
        role: pb::K3sRole::Server.into(),
    };
    let answer = client
        .preflight(request)
        .await
        .expect("preflight")
        .into_inner();
    assert_eq!(answer.facts.expect("facts").hostname, "cp1");
    assert!(node.host.systemd.orders().is_empty());
}

/// The standard health service: for the port as a whole and for the agent's own service, until the agent goes down.
#[tokio::test]
async fn the_health_service_tells_when_the_agent_drains() {
    let (controller, node, agent, mut client) = joined().await;
    let address = agent.local_addr().expect("listening");
    let tls = ClientTls::fleet(controller.material.clone(), controller.agent_identity());
    let dialled = dial::connect(&address.to_string(), &tls, &dial::Limits::default()).await;
    let mut health = HealthClient::new(dialled.expect("dialled").channel);
    let asked = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let own = "canasta.fleet.v1.AgentService";
    for service in ["", own] {
        let answer = health.check(asked(service)).await.expect("health");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let unknown = health.check(asked("no.such.Service")).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);

    let mut watch = health.watch(asked(own)).await.expect("watch").into_inner();
    let mut next = async || {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.message()).await;
        next.expect("in time").expect("no error")
    };
    assert_eq!(
        next().await.expect("first").status(),
        ServingStatus::Serving
    );
    // A task that runs keeps the agent draining.
    node.gate.close();
    client.start_task(start_request("t1")).await.expect("start");
    let ending = tokio::spawn(agent.shutdown());
    assert_eq!(
        next().await.expect("second").status(),
        ServingStatus::NotServing
    );
    // The stream ends with the task, and does not hold up the end of the agent.
    node.gate.let_one_through();
    assert_eq!(next().await, None);
    let ended = tokio::time::timeout(Duration::from_secs(5), ending).await;
    ended.expect("the end is not held up").expect("no panic");
}

/// The handshake lets the fleet's controller in and nobody else, so no call of any service is reached by others.
#[tokio::test]
async fn nobody_but_the_controller_gets_in() {
    let (controller, _node, agent, _client) = joined().await;
    let address = agent.local_addr().expect("listening");
    let fleet = controller.authority.fleet();
    for identity in [
        fleet.user("alice".parse().expect("name")),
        fleet.agent("cp2".parse().expect("name")),
        controller.agent_identity(),
    ] {
        let stranger = Reloadable::new(material(&controller.authority, identity.clone()));
        let error = controller
            .dial_as(&stranger, address)
            .await
            .expect_err("refused");
        assert!(error.refusal().is_some(), "{identity}: {error:?}");
    }
    let other = Controller::start().await;
    other
        .dial_as(&other.material, address)
        .await
        .expect_err("another fleet");
    assert!(!anonymous_hears_anything(address).await);
}

/// Connects without a certificate and without judging the agent, and tells whether any byte comes back.
async fn anonymous_hears_anything(address: SocketAddr) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll))
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    let name = "cp1.agent.canasta.internal".try_into().expect("name");
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    match connected {
        Ok(mut stream) => matches!(stream.read(&mut [0; 16]).await, Ok(length) if length > 0),
        Err(_) => false,
    }
}

#[derive(Debug)]
struct TrustAll;

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
