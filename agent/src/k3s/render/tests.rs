//! The files of k3s, word for word.

use super::*;

fn spec() -> K3sSpec {
    K3sSpec {
        role: K3sRole::Server.into(),
        version: "v1.34.8+k3s1".to_owned(),
        binary_sha256: "00".repeat(32),
        node_ip: "10.77.0.11".to_owned(),
        flannel_link: "host0".to_owned(),
        node_name: "cp1".to_owned(),
        tls_sans: vec!["203.0.113.7".to_owned(), "cp1".to_owned()],
        server_url: String::new(),
        local_paths: Vec::new(),
    }
}

fn settings(text: &str) -> &str {
    text.strip_prefix(CONFIG_HEADER).expect("the header")
}

#[test]
fn the_configuration_is_exactly_this() {
    let golden = "\
node-name: cp1
node-ip: 10.77.0.11
flannel-iface: host0
tls-san:
- 203.0.113.7
- cp1
- 10.77.0.11
write-kubeconfig-mode: '0600'
agent-token-file: /etc/rancher/k3s/agent-token
";
    assert_eq!(
        settings(&config(&spec(), Credential::Absent).unwrap()),
        golden
    );
}

#[test]
fn the_configuration_of_an_agent_names_its_credential_while_there_is_one() {
    let spec = K3sSpec {
        role: K3sRole::Agent.into(),
        node_name: "w1".to_owned(),
        server_url: "https://10.77.0.11:6443".to_owned(),
        ..spec()
    };
    let without = "\
node-name: w1
node-ip: 10.77.0.11
flannel-iface: host0
server: https://10.77.0.11:6443
";
    let text = config(&spec, Credential::Absent).unwrap();
    assert_eq!(settings(&text), without);
    let text = config(&spec, Credential::Named).unwrap();
    assert_eq!(
        settings(&text),
        format!("{without}token-file: /etc/rancher/k3s/join-token\n")
    );
}

#[test]
fn without_a_link_flannel_chooses() {
    let spec = K3sSpec {
        flannel_link: String::new(),
        ..spec()
    };
    assert!(
        !config(&spec, Credential::Absent)
            .unwrap()
            .contains("flannel")
    );
}

#[test]
fn odd_values_are_quoted() {
    let spec = K3sSpec {
        node_name: "0x1f".to_owned(),
        tls_sans: vec!["fd00::1".to_owned(), "1e3".to_owned(), String::new()],
        ..spec()
    };
    let text = config(&spec, Credential::Absent).unwrap();
    let read: serde_norway::Value = serde_norway::from_str(&text).unwrap();
    assert_eq!(read["node-name"].as_str(), Some("0x1f"));
    let sans: Vec<_> = read["tls-san"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|san| san.as_str().unwrap())
        .collect();
    assert_eq!(sans, ["fd00::1", "1e3", "0x1f", "10.77.0.11"]);
}

#[test]
fn the_header_says_where_own_settings_go() {
    assert!(CONFIG_HEADER.contains(paths::CONFIG_DROP_INS));
    assert!(CONFIG_HEADER.lines().all(|line| line.starts_with('#')));
}

#[test]
fn the_unit_is_exactly_this() {
    let golden = "\
# Written by canasta-agent. Own settings go into `systemctl edit k3s.service`.
[Unit]
Description=Lightweight Kubernetes
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/etc/systemd/system/k3s.service.env
User=root
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/k3s server
";
    assert_eq!(unit(K3sRole::Server), golden);
    assert!(unit(K3sRole::Agent).ends_with("ExecStart=/usr/local/bin/k3s agent\n"));
    assert!(unit(K3sRole::Agent).contains("k3s-agent.service.env"));
}

#[test]
fn the_manifest_keeps_the_address_of_clients() {
    let manifest: serde_norway::Value = serde_norway::from_str(traefik()).unwrap();
    assert_eq!(manifest["kind"].as_str(), Some("HelmChartConfig"));
    assert_eq!(manifest["metadata"]["name"].as_str(), Some("traefik"));
    assert_eq!(
        manifest["metadata"]["namespace"].as_str(),
        Some("kube-system")
    );
    let values = manifest["spec"]["valuesContent"].as_str().unwrap();
    let values: serde_norway::Value = serde_norway::from_str(values).unwrap();
    assert_eq!(values["deployment"]["kind"].as_str(), Some("DaemonSet"));
    assert_eq!(
        values["service"]["spec"]["externalTrafficPolicy"].as_str(),
        Some("Local")
    );
}
