//! The judgement of a leaf certificate against the fleet's CA, the same for both sides of a connection.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::provider;
use crate::facts::{CertificateFacts, read};
use crate::refusal::HandshakeRefusal;
use crate::spiffe::Identity;

/// The side of the connection that shows the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A leaf that is refused.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) why: HandshakeRefusal,
    /// Who it is, when the CA did sign the leaf.
    pub(crate) known: Option<Identity>,
}

/// Judges signature, use and dates of a leaf, and reads whom it names.
pub(crate) fn judge(
    leaf: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    side: Side,
    now: UnixTime,
) -> Result<(Identity, CertificateFacts), Box<Rejected>> {
    let unknown = |why| Box::new(Rejected { why, known: None });
    let (identity, facts) = read(leaf).map_err(|_| unknown(HandshakeRefusal::NotAnIdentity))?;
    match verify(leaf, ca, side, now) {
        Ok(()) => Ok((identity, facts)),
        // The library looks at dates and use before the signature: only what the CA signed may be believed and named.
        Err(why) => match signed_by(leaf, &facts, ca) {
            Ok(()) => Err(Box::new(Rejected {
                why,
                known: Some(identity),
            })),
            Err(why) => Err(unknown(why)),
        },
    }
}

/// Checks that the CA signed the leaf, for whatever use and whatever the time is.
pub(crate) fn signed_by(
    leaf: &CertificateDer<'_>,
    facts: &CertificateFacts,
    ca: &CertificateDer<'_>,
) -> Result<(), HandshakeRefusal> {
    let then = moment(facts.not_before);
    match verify(leaf, ca, Side::Server, then) {
        Err(HandshakeRefusal::WrongUse) => verify(leaf, ca, Side::Client, then),
        judged => judged,
    }
}

/// Checks signature and use of a leaf at a moment.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    ca: &CertificateDer<'_>,
    side: Side,
    now: UnixTime,
) -> Result<(), HandshakeRefusal> {
    let mut roots = RootCertStore::empty();
    roots
        .add(ca.clone().into_owned())
        .map_err(|_| HandshakeRefusal::UnknownCa)?;
    // No intermediates are taken from the peer: leaves are signed by the CA itself.
    let judged = match side {
        Side::Client => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider().clone())
                    .build()
                    .map_err(|_| HandshakeRefusal::UnknownCa)?;
            verifier.verify_client_cert(leaf, &[], now).map(|_| ())
        }
        Side::Server => ParsedCertificate::try_from(leaf).and_then(|leaf| {
            verify_server_cert_signed_by_trust_anchor(
                &leaf,
                &roots,
                &[],
                now,
                provider().signature_verification_algorithms.all,
            )
        }),
    };
    judged.map_err(|error| match HandshakeRefusal::of_rustls(&error) {
        // Signed in the CA's name by someone else.
        Some(HandshakeRefusal::WithoutKey) => HandshakeRefusal::UnknownCa,
        Some(refusal) => refusal,
        None => HandshakeRefusal::NotAnIdentity,
    })
}

/// A time as the TLS library takes it.
pub(crate) fn moment(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        at.as_second().try_into().unwrap_or_default(),
    ))
}
