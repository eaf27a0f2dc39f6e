//! The exact content of the files that an install writes. Pure; called by [`super::install`].

use canasta_proto::pb::{K3sRole, K3sSpec};
use serde::Serialize;

use super::paths;

/// What stands above the settings in `config.yaml`.
const CONFIG_HEADER: &str = "\
# Written by canasta-agent, which replaces it whenever k3s is installed again.
# Own settings go into files of their own: /etc/rancher/k3s/config.yaml.d/*.yaml
# (read in alphabetical order after this file; a later value wins, `key+:` appends to a list).
";

/// Keeps the client's address for the web server: traefik on each node, traffic stays on the node that it came to.
const TRAEFIK: &str = "\
# Written by canasta-agent.
apiVersion: helm.cattle.io/v1
kind: HelmChartConfig
metadata:
  name: traefik
  namespace: kube-system
spec:
  valuesContent: |-
    deployment:
      kind: DaemonSet
    service:
      spec:
        externalTrafficPolicy: Local
";

/// udev would give flannel's link a hardware address of its own after flannel has told the other nodes another one.
const LINK_FILE: &str = "\
# Written by canasta-agent: flannel chooses the hardware address of its links itself.
[Match]
OriginalName=flannel*

[Link]
MACAddressPolicy=none
";

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Config<'a> {
    node_name: &'a str,
    node_ip: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    flannel_iface: &'a str,
    #[serde(flatten)]
    role: RoleConfig<'a>,
}

/// The settings that only one role has.
#[derive(Serialize)]
#[serde(untagged)]
enum RoleConfig<'a> {
    #[serde(rename_all = "kebab-case")]
    Server {
        tls_san: Vec<&'a str>,
        write_kubeconfig_mode: &'a str,
        agent_token_file: &'a str,
    },
    #[serde(rename_all = "kebab-case")]
    Agent {
        server: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_file: Option<&'a str>,
    },
}

/// Whether an agent's configuration names the file with the credential of its join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// It is there: for the join, and for each start.
    Named,
    /// There is none yet.
    Absent,
}

/// `config.yaml`. Holds no secret: tokens stand in files of their own. A server has no credential of a join.
///
/// # Errors
/// What the YAML writer says; no value of a [`K3sSpec`] is known to bring that about.
pub fn config(spec: &K3sSpec, credential: Credential) -> Result<String, serde_norway::Error> {
    let role = match spec.role() {
        K3sRole::Agent => RoleConfig::Agent {
            server: &spec.server_url,
            token_file: (credential == Credential::Named).then_some(paths::JOIN_TOKEN),
        },
        K3sRole::Server | K3sRole::Unspecified => RoleConfig::Server {
            tls_san: tls_sans(spec),
            write_kubeconfig_mode: "0600",
            agent_token_file: paths::AGENT_TOKEN,
        },
    };
    let config = Config {
        node_name: &spec.node_name,
        node_ip: &spec.node_ip,
        flannel_iface: &spec.flannel_link,
        role,
    };
    Ok(format!(
        "{CONFIG_HEADER}{}",
        serde_norway::to_string(&config)?
    ))
}

/// The names for the API's certificate: the given ones, then the node's own, each once.
fn tls_sans(spec: &K3sSpec) -> Vec<&str> {
    let own = [spec.node_name.as_str(), spec.node_ip.as_str()];
    let mut sans: Vec<&str> = Vec::new();
    for san in spec.tls_sans.iter().map(String::as_str).chain(own) {
        if !san.is_empty() && !sans.contains(&san) {
            sans.push(san);
        }
    }
    sans
}

/// The unit file. Containers survive a restart of k3s (`KillMode=process`), and a start may take as long as it takes:
/// the agent watches it with a limit of its own.
pub fn unit(role: K3sRole) -> String {
    let name = paths::unit(role);
    let env = paths::env_file(name);
    let binary = paths::BINARY;
    let command = match role {
        K3sRole::Agent => "agent",
        K3sRole::Server | K3sRole::Unspecified => "server",
    };
    format!(
        "\
# Written by canasta-agent. Own settings go into `systemctl edit {name}`.
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
EnvironmentFile=-{env}
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
ExecStart={binary} {command}
"
    )
}

/// The environment file: empty. An operator's own variables (a proxy, say) go into `/etc/default/k3s`, which the unit reads too.
pub fn env() -> &'static str {
    ""
}

/// The settings of traefik.
pub fn traefik() -> &'static str {
    TRAEFIK
}

/// The file for udev.
pub fn link_file() -> &'static str {
    LINK_FILE
}

#[cfg(test)]
mod tests;
