//! TLS of the release server: a certificate for its address, from an authority that nobody knows until told.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::ReleaseError;
use crate::pki::Authority;

/// Takes connections for `address`, with the authority's certificate in PEM.
pub(super) fn acceptor(address: IpAddr) -> Result<(TlsAcceptor, String), ReleaseError> {
    let failed = |error: &dyn std::fmt::Display| ReleaseError::Tls(error.to_string());
    let authority = Authority::in_memory("release-ca").map_err(|error| failed(&error))?;
    let identity = authority
        .server("release server", &[address.to_string()])
        .map_err(|error| failed(&error))?;
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    let key =
        PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|error| failed(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((
        TlsAcceptor::from(Arc::new(config)),
        authority.certificate().to_owned(),
    ))
}
