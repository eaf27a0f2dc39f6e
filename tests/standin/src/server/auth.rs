//! Who asks: a client certificate of the cluster, a service account's token, or a supervisor user. Certificates that
//! the cluster did not sign are not refused in the handshake but answered with 401, as the real one does.

use std::sync::Arc;

use base64::Engine as _;
use http::HeaderMap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::resources::Resource;
use super::store::Store;

/// Somebody the API server knows.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    groups: Vec<String>,
}

impl User {
    /// Whether the user may do `verb` to the resource: masters all, nodes what a kubelet needs, others nothing.
    pub(crate) fn may(&self, verb: &str, resource: &Resource) -> bool {
        let reads = matches!(verb, "get" | "list" | "watch");
        self.is_master()
            || self.groups.iter().any(|group| group == "system:nodes")
                && (matches!(
                    resource.plural.as_str(),
                    "nodes" | "leases" | "events" | "pods"
                ) || reads && resource.plural != "secrets")
    }

    /// Whether the user may read a path that is no resource: open to all who are known, health apart from details.
    pub(crate) fn may_read_path(&self, path: &str) -> bool {
        self.is_master()
            || path.starts_with("/api")
            || matches!(path, "/version" | "/healthz" | "/livez" | "/readyz")
    }

    /// The node that a kubelet's certificate names.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.name
            .strip_prefix("system:node:")
            .filter(|_| self.groups.iter().any(|group| group == "system:nodes"))
    }

    fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }

    fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok().map(str::to_owned))
            .collect();
        Some(Self { name, groups })
    }
}

/// Finds the user of a request from its certificates or its bearer token.
pub(crate) fn user(
    verifier: &dyn ClientCertVerifier,
    certificates: &[CertificateDer<'_>],
    headers: &HeaderMap,
    store: &Store,
    secrets: &Resource,
) -> Option<User> {
    if let Some(user) = certified(verifier, certificates) {
        return Some(user);
    }
    let token = bearer(headers)?;
    let encoded = base64::engine::general_purpose::STANDARD.encode(token);
    let secret = store.list(secrets, "").objects.into_iter().find(|secret| {
        secret["type"] == "kubernetes.io/service-account-token"
            && secret["data"]["token"] == encoded
    })?;
    let namespace = secret["metadata"]["namespace"].as_str()?;
    let account =
        secret["metadata"]["annotations"]["kubernetes.io/service-account.name"].as_str()?;
    Some(User {
        name: format!("system:serviceaccount:{namespace}:{account}"),
        groups: vec!["system:serviceaccounts".to_owned()],
    })
}

/// The user of a client certificate that the cluster signed.
pub(crate) fn certified(
    verifier: &dyn ClientCertVerifier,
    certificates: &[CertificateDer<'_>],
) -> Option<User> {
    let (leaf, chain) = certificates.split_first()?;
    verifier
        .verify_client_cert(leaf, chain, UnixTime::now())
        .ok()?;
    User::from_certificate(leaf)
}

/// The token of bearer authentication.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    authorization(headers, "Bearer ")
}

/// The user and password of basic authentication.
pub(crate) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = authorization(headers, "Basic ")?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    headers
        .get(http::header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix(scheme)
}

/// Asks for a client certificate and takes any, or none; [`user`] judges it later.
#[derive(Debug)]
pub(crate) struct AskForCertificate(pub(crate) Arc<CryptoProvider>);

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
