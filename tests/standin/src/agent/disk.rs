//! The files of an agent's directory and its node's identity, the same on a server and on a worker.

use crate::files::{self, FileError, Paths};
use crate::pki::Identity;
use crate::token;

/// The directory that the real program unpacks itself into.
pub(crate) const UNPACKED: &str =
    "a32c1e7dd73454fbb2d1a8c5635cdb5bd83a7100fdfe740cc6c88ae8836314cc";

/// Makes that directory.
pub(crate) fn unpack(paths: &Paths) -> Result<(), FileError> {
    files::directory(&paths.unpacked(UNPACKED).join("bin"), 0o755)?;
    files::link(&paths.unpacked("current"), &paths.unpacked(UNPACKED))
}

/// The node's password: the one that is there, or a new one.
pub(crate) fn node_password(paths: &Paths) -> Result<String, FileError> {
    let path = paths.node_password();
    if !path.exists() {
        files::write(&path, 0o600, format!("{}\n", token::random()))?;
    }
    Ok(files::read(&path)?.trim().to_owned())
}

/// Authorities and the kubelet's own certificates.
pub(crate) fn certificates(
    paths: &Paths,
    client_ca: &str,
    server_ca: &str,
    client: &Identity,
    serving: &Identity,
) -> Result<(), FileError> {
    for (name, text) in [
        ("client-ca.crt", client_ca),
        ("server-ca.crt", server_ca),
        ("client-kubelet.crt", &client.certificate),
        ("client-kubelet.key", &client.key),
        ("serving-kubelet.crt", &serving.certificate),
        ("serving-kubelet.key", &serving.key),
    ] {
        files::write(&paths.agent(name), 0o600, text)?;
    }
    Ok(())
}

/// The kubelet's client certificate of an earlier join.
pub(crate) fn client(paths: &Paths) -> Option<Identity> {
    Some(Identity {
        certificate: files::read(&paths.agent("client-kubelet.crt")).ok()?,
        key: files::read(&paths.agent("client-kubelet.key")).ok()?,
    })
}

/// What the kubelet, containerd and flannel are configured with, and the directories that they use.
pub(crate) fn settings(paths: &Paths, server: &str) -> Result<(), FileError> {
    let file = |name: &str| paths.agent(name).display().to_string();
    let kubelet = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    server: {server}\n    certificate-authority: {}\n  name: local\n\
         contexts:\n- context:\n    cluster: local\n    namespace: default\n    user: user\n  name: Default\n\
         current-context: Default\nkind: Config\npreferences: {{}}\nusers:\n- name: user\n  user:\n    \
         client-certificate: {}\n    client-key: {}\n",
        file("server-ca.crt"),
        file("client-kubelet.crt"),
        file("client-kubelet.key")
    );
    files::write(&paths.agent("kubelet.kubeconfig"), 0o644, kubelet)?;
    files::directory(&paths.agent("etc"), 0o700)?;
    files::write(
        &paths.agent("etc/containerd/config.toml"),
        0o644,
        "[plugins.opt]\n  path = \"/var/lib/rancher/k3s/agent/containerd\"\n",
    )?;
    files::write(
        &paths.agent("etc/flannel/net-conf.json"),
        0o644,
        "{\"Network\": \"10.42.0.0/16\", \"Backend\": {\"Type\": \"vxlan\"}}\n",
    )?;
    files::directory(&paths.agent("images"), 0o755)?;
    files::directory(&paths.root("var/lib/kubelet"), 0o750)?;
    files::directory(&paths.root("run/k3s"), 0o711)?;
    files::directory(&paths.root("run/k3s/containerd"), 0o711)
}

/// flannel's lease, which appears when the network is up.
pub(crate) fn subnet(paths: &Paths, pod_cidr: &str) -> Result<(), FileError> {
    let gateway = pod_cidr.replace(".0/24", ".1/24");
    let text = format!(
        "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET={gateway}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    );
    files::write(&paths.root("run/flannel/subnet.env"), 0o644, text)
}
