//! Who is not let in: by the controller, and by an agent. Each is refused in the handshake, and audited where the peer is
//! known.

use std::time::Duration;

use canasta_proto::pb;
use canasta_tests::fleet::people::{self, authority, expired, fresh, knock};
use canasta_tests::fleet::{Fleet, client};
use canasta_transport::authority::Authority;
use canasta_transport::dial::{self, Limits};
use canasta_transport::refusal::{HandshakeRefusal, PeerVerdict};
use canasta_transport::tls::ClientTls;
use jiff::Timestamp;
use tonic::Code;

fn by_peer(verdict: PeerVerdict) -> Result<(), HandshakeRefusal> {
    Err(HandshakeRefusal::ByPeer(verdict))
}

/// Waits for a row about a handshake that was refused: it is written after the caller was sent away.
async fn audited(fleet: &Fleet, who: &str, words: &str) {
    let admin = fleet.admin().await;
    let what = format!("a row about {who}");
    fleet
        .until(&what, async || {
            let rows = admin.audit_rows().await;
            let fits = |row: &pb::AuditRow| {
                row.who == who && row.what == "handshake" && row.outcome.contains(words)
            };
            rows.into_iter().find(fits)
        })
        .await;
}

#[tokio::test]
async fn the_controller_lets_known_users_in_and_nobody_else() {
    let fleet = Fleet::start().await;
    let (address, ca) = (fleet.address(), authority(fleet.state_dir()));
    let user = |name: &str| ca.fleet().user(name.parse().unwrap());
    let anna = fleet.user("anna", pb::Role::Viewer).await;

    let stranger = Authority::create(Timestamp::now()).unwrap();
    let other = fresh(&stranger, stranger.fleet().user("anna".parse().unwrap()));
    assert_eq!(
        knock(address, Some(&other)).await,
        by_peer(PeerVerdict::UnknownCa)
    );

    let late = expired(&ca, user("late"), Duration::from_secs(60));
    assert_eq!(
        knock(address, Some(&late)).await,
        by_peer(PeerVerdict::Expired)
    );
    audited(&fleet, "user late", "expired").await;

    let agent = fresh(&ca, ca.fleet().agent("cp1".parse().unwrap()));
    assert!(knock(address, Some(&agent)).await.is_err());
    audited(&fleet, "agent cp1", "may not connect here").await;

    // Signed by the right CA, and never given out by this controller.
    let forged = fresh(&ca, user("anna"));
    assert_eq!(
        knock(address, Some(&forged)).await,
        by_peer(PeerVerdict::Revoked)
    );
    audited(&fleet, "user anna", "revoked").await;

    let name = "anna".to_owned();
    fleet
        .admin()
        .await
        .users()
        .remove_user(pb::RemoveUserRequest { name })
        .await
        .unwrap();
    let again = people::dial(address, &anna.material, ca.fleet().controller())
        .await
        .unwrap_err();
    assert_eq!(
        again.refusal(),
        Some(&HandshakeRefusal::ByPeer(PeerVerdict::Revoked))
    );
    let old = anna
        .client
        .hosts()
        .list_hosts(pb::ListHostsRequest {})
        .await;
    assert!(
        old.is_err(),
        "the open connection of a removed user goes on"
    );
}

#[tokio::test]
async fn a_caller_without_a_certificate_may_enrol_and_nothing_else() {
    let fleet = Fleet::start().await;
    let ca = authority(fleet.state_dir());
    let tls = ClientTls::pinned(ca.ca_pin());
    let dialled = dial::connect(&fleet.address().to_string(), &tls, &Limits::default())
        .await
        .unwrap();
    let nobody = client::Client::new(dialled.channel);
    nobody
        .enrolment()
        .get_clock(pb::GetClockRequest {})
        .await
        .unwrap();
    let fault = nobody.add_host("cp1").await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::PermissionDenied, "NO_CERTIFICATE")
    );
    let status = nobody
        .hosts()
        .list_hosts(pb::ListHostsRequest {})
        .await
        .unwrap_err();
    assert_eq!(client::fault(status).reason, "NO_CERTIFICATE");
    let rows = fleet.admin().await.audit_rows().await;
    let row = rows
        .iter()
        .find(|row| row.what == "HostService/AddHost")
        .expect("a row");
    assert_eq!(
        (row.who.as_str(), row.outcome.as_str()),
        ("unknown", "PERMISSION_DENIED NO_CERTIFICATE")
    );
}

#[tokio::test]
async fn an_agent_lets_its_controller_in_and_nobody_else() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let ca = authority(fleet.state_dir());
    assert_eq!(
        knock(node.address, None).await,
        by_peer(PeerVerdict::CertificateRequired)
    );
    let admin = fleet.user("anna", pb::Role::Admin).await;
    let agent = ca.fleet().agent("cp1".parse().unwrap());
    let error = people::dial(node.address, &admin.material, agent.clone())
        .await
        .unwrap_err();
    assert!(
        matches!(error.refusal(), Some(HandshakeRefusal::ByPeer(_))),
        "{error:?}"
    );
    for identity in [agent, ca.fleet().agent("cp2".parse().unwrap())] {
        let certificate = fresh(&ca, identity);
        assert!(
            knock(node.address, Some(&certificate)).await.is_err(),
            "{}",
            certificate.identity
        );
    }
    let stranger = Authority::create(Timestamp::now()).unwrap();
    let controller = fresh(&stranger, stranger.fleet().controller());
    assert_eq!(
        knock(node.address, Some(&controller)).await,
        by_peer(PeerVerdict::UnknownCa)
    );
    let late = expired(&ca, ca.fleet().controller(), Duration::from_secs(60));
    assert_eq!(
        knock(node.address, Some(&late)).await,
        by_peer(PeerVerdict::Expired)
    );
    // Who is known is in the controller's audit trail, by the agent's word.
    audited(&fleet, "user anna", "agent cp1 refused user anna at ").await;
    audited(&fleet, "agent cp2", "agent cp1 refused agent cp2 at ").await;
    audited(&fleet, "controller", "expired").await;
    // The one who may still can.
    fleet.admin().await.host("cp1", true).await.unwrap();
    assert_eq!(
        knock(node.address, Some(&fresh(&ca, ca.fleet().controller()))).await,
        Ok(())
    );
}

#[tokio::test]
async fn tls_1_2_is_refused_by_both_daemons() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    for address in [fleet.address(), node.address] {
        // One record: alert (21), fatal (2), protocol_version (70).
        let answer = people::knock_with_tls_1_2(address).await;
        assert_eq!(answer.len(), 7, "{address}: {answer:?}");
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{address}");
    }
}

#[tokio::test]
async fn leaves_that_live_for_seconds_are_renewed_without_a_break() {
    let fleet = Fleet::start_with(0, |config| config.timings.leaf = Duration::from_secs(3)).await;
    let mut node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    let before = admin.host("cp1", false).await.unwrap();
    let renewed = async || {
        let host = admin.host("cp1", true).await.ok()?;
        (host.public_key_sha256 != before.public_key_sha256).then_some(host)
    };
    let host = fleet.until("the certificate to be renewed", renewed).await;
    assert_eq!(host.state(), pb::HostState::Connected);
    // The new one is on disk: it serves after a crash too.
    node.crash().await;
    node.restart().await;
    fleet
        .until("the agent to be back", async || {
            admin.host("cp1", true).await.ok()
        })
        .await;
    fleet.host_is("cp1", pb::HostState::Connected).await;
}

#[tokio::test]
async fn an_agent_whose_certificate_ended_while_it_was_off_is_taken_back() {
    let life = Duration::from_secs(3);
    let mut fleet = Fleet::start_with(0, |config| config.timings.leaf = life).await;
    let mut node = fleet.joined("cp1").await;
    node.crash().await;
    fleet.crash().await;
    let before = Timestamp::now();
    fleet
        .until("the certificate to end", async || {
            let over = Timestamp::now().duration_since(before)
                > (life + Duration::from_secs(1)).try_into().ok()?;
            over.then_some(())
        })
        .await;
    node.restart().await;
    fleet.restart().await;
    let host = fleet.host_is("cp1", pb::HostState::Connected).await;
    assert!(host.certificate_expires_at.is_some());
}
