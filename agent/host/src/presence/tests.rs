//! What else is on a machine that matters.

use super::*;
use crate::fake::FakeHost;
use crate::systemd::Unit;

fn unit(name: &str, active: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        load_state: "loaded".to_owned(),
        active_state: active.to_owned(),
        ..Unit::default()
    }
}

#[tokio::test]
async fn a_bare_machine_has_nothing() {
    let fake = FakeHost::new("n1");
    assert_eq!(
        presence(&fake.root, &*fake.systemd).await.unwrap(),
        Presence::default()
    );
    fake.root
        .create_dir_all("/etc/kubernetes/manifests", 0o755)
        .await
        .unwrap();
    fake.systemd.add(unit("docker.service", "inactive"));
    assert_eq!(
        presence(&fake.root, &*fake.systemd).await.unwrap(),
        Presence::default()
    );
}

#[tokio::test]
async fn docker_is_found_by_unit_or_socket() {
    let fake = FakeHost::new("n1");
    fake.root
        .write("/var/run/docker.sock", "", 0o660)
        .await
        .unwrap();
    let docker = presence(&fake.root, &*fake.systemd)
        .await
        .unwrap()
        .docker
        .unwrap();
    assert_eq!(docker.evidence, "/var/run/docker.sock exists");
    fake.systemd.add(unit("docker.service", "active"));
    let docker = presence(&fake.root, &*fake.systemd)
        .await
        .unwrap()
        .docker
        .unwrap();
    assert_eq!(docker.evidence, "docker.service is active");
}

#[tokio::test]
async fn other_distributions_are_found_with_their_evidence() {
    let fake = FakeHost::new("n1");
    fake.systemd.add(unit("rke2-server.service", "failed"));
    fake.root
        .write("/etc/kubernetes/manifests/etcd.yaml", "", 0o600)
        .await
        .unwrap();
    fake.systemd.add(unit("k3s.service", "active"));
    let found = presence(&fake.root, &*fake.systemd)
        .await
        .unwrap()
        .kubernetes;
    let shown: Vec<_> = found
        .iter()
        .map(|one| format!("{}: {}", one.name, one.evidence))
        .collect();
    assert_eq!(
        shown,
        [
            "RKE2 server: rke2-server.service is installed and failed",
            "control plane set up by kubeadm: /etc/kubernetes/manifests is not empty"
        ]
    );
}

#[tokio::test]
async fn without_systemd_the_question_stays_open() {
    let fake = FakeHost::new("n1");
    fake.systemd.set_unreachable(true);
    assert!(matches!(
        presence(&fake.root, &*fake.systemd).await,
        Err(PresenceError::Systemd(_))
    ));
}
