//! How each side of a connection judges the other: [`ServerTls`] for listeners, [`ClientTls`] for dialling.
//!
//! rustls with ring, TLS 1.3 alone, ALPN `h2`. A configuration is made per handshake from the material that is current, and
//! no session is resumed, so that nobody gets past a revocation by an older session.

pub(crate) mod chain;
mod client;
mod server;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, PeerIncompatible, SignatureScheme};
use rustls_pki_types::CertificateDer;

pub use client::{ClientTls, Handshaken, Presented};
pub use server::ServerTls;
pub(crate) use server::{Accepted, Refused};

use crate::facts::CertificateFacts;
use crate::refusal::HandshakeRefusal;
use crate::spiffe::Identity;

/// A check of a peer whose certificate is good otherwise: revocation, recorded keys. Called within the handshake, so it must
/// not block; errors refuse the peer.
pub type PeerCheck =
    dyn Fn(&Identity, &CertificateFacts) -> Result<(), HandshakeRefusal> + Send + Sync;

const ALPN_H2: &[u8] = b"h2";

/// The one provider of cryptography: ring, given everywhere and never taken from the process.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}

fn signature_of(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<(), rustls::Error> {
    rustls::crypto::verify_tls13_signature(
        message,
        certificate,
        signature,
        &provider().signature_verification_algorithms,
    )
    .map(|_| ())
}

fn schemes() -> Vec<SignatureScheme> {
    provider()
        .signature_verification_algorithms
        .supported_schemes()
}

/// The answer to signatures of TLS 1.2, which is never negotiated.
fn no_tls12() -> rustls::Error {
    PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into()
}
