//! Renewal: the controller asks for a request, signs it, and installs the answer, while calls go on.

use std::os::unix::fs::PermissionsExt as _;

use canasta_proto::pb;
use canasta_transport::dial;
use canasta_transport::tls::ClientTls;
use tonic::Code;

use crate::controller::Controller;
use crate::fixture::{fault, joined, restarted};

async fn serial(controller: &Controller, address: std::net::SocketAddr) -> String {
    let tls = ClientTls::fleet(controller.material.clone(), controller.agent_identity());
    let dialled = dial::connect(&address.to_string(), &tls, &dial::Limits::default())
        .await
        .expect("dial");
    dialled.presented.facts.serial
}

fn install(leaf: Vec<u8>, controller: &Controller) -> pb::InstallCertificateRequest {
    pb::InstallCertificateRequest {
        certificate: leaf.into(),
        ca_certificate: controller.authority.certificate().to_vec().into(),
    }
}

#[tokio::test]
async fn a_certificate_is_exchanged_while_a_stream_stays_open() {
    let (controller, node, agent, mut client) = joined().await;
    let address = agent.local_addr().expect("listening");
    let mut statuses = client
        .watch_status(pb::WatchStatusRequest {})
        .await
        .expect("watch")
        .into_inner();
    let before = statuses.message().await.expect("status").expect("first");
    let old = serial(&controller, address).await;

    let csr = client
        .create_csr(pb::CreateCsrRequest {})
        .await
        .expect("csr")
        .into_inner()
        .csr;
    let leaf = controller.sign(&csr, controller.agent_identity());
    client
        .install_certificate(install(leaf.clone(), &controller))
        .await
        .expect("install");
    let new = serial(&controller, address).await;
    assert_ne!(old, new);
    // The answer may have been lost.
    client
        .install_certificate(install(leaf, &controller))
        .await
        .expect("install again");

    // The stream that was open all the time goes on.
    node.host.systemd.add(canasta_host::systemd::Unit {
        name: "k3s.service".to_owned(),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        ..Default::default()
    });
    let after = loop {
        let status = statuses.message().await.expect("status").expect("next");
        if status.k3s_unit.is_some() {
            break status;
        }
    };
    assert_eq!(after.agent_run_id, before.agent_run_id);

    // The files from before go once the new certificate has been used, and it is the one after a restart.
    let directory = node.path("/var/lib/canasta-agent/identity");
    while directory.join("1").exists() {
        tokio::task::yield_now().await;
    }
    let mode = std::fs::metadata(directory.join("2/key.pem"))
        .expect("key")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!directory.join("next-key.pem").exists());
    agent.abort().await;
    let (agent, _client) = restarted(&controller, &node).await;
    assert_eq!(
        serial(&controller, agent.local_addr().expect("listening")).await,
        new
    );
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_refused() {
    let (controller, _node, agent, mut client) = joined().await;
    let address = agent.local_addr().expect("listening");
    let before = serial(&controller, address).await;
    let status = client
        .install_certificate(install(vec![1, 2, 3], &controller))
        .await
        .expect_err("no request");
    assert_eq!(fault(&status).reason, "NO_REQUEST");
    let csr = client
        .create_csr(pb::CreateCsrRequest {})
        .await
        .expect("csr")
        .into_inner()
        .csr;
    let second = client
        .create_csr(pb::CreateCsrRequest {})
        .await
        .expect("csr")
        .into_inner()
        .csr;
    let stranger = Controller::start().await;
    let cases = [
        install(
            controller.sign(&csr, controller.agent_identity()),
            &controller,
        ),
        install(
            controller.sign(
                &second,
                controller
                    .authority
                    .fleet()
                    .agent("other".parse().expect("name")),
            ),
            &controller,
        ),
        install(
            controller.sign(&second, controller.authority.fleet().controller()),
            &controller,
        ),
        install(stranger.sign(&second, stranger.agent_identity()), &stranger),
        install(vec![1, 2, 3], &controller),
    ];
    for request in cases {
        let status = client
            .install_certificate(request)
            .await
            .expect_err("unfit");
        let fault = fault(&status);
        assert_eq!(
            (fault.code, fault.reason.as_str()),
            (Code::InvalidArgument, "CERTIFICATE_UNFIT")
        );
    }
    assert_eq!(serial(&controller, address).await, before);
    let leaf = controller.sign(&second, controller.agent_identity());
    client
        .install_certificate(install(leaf, &controller))
        .await
        .expect("install");
}

#[tokio::test]
async fn a_renewal_survives_a_crash_between_request_and_certificate() {
    let (controller, node, agent, mut client) = joined().await;
    let csr = client
        .create_csr(pb::CreateCsrRequest {})
        .await
        .expect("csr")
        .into_inner()
        .csr;
    agent.abort().await;
    let (_agent, mut client) = restarted(&controller, &node).await;
    let leaf = controller.sign(&csr, controller.agent_identity());
    client
        .install_certificate(install(leaf, &controller))
        .await
        .expect("install");
}
