//! Certificates of agents: renewed in time, and rescued when it is too late.

use std::sync::atomic::Ordering;
use std::time::Duration;

use canasta_controller::store::Holder;
use canasta_proto::pb;
use jiff::Timestamp;

use crate::agent::Agent;
use crate::support::{Lab, PATIENCE, until};

/// Waits until an agent's certificate has ended; TLS counts whole seconds.
async fn wait_for_end(agent: &Agent) {
    let ended = agent.material().current().facts().not_after.as_second();
    until("the certificate has ended", || async {
        Timestamp::now().as_second() > ended
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_and_the_old_one_dropped() {
    let lab = Lab::start_with(|config| config.timings.leaf = Duration::from_secs(3)).await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    assert!(agent.join(&lab, &token).await.reached);
    let first = agent.serial();
    until("the agent has another certificate", || async {
        agent.serial() != first
    })
    .await;
    until("the new key is the one on record", || async {
        let key = agent.material().current().facts().spki_sha256;
        let host = lab.host("cp1").await;
        host.public_key_sha256 == canasta_transport::facts::hex(&key)
            && host.state() == pb::HostState::Connected
    })
    .await;
}

#[tokio::test]
async fn an_expired_certificate_is_rescued_when_its_key_is_on_record() {
    let mut lab = Lab::start_with(|config| config.timings.leaf = Duration::from_secs(2)).await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    assert!(agent.join(&lab, &token).await.reached);
    // The controller is off until the certificate has ended.
    lab.crash().await;
    agent.stop().await;
    wait_for_end(&agent).await;
    let expired = agent.serial();
    lab.config.timings.leaf = Duration::from_secs(3600);
    agent.serve();
    lab.up().await.expect("start");
    until("the host is connected again", || async {
        lab.host("cp1").await.state() == pb::HostState::Connected
    })
    .await;
    assert_ne!(agent.serial(), expired);
}

#[tokio::test]
async fn an_expired_certificate_with_another_key_needs_a_new_join() {
    let mut lab = Lab::start_with(|config| config.timings.leaf = Duration::from_secs(1)).await;
    let token = lab.add_host("cp1").await;
    let mut old = Agent::new();
    assert!(old.join(&lab, &token).await.reached);
    old.stop().await;
    // The same host joins with another key on another machine; then the old machine is put back in its place.
    lab.config.timings.leaf = Duration::from_secs(3600);
    lab.down().await;
    lab.up().await.expect("start");
    let request = pb::CreateHostTokenRequest {
        name: "cp1".to_owned(),
    };
    let answer = lab
        .hosts()
        .await
        .create_host_token(request)
        .await
        .expect("token");
    let token = crate::support::join_token(&answer.into_inner().join.expect("token"));
    let new = Agent::new();
    let mut request = new.request(&token);
    request.port = u32::from(old.port);
    new.enrol(&lab, &token, request).await.expect("enrolled");
    wait_for_end(&old).await;
    old.serve();
    until("the host needs to join anew", || async {
        lab.host("cp1").await.state() == pb::HostState::NeedsRejoin
    })
    .await;
    let reason = lab.host("cp1").await.state_reason;
    assert!(reason.contains("expired"), "{reason}");
}

#[tokio::test]
async fn a_renewal_that_fails_is_tried_again_after_a_pause_while_the_host_stays_connected() {
    let leaf = Duration::from_secs(4);
    let lab = Lab::start_with(|config| config.timings.leaf = leaf).await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    agent.installs.lock().expect("lock").failing = 1;
    assert!(agent.join(&lab, &token).await.reached);
    let first = agent.serial();
    let since = lab.host("cp1").await.state_since;
    until("a renewal has failed", || async {
        !agent.installs.lock().expect("lock").tried.is_empty()
    })
    .await;
    let host = lab.host("cp1").await;
    assert_eq!(host.state(), pb::HostState::Connected);
    assert_eq!(host.state_since, since, "the connection is the same");
    until("the agent has another certificate", || async {
        agent.serial() != first
    })
    .await;
    let tried = agent.installs.lock().expect("lock").tried.clone();
    // Twenty tries fit into the life of a certificate.
    let pause = tried[1] - tried[0];
    assert!(pause >= leaf / 20, "{pause:?}");
}

#[tokio::test]
async fn a_key_that_is_not_on_record_needs_a_new_join() {
    let mut lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    assert!(agent.join(&lab, &token).await.reached);
    // As when the state directory is restored from before the last renewal: the certificate is in force, its key unknown.
    sqlx::query("UPDATE certificates SET spki_sha256 = zeroblob(32)")
        .execute(lab.controller().store().pool())
        .await
        .expect("an old record");
    lab.crash().await;
    lab.up().await.expect("start");
    until("the host needs to join anew", || async {
        lab.host("cp1").await.state() == pb::HostState::NeedsRejoin
    })
    .await;
    let reason = lab.host("cp1").await.state_reason;
    assert!(reason.contains("not the one that is recorded"), "{reason}");
    let request = pb::GetHostRequest {
        name: "cp1".to_owned(),
        refresh: true,
    };
    let answer = lab.hosts().await.get_host(request).await.expect("host");
    let dial = answer.into_inner().dial.expect("dialled");
    assert!(!dial.reached && dial.attempts.len() == 1, "{dial:?}");
}

#[tokio::test]
async fn an_agent_that_takes_no_certificate_does_not_fill_the_database() {
    // Due after four seconds, and then tried again every 300 ms.
    let lab = Lab::start_with(|config| config.timings.leaf = Duration::from_secs(6)).await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    agent.refuses_certificates.store(true, Ordering::Relaxed);
    assert!(agent.join(&lab, &token).await.reached);
    let serial = agent.serial();
    let store = lab.controller().store();
    let mut issued = std::collections::BTreeSet::new();
    while issued.len() < 6 {
        let refused = tokio::time::timeout(PATIENCE, agent.refused.notified());
        assert!(refused.await.is_ok(), "none since {issued:?}");
        let rows = store.certificates(Holder::Agent("cp1")).await;
        let pending: Vec<_> = rows
            .expect("certificates")
            .into_iter()
            .filter(|row| row.pending)
            .collect();
        assert!(pending.len() <= 3, "{} are pending", pending.len());
        issued.extend(pending.into_iter().map(|row| row.serial));
    }
    assert_eq!(agent.serial(), serial);
    // It can write again: the next certificate is taken and the waiting ones are gone.
    agent.refuses_certificates.store(false, Ordering::Relaxed);
    until("the agent has another certificate", || async {
        agent.serial() != serial
    })
    .await;
}
