//! The supervisor's own paths: `/ping`, `/cacerts`, `/v1-k3s/*`. Agents join through them; all else falls through to
//! the API server.

use base64::Engine as _;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::answer::{Body, plain};
use super::store::Key;
use super::{Phase, Shared, auth};
use crate::bootstrap::{self, BootstrapToken};
use crate::pki::{Identity, PkiError};
use crate::token;
use crate::trailer::Profile;

const TEXT: &str = "text/plain; charset=utf-8";

/// Who asks the supervisor.
enum Caller {
    /// Somebody with a secret that agents join with.
    Joining,
    /// A member, by the certificate of its kubelet.
    Node(String),
}

/// Answers a supervisor path; `None` for all others.
pub(super) fn respond(
    shared: &Shared,
    certificates: &[CertificateDer<'_>],
    request: &Request<Incoming>,
) -> Option<Response<Body>> {
    let path = request.uri().path();
    match path {
        "/ping" => return Some(plain(StatusCode::OK, "text/plain", "pong")),
        "/cacerts" => {
            let body = shared.server_ca.certificate().to_owned();
            return Some(plain(StatusCode::OK, "text/plain", body));
        }
        "/db/info" => return Some(plain(StatusCode::FORBIDDEN, "", "")),
        _ => {}
    }
    let name = path.strip_prefix("/v1-k3s/")?;
    let known = matches!(
        name,
        "config"
            | "connect"
            | "client-ca.crt"
            | "server-ca.crt"
            | "serving-kubelet.crt"
            | "client-kubelet.crt"
            | "client-kube-proxy.crt"
            | "client-k3s-controller.crt"
    ) || name == "readyz" && shared.profile == Profile::Documented;
    if !known {
        return None;
    }
    let caller = match caller(shared, certificates, request.headers()) {
        Ok(caller) => caller,
        Err(refusal) => return Some(plain(refusal, "", "")),
    };
    Some(match name {
        "config" => plain(
            StatusCode::OK,
            "application/json",
            config(shared).to_string(),
        ),
        "client-ca.crt" => plain(
            StatusCode::OK,
            "text/plain",
            shared.client_ca.certificate().to_owned(),
        ),
        "server-ca.crt" => plain(
            StatusCode::OK,
            "text/plain",
            shared.server_ca.certificate().to_owned(),
        ),
        "readyz" if shared.phase() == Phase::Ready => plain(StatusCode::OK, TEXT, "ok"),
        "readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready"),
        "client-kube-proxy.crt" => issued(&shared.client_ca.client("system:kube-proxy", None)),
        "client-k3s-controller.crt" => {
            issued(&shared.client_ca.client("system:k3s-controller", None))
        }
        "serving-kubelet.crt" | "client-kubelet.crt" => {
            kubelet_certificate(shared, &caller, name, request.headers())
        }
        _ => plain(StatusCode::BAD_REQUEST, TEXT, "Bad Request"),
    })
}

// Newer releases take the kubelet's own certificate first, then a bootstrap token.
fn caller(
    shared: &Shared,
    certificates: &[CertificateDer<'_>],
    headers: &HeaderMap,
) -> Result<Caller, StatusCode> {
    if shared.profile == Profile::Documented {
        if let Some(user) = auth::certified(shared.verifier.as_ref(), certificates)
            && let Some(node) = user.node_name()
        {
            return Ok(Caller::Node(node.to_owned()));
        }
        if let Some(text) = auth::bearer(headers) {
            return BootstrapToken::parse(text)
                .filter(|token| is_good(shared, token))
                .map(|_| Caller::Joining)
                .ok_or(StatusCode::UNAUTHORIZED);
        }
    }
    match auth::basic(headers) {
        None => Err(StatusCode::FORBIDDEN),
        Some((user, secret)) if user == "node" && secret == shared.node_secret => {
            Ok(Caller::Joining)
        }
        Some((user, secret)) if user == "server" && secret == shared.server_secret => {
            Err(StatusCode::FORBIDDEN)
        }
        Some(_) => Err(StatusCode::UNAUTHORIZED),
    }
}

fn is_good(shared: &Shared, token: &BootstrapToken) -> bool {
    let Some(secrets) = shared.resources.find("", "v1", "secrets") else {
        return false;
    };
    let key = Key::new(secrets, "kube-system", &bootstrap::secret_name(&token.id));
    shared
        .store
        .get(&key)
        .is_some_and(|secret| bootstrap::accepts(&secret, token, jiff::Timestamp::now()))
}

/// Removes the bootstrap tokens whose time has come, as the token cleaner does.
pub(super) fn sweep_tokens(shared: &Shared) {
    let Some(secrets) = shared.resources.find("", "v1", "secrets") else {
        return;
    };
    let now = jiff::Timestamp::now();
    for secret in shared.store.list(secrets, "kube-system").objects {
        if bootstrap::is_expired(&secret, now) {
            let name = secret["metadata"]["name"].as_str().unwrap_or_default();
            // Deleted by somebody else at this moment is as good.
            let _ = shared.store.delete(&Key::new(secrets, "kube-system", name));
        }
    }
}

fn kubelet_certificate(
    shared: &Shared,
    caller: &Caller,
    name: &str,
    headers: &HeaderMap,
) -> Response<Body> {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .filter(|value| !value.is_empty())
    };
    let Some(node) = header("k3s-Node-Name") else {
        return plain(StatusCode::BAD_REQUEST, TEXT, "node name not set");
    };
    let Some(password) = header("k3s-Node-Password") else {
        return plain(StatusCode::BAD_REQUEST, TEXT, "node password not set");
    };
    if let Caller::Node(own) = caller {
        if own != node {
            let message = "header node name does not match auth node name";
            return plain(StatusCode::BAD_REQUEST, TEXT, message);
        }
        let exists = shared
            .resources
            .find("", "v1", "nodes")
            .and_then(|nodes| shared.store.get(&Key::new(nodes, "", node)));
        if exists.is_none() {
            let message = format!("unable to verify node identity: nodes \"{node}\" not found");
            return plain(StatusCode::UNAUTHORIZED, TEXT, message);
        }
    }
    if let Err(message) = check_password(shared, node, password) {
        shared.log.error(&message);
        return plain(StatusCode::FORBIDDEN, TEXT, message);
    }
    if name == "client-kubelet.crt" {
        let user = format!("system:node:{node}");
        return issued(&shared.client_ca.client(&user, Some("system:nodes")));
    }
    let mut names = vec![node.to_owned(), "localhost".into(), "127.0.0.1".into()];
    names.extend(
        header("k3s-Node-IP")
            .into_iter()
            .flat_map(|ips| ips.split(','))
            .map(str::to_owned),
    );
    issued(&shared.server_ca.server(node, &names))
}

/// Checks a node's password against its Secret, which is made if there is none.
pub(super) fn check_password(shared: &Shared, node: &str, password: &str) -> Result<(), String> {
    let Some(secrets) = shared.resources.find("", "v1", "secrets") else {
        return Err("no secrets".into());
    };
    let key = Key::new(secrets, "kube-system", &format!("{node}.node-password.k3s"));
    if let Some(secret) = shared.store.get(&key) {
        let stored = secret["data"]["hash"].as_str().unwrap_or_default();
        let hash = base64::engine::general_purpose::STANDARD
            .decode(stored)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .unwrap_or_default();
        let salt = hash.split(':').nth(1).unwrap_or_default();
        if hash != salted(salt, password) {
            return Err(format!(
                "unable to verify hash for node '{node}': hash does not match"
            ));
        }
        return Ok(());
    }
    let salt = token::random();
    let hash = base64::engine::general_purpose::STANDARD.encode(salted(&salt, password));
    shared.store.put(
        key,
        json!({"immutable": true, "data": {"hash": hash}, "type": "Opaque"}),
    );
    Ok(())
}

fn salted(salt: &str, password: &str) -> String {
    let digest = Sha256::digest(format!("{salt}{password}"));
    format!("$1:{salt}:{}", token::hex(&digest))
}

fn issued(identity: &Result<Identity, PkiError>) -> Response<Body> {
    match identity {
        Ok(identity) => plain(
            StatusCode::OK,
            TEXT,
            format!("{}{}", identity.certificate, identity.key),
        ),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

/// What an agent is told: the fields that it uses, and those that say how the server is configured.
fn config(shared: &Shared) -> Value {
    let port = shared.port();
    let disabled: serde_json::Map<String, Value> = shared
        .config
        .split("disable")
        .into_iter()
        .map(|name| (name, true.into()))
        .collect();
    json!({
        "AdvertisePort": port, "AdvertiseIP": shared.node.address, "HTTPSPort": port, "SupervisorPort": port,
        "APIServerPort": 6444, "APIServerBindAddress": "",
        "ClusterIPRange": {"IP": "10.42.0.0", "Mask": "//8AAA=="},
        "ClusterIPRanges": [{"IP": "10.42.0.0", "Mask": "//8AAA=="}],
        "ServiceIPRange": {"IP": "10.43.0.0", "Mask": "//8AAA=="},
        "ServiceIPRanges": [{"IP": "10.43.0.0", "Mask": "//8AAA=="}],
        "ServiceNodePortRange": {"Base": 30000, "Size": 2768},
        "ClusterDNS": "10.43.0.10", "ClusterDNSs": ["10.43.0.10"], "ClusterDomain": "cluster.local",
        "DataDir": shared.paths.server("").to_string_lossy(),
        "Skips": disabled, "Disables": disabled, "FlannelBackend": "vxlan",
        "DefaultLocalStoragePath": "/var/lib/rancher/k3s/storage", "ClusterInit": false, "ClusterReset": false,
        "TLSMinVersion": 771, "SANs": shared.names(), "PrivateIP": shared.node.address,
    })
}
