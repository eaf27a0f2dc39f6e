//! What is judged of a certificate besides its signature: its one URI name, serial, key and dates.
//!
//! The handshakes use it on what a peer presents; controller and agent use it on their own files, for renewal.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::spiffe::{FleetId, Identity};

/// Why a certificate can't be read as one of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not a certificate in DER, or something follows it.
    #[error("failed to read the certificate: it is not X.509 in DER form")]
    Malformed,
    /// Its names hold no URI, several, or one that is no identity.
    #[error(
        "failed to read the certificate: its URI name is missing, not alone or no identity of a fleet"
    )]
    NoIdentity,
}

/// What is known of a certificate without trusting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The serial number, lower-case hex.
    pub serial: String,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub spki_sha256: [u8; 32],
    /// When it begins to be valid.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

impl CertificateFacts {
    /// Reads the facts of a certificate.
    ///
    /// # Errors
    /// When it is not X.509 in DER form.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Self::of(&parse(der)?)
    }

    fn of(certificate: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let time = |at: i64| Timestamp::from_second(at).map_err(|_| CertificateError::Malformed);
        let validity = certificate.validity();
        Ok(Self {
            serial: hex(certificate.raw_serial()),
            spki_sha256: sha256(certificate.public_key().raw),
            not_before: time(validity.not_before.timestamp())?,
            not_after: time(validity.not_after.timestamp())?,
        })
    }

    /// When to renew: at two thirds of the life, earlier by up to a twentieth of the life.
    ///
    /// `jitter` goes from 0 (at two thirds) to 1 (earliest), so that a fleet enrolled at once isn't renewed at once.
    pub fn renew_at(&self, jitter: f64) -> Timestamp {
        let life: Duration = self
            .not_after
            .duration_since(self.not_before)
            .try_into()
            .unwrap_or_default();
        let part = 2.0 / 3.0 - jitter.clamp(0.0, 1.0) / 20.0;
        self.not_before
            .saturating_add(life.mul_f64(part))
            .unwrap_or(self.not_after)
    }
}

/// Reads who a certificate names and what else is known of it. Trusts nothing: the chain is judged elsewhere.
///
/// # Errors
/// When it is no certificate, or has not exactly one URI name that is an identity.
pub fn read(der: &[u8]) -> Result<(Identity, CertificateFacts), CertificateError> {
    let certificate = parse(der)?;
    let identity = uri(&certificate)?
        .parse()
        .map_err(|_| CertificateError::NoIdentity)?;
    Ok((identity, CertificateFacts::of(&certificate)?))
}

/// Reads the fleet that a CA certificate names.
pub(crate) fn fleet_of_ca(der: &[u8]) -> Result<FleetId, CertificateError> {
    let certificate = parse(der)?;
    FleetId::from_uri(uri(&certificate)?).map_err(|_| CertificateError::NoIdentity)
}

/// True when a certificate is a CA's and signed by its own key.
pub(crate) fn is_self_signed_ca(der: &[u8]) -> bool {
    parse(der).is_ok_and(|certificate| {
        certificate.is_ca()
            && certificate.subject() == certificate.issuer()
            && certificate.verify_signature(None).is_ok()
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

fn uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, CertificateError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::NoIdentity)?
        .ok_or(CertificateError::NoIdentity)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri),
        _ => Err(CertificateError::NoIdentity),
    }
}

/// SHA-256 of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{CertificateError, CertificateFacts, read};

    #[test]
    fn rubbish_is_no_certificate() {
        for bytes in [
            &b""[..],
            b"\x30\x00",
            b"-----BEGIN CERTIFICATE-----",
            &[0x30; 4000],
        ] {
            assert_eq!(read(bytes), Err(CertificateError::Malformed));
        }
    }

    #[test]
    fn renewal_comes_at_two_thirds_or_a_little_earlier() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let facts = CertificateFacts {
            serial: String::new(),
            spki_sha256: [0; 32],
            not_before: at(1_000_000),
            not_after: at(1_000_600),
        };
        assert_eq!(facts.renew_at(0.0).as_second(), 1_000_400);
        assert_eq!(facts.renew_at(1.0).as_second(), 1_000_370);
        assert_eq!(facts.renew_at(9.0), facts.renew_at(1.0));
    }
}
