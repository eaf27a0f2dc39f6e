//! Where k3s and the agent's records of it lie. All paths are absolute paths of the host.

use canasta_proto::pb::K3sRole;

/// The binary.
pub const BINARY: &str = "/usr/local/bin/k3s";
/// Where the binary and the links to it lie.
pub const BINARY_DIR: &str = "/usr/local/bin";
/// Where installers other than this one put the binary.
pub const OTHER_BINARIES: [&str; 2] = ["/opt/bin/k3s", "/usr/bin/k3s"];
/// The scripts that k3s's own installer leaves behind: of a server and of an agent.
pub const UNINSTALL_SCRIPTS: [&str; 2] = [
    "/usr/local/bin/k3s-uninstall.sh",
    "/usr/local/bin/k3s-agent-uninstall.sh",
];
/// What the links to the binary hold: the binary beside them, whatever the directory is called.
pub const LINK_TARGET: &str = "k3s";
/// What names of staged binaries begin with.
pub const STAGED_PREFIX: &str = ".canasta-k3s-";
/// Names that k3s answers to besides its own.
pub const LINK_NAMES: [&str; 3] = ["kubectl", "crictl", "ctr"];
/// Where a shell looks for programs: a name that is there is not free.
pub const PROGRAM_DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// All settings.
pub const CONFIG_DIR: &str = "/etc/rancher/k3s";
/// What a node keeps to prove that it is itself: its password.
pub const NODE_DIR: &str = "/etc/rancher/node";
/// The configuration that the agent writes.
pub const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// The configuration that operators write; read after [`CONFIG`], the last one wins.
pub const CONFIG_DROP_INS: &str = "/etc/rancher/k3s/config.yaml.d";
/// The secret that agents of the cluster join with; made by this agent, so that it is not the server's token.
pub const AGENT_TOKEN: &str = "/etc/rancher/k3s/agent-token";
/// The credential that this node joins its cluster with, while it is kept.
pub const JOIN_TOKEN: &str = "/etc/rancher/k3s/join-token";
/// The administrator's kubeconfig; k3s writes it at each start.
pub const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// Keeps udev from changing the hardware address of flannel's link.
pub const LINK_FILE: &str = "/etc/systemd/network/10-canasta-flannel.link";

/// All that k3s keeps.
pub const DATA_DIR: &str = "/var/lib/rancher/k3s";
/// The certificate by which the kubelet of an agent is known, and its key. The server makes them when the node joins.
pub const KUBELET_IDENTITY: [&str; 2] = [
    "/var/lib/rancher/k3s/agent/client-kubelet.crt",
    "/var/lib/rancher/k3s/agent/client-kubelet.key",
];
/// The iptables that k3s brings, for machines that have none.
pub const BUNDLED_PROGRAMS: &str = "/var/lib/rancher/k3s/data/current/bin/aux";
/// Where volumes of the local-path provisioner lie unless it is told otherwise.
pub const LOCAL_STORAGE: &str = "/var/lib/rancher/k3s/storage";
/// The manifest of the local-path provisioner, with its settings.
pub const LOCAL_STORAGE_MANIFEST: &str = "/var/lib/rancher/k3s/server/manifests/local-storage.yaml";
/// The kubelet's: pods and their volumes.
pub const KUBELET_DIR: &str = "/var/lib/kubelet";
/// Volumes of pods, by the pod's uid.
pub const KUBELET_PODS: &str = "/var/lib/kubelet/pods";
/// Where drivers of volumes mount what pods share.
pub const KUBELET_PLUGINS: &str = "/var/lib/kubelet/plugins";
/// containerd's state, with the root file systems of containers.
pub const RUN_DIR: &str = "/run/k3s";
/// flannel's.
pub const FLANNEL_DIR: &str = "/run/flannel";
/// The networks that flannel was told.
pub const SUBNET_ENV: &str = "/run/flannel/subnet.env";
/// Which addresses pods have.
pub const CNI_DIR: &str = "/var/lib/cni";
/// Logs of pods.
pub const POD_LOGS: &str = "/var/log/pods";
/// Links to the logs of pods, by container.
pub const CONTAINER_LOGS: &str = "/var/log/containers";
/// runc's state of Kubernetes containers, in a directory that other container engines share.
pub const RUNC_DIR: &str = "/run/containerd/runc/k8s.io";
/// Sockets of shims, in a directory that other container engines share.
pub const SHIM_SOCKETS: &str = "/run/containerd/s";
/// Named network namespaces; those of pods begin with `cni-`.
pub const NETNS_DIR: &str = "/run/netns";
/// The networks of pods unless a cluster is told otherwise.
pub const CLUSTER_NETWORKS: [&str; 2] = ["10.42.0.0/16", "fd00:42::/56"];
/// What a server keeps.
pub const SERVER_DIR: &str = "/var/lib/rancher/k3s/server";
/// The server's own token, which makes its holder an administrator. Never handed out.
pub const SERVER_TOKEN: &str = "/var/lib/rancher/k3s/server/token";
/// Where newer versions keep the token of agents: a link to the server's unless one is set.
pub const SERVER_AGENT_TOKEN: &str = "/var/lib/rancher/k3s/server/agent-token";
/// Manifests that a server applies by itself.
pub const MANIFESTS_DIR: &str = "/var/lib/rancher/k3s/server/manifests";
/// Settings for the traefik that k3s brings.
pub const TRAEFIK_MANIFEST: &str = "/var/lib/rancher/k3s/server/manifests/canasta-traefik.yaml";
/// The CA of the cluster's servers; the same bytes as the body of `/cacerts`.
pub const SERVER_CA: &str = "/var/lib/rancher/k3s/server/tls/server-ca.crt";

/// The agent's records of what it put on this node.
pub const OWNED_DIR: &str = "/var/lib/canasta-agent/owned";
/// The record of k3s.
pub const RECORD: &str = "/var/lib/canasta-agent/owned/k3s.json";
/// The picture of the node from before the first install.
pub const SNAPSHOT: &str = "/var/lib/canasta-agent/owned/snapshot-before.json";

/// The unit of a server.
pub const SERVER_UNIT: &str = "k3s.service";
/// The unit of an agent.
pub const AGENT_UNIT: &str = "k3s-agent.service";

/// The unit of a role; an unknown role is taken for a server.
pub fn unit(role: K3sRole) -> &'static str {
    match role {
        K3sRole::Agent => AGENT_UNIT,
        K3sRole::Server | K3sRole::Unspecified => SERVER_UNIT,
    }
}

/// The unit file of a unit.
pub fn unit_file(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}")
}

/// The environment file of a unit.
pub fn env_file(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.env")
}

/// Where the artefact with this SHA-256 (hex) is staged: beside the binary, so that a rename puts it in place.
pub fn staged_binary(sha256: &str) -> String {
    format!("{BINARY_DIR}/{STAGED_PREFIX}{sha256}.staged")
}
