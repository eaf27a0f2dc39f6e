//! Which flags k3s has; the same names are keys of config.yaml.

use super::Command;

/// Flags of server and agent.
const BOTH: &[&str] = &[
    "config",
    "debug",
    "v",
    "vmodule",
    "log",
    "alsologtostderr",
    "data-dir",
    "token",
    "token-file",
    "node-name",
    "with-node-id",
    "node-label",
    "node-taint",
    "image-credential-provider-bin-dir",
    "image-credential-provider-config",
    "docker",
    "container-runtime-endpoint",
    "pause-image",
    "snapshotter",
    "private-registry",
    "node-ip",
    "node-external-ip",
    "resolv-conf",
    "flannel-iface",
    "flannel-conf",
    "kubelet-arg",
    "kube-proxy-arg",
    "protect-kernel-defaults",
    "rootless",
    "server",
    "selinux",
    "lb-server-port",
    "no-flannel",
    "cluster-secret",
];

/// Flags of the server alone.
const SERVER: &[&str] = &[
    "bind-address",
    "https-listen-port",
    "advertise-address",
    "advertise-port",
    "tls-san",
    "cluster-cidr",
    "service-cidr",
    "service-node-port-range",
    "cluster-dns",
    "cluster-domain",
    "flannel-backend",
    "write-kubeconfig",
    "write-kubeconfig-mode",
    "kube-apiserver-arg",
    "kube-controller-manager-arg",
    "kube-scheduler-arg",
    "kube-cloud-controller-manager-arg",
    "datastore-endpoint",
    "datastore-cafile",
    "datastore-certfile",
    "datastore-keyfile",
    "etcd-expose-metrics",
    "etcd-disable-snapshots",
    "etcd-snapshot-name",
    "etcd-snapshot-schedule-cron",
    "etcd-snapshot-retention",
    "etcd-snapshot-dir",
    "etcd-s3",
    "etcd-s3-endpoint",
    "etcd-s3-endpoint-ca",
    "etcd-s3-skip-ssl-verify",
    "etcd-s3-access-key",
    "etcd-s3-secret-key",
    "etcd-s3-bucket",
    "etcd-s3-region",
    "etcd-s3-folder",
    "default-local-storage-path",
    "disable",
    "disable-scheduler",
    "disable-cloud-controller",
    "disable-kube-proxy",
    "disable-network-policy",
    "disable-helm-controller",
    "agent-token",
    "agent-token-file",
    "cluster-init",
    "cluster-reset",
    "cluster-reset-restore-path",
    "secrets-encryption",
    "system-default-registry",
    "no-deploy",
    "embedded-registry",
    "egress-selector-mode",
    "flannel-ipv6-masq",
    "servicelb-namespace",
    "supervisor-metrics",
    "write-kubeconfig-group",
    "disable-apiserver",
    "disable-controller-manager",
    "disable-etcd",
    "etcd-arg",
    "tls-san-security",
    "helm-job-image",
    "kine-tls",
    "enable-pprof",
];

/// Flags of both that came after the recorded version.
const NEWER: &[&str] = &[
    "vpn-auth",
    "vpn-auth-file",
    "prefer-bundled-bin",
    "disable-default-registry-endpoint",
    "nonroot-devices",
    "default-runtime",
    "airgap-extra-registry",
    "node-internal-dns",
    "node-external-dns",
    "kubelet-config",
];

/// Flags without a value.
const SWITCHES: &[&str] = &[
    "alsologtostderr",
    "cluster-init",
    "cluster-reset",
    "debug",
    "disable-apiserver",
    "disable-cloud-controller",
    "disable-controller-manager",
    "disable-default-registry-endpoint",
    "disable-etcd",
    "disable-helm-controller",
    "disable-kube-proxy",
    "disable-network-policy",
    "disable-scheduler",
    "docker",
    "embedded-registry",
    "enable-pprof",
    "etcd-disable-snapshots",
    "etcd-expose-metrics",
    "etcd-s3",
    "etcd-s3-skip-ssl-verify",
    "flannel-ipv6-masq",
    "kine-tls",
    "no-flannel",
    "nonroot-devices",
    "prefer-bundled-bin",
    "protect-kernel-defaults",
    "rootless",
    "secrets-encryption",
    "selinux",
    "supervisor-metrics",
    "tls-san-security",
    "with-node-id",
];

/// Variables and the keys that they set.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("K3S_TOKEN", "token"),
    ("K3S_TOKEN_FILE", "token-file"),
    ("K3S_URL", "server"),
    ("K3S_NODE_NAME", "node-name"),
    ("K3S_KUBECONFIG_MODE", "write-kubeconfig-mode"),
    ("K3S_AGENT_TOKEN", "agent-token"),
    ("K3S_AGENT_TOKEN_FILE", "agent-token-file"),
];

/// Whether the sub-command has the flag.
pub(super) fn is_known(command: Command, key: &str) -> bool {
    BOTH.contains(&key)
        || NEWER.contains(&key)
        || (command == Command::Server && SERVER.contains(&key))
}

/// Whether the flag stands alone.
pub(super) fn is_switch(key: &str) -> bool {
    SWITCHES.contains(&key)
}

/// The long name of a one-letter flag.
pub(super) fn long_name(name: &str) -> &str {
    match name {
        "c" => "config",
        "d" => "data-dir",
        "i" => "node-ip",
        "l" => "log",
        "o" => "write-kubeconfig",
        "s" => "server",
        "t" => "token",
        other => other,
    }
}
