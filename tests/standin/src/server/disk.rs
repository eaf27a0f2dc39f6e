//! The files that a server leaves: modes and forms as recorded. Called by the timeline at the recorded moments.

use base64::Engine as _;

use super::{Shared, StartError};
use crate::agent;
use crate::files::{self, FileError, Paths};
use crate::pki::Identity;
use crate::token;
use crate::trailer::Profile;

/// The directories that are there before anything else.
pub(super) fn skeleton(paths: &Paths) -> Result<(), FileError> {
    files::directory(&paths.root("etc/rancher/k3s"), 0o755)?;
    for (name, mode) in [
        ("", 0o700),
        ("db", 0o700),
        ("tls", 0o700),
        ("cred", 0o700),
        ("manifests", 0o700),
    ] {
        files::directory(&paths.server(name), mode)?;
    }
    agent::disk::unpack(paths)
}

/// All that appears at the instant the supervisor answers.
pub(super) fn up(shared: &Shared) -> Result<(), StartError> {
    let paths = &shared.paths;
    let cacerts = shared.server_ca.certificate();
    let admin = shared
        .client_ca
        .client("system:admin", Some("system:masters"))?;
    files::write(
        &paths.server("tls/client-admin.crt"),
        0o644,
        &admin.certificate,
    )?;
    files::write(&paths.server("tls/client-admin.key"), 0o600, &admin.key)?;
    let mode = shared
        .config
        .get("write-kubeconfig-mode")
        .and_then(|mode| u32::from_str_radix(mode, 8).ok())
        .unwrap_or(0o600);
    files::write(
        &paths.kubeconfig(),
        mode,
        kubeconfig(cacerts, &admin, shared.port()),
    )?;
    tokens(shared, cacerts)?;
    let users = format!(
        "{},node,node,k3s:agent\n{},server,server,k3s:server\n",
        shared.node_secret, shared.server_secret
    );
    files::write(&paths.server("cred/passwd"), 0o600, users)?;
    agent::disk::node_password(paths)?;
    let node = &shared.node;
    let client = shared
        .client_ca
        .client(&format!("system:node:{}", node.name), Some("system:nodes"))?;
    let serving = shared.server_ca.server(
        &node.name,
        &[node.name.clone(), node.address.clone(), "127.0.0.1".into()],
    )?;
    let server = format!("https://127.0.0.1:{}", shared.port());
    agent::disk::certificates(
        paths,
        shared.client_ca.certificate(),
        cacerts,
        &client,
        &serving,
    )?;
    agent::disk::settings(paths, &server)?;
    Ok(())
}

fn tokens(shared: &Shared, cacerts: &str) -> Result<(), FileError> {
    let paths = &shared.paths;
    let server = token::secure(cacerts, "server", &shared.server_secret);
    files::write(&paths.server("token"), 0o600, format!("{server}\n"))?;
    files::link(&paths.server("node-token"), &paths.server("token"))?;
    if shared.profile == Profile::Documented {
        let path = paths.server("agent-token");
        if shared.node_secret == shared.server_secret {
            files::link(&path, &paths.server("token"))?;
        } else {
            let agent = token::secure(cacerts, "node", &shared.node_secret);
            files::write(&path, 0o600, format!("{agent}\n"))?;
        }
    }
    shared.log.info(format!(
        "Node token is available at {}",
        paths.server("token").display()
    ));
    shared.log.info(format!(
        "To join node to cluster: k3s agent -s https://{}:{} -t ${{NODE_TOKEN}}",
        shared.node.address,
        shared.port()
    ));
    shared
        .log
        .info(format!("Wrote kubeconfig {}", paths.kubeconfig().display()));
    Ok(())
}

fn kubeconfig(cacerts: &str, admin: &Identity, port: u16) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    \
         server: https://127.0.0.1:{port}\n  name: default\ncontexts:\n- context:\n    cluster: default\n    \
         user: default\n  name: default\ncurrent-context: default\nkind: Config\npreferences: {{}}\nusers:\n\
         - name: default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encode(cacerts),
        encode(&admin.certificate),
        encode(&admin.key)
    )
}
