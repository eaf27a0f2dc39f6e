//! Keys and certificate requests. A key is made where it is used and never travels; a request carries its public half.
//!
//! Agent and CLI make a key and a request, the controller reads the public key out of it.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::facts::sha256;

/// The most bytes of a request; one for P-256 has about 250.
pub const MAX_CSR_BYTES: usize = 4096;

/// Why a key or a request is of no use. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key could be made.
    #[error("failed to make an ECDSA P-256 key")]
    Make(#[source] rcgen::Error),
    /// The text is not a private key that this project makes.
    #[error("failed to read the private key: it is not ECDSA P-256 in PKCS#8 form")]
    Read,
    /// No request could be signed.
    #[error("failed to make a certificate request")]
    Request(#[source] rcgen::Error),
    /// The bytes are not a request.
    #[error("failed to read the certificate request: it is not PKCS#10 in DER form")]
    NotARequest,
    /// The request is not signed by the key that it carries.
    #[error("failed to check the certificate request: it is not signed with its own key")]
    RequestSignature,
    /// The key is of another kind.
    #[error("failed to take the public key: only ECDSA P-256 is used")]
    OtherKind,
}

/// A private key. Its Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey {
    pkcs8: Vec<u8>,
}

impl PrivateKey {
    /// Makes a new ECDSA P-256 key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyError::Make)?;
        Ok(Self {
            pkcs8: pair.serialize_der(),
        })
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    /// When it is not an ECDSA P-256 key in PKCS#8 form.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        // The library's message could quote the input.
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| KeyError::Read)?;
        Ok(Self {
            pkcs8: pair.serialize_der(),
        })
    }

    /// The key in PEM, for its own file (0600) and nothing else.
    pub fn reveal_pem(&self) -> Result<String, KeyError> {
        Ok(self.pair()?.serialize_pem())
    }

    /// The public half.
    pub fn public(&self) -> Result<PublicKey, KeyError> {
        Ok(PublicKey {
            spki: self.pair()?.subject_public_key_info(),
        })
    }

    /// A certificate request (PKCS#10, DER) for this key. It names nobody: the issuer decides the name.
    pub fn csr(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.pair()?)
            .map_err(KeyError::Request)?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn pair(&self) -> Result<KeyPair, KeyError> {
        let der = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| KeyError::Read)
    }

    pub(crate) fn for_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.clone()).into()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(redacted)")
    }
}

/// An ECDSA P-256 public key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki: Vec<u8>,
}

impl PublicKey {
    /// Takes the public key out of a request (PKCS#10, DER) that is signed with it, and nothing else.
    ///
    /// # Errors
    /// When it is no request, too long, not signed with its own key, or the key is not ECDSA P-256.
    pub fn from_csr(der: &[u8]) -> Result<Self, KeyError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(KeyError::NotARequest);
        }
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
            return Err(KeyError::NotARequest);
        };
        let key = Self::from_spki(request.certification_request_info.subject_pki.raw)?;
        request
            .verify_signature()
            .map_err(|_| KeyError::RequestSignature)?;
        Ok(key)
    }

    /// Takes a public key (SubjectPublicKeyInfo, DER).
    ///
    /// # Errors
    /// When it is not ECDSA P-256.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let Ok(([], spki)) = SubjectPublicKeyInfo::from_der(der) else {
            return Err(KeyError::OtherKind);
        };
        let curve = spki
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok());
        // An uncompressed point: 0x04 and two coordinates of 32 bytes.
        let point = spki.subject_public_key.data.as_ref();
        let known = spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve == Some(OID_EC_P256)
            && point.len() == 65
            && point[0] == 4;
        known
            .then(|| Self { spki: der.to_vec() })
            .ok_or(KeyError::OtherKind)
    }

    /// The key (SubjectPublicKeyInfo, DER).
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the key, as pins and records hold it.
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.spki)
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyError, PrivateKey, PublicKey};

    #[test]
    fn a_request_carries_the_public_key() {
        let key = PrivateKey::generate().expect("key");
        let csr = key.csr().expect("request");
        assert_eq!(
            PublicKey::from_csr(&csr).expect("public key"),
            key.public().expect("public key")
        );
        let again = PrivateKey::from_pem(&key.reveal_pem().expect("pem")).expect("key");
        assert!(again == key);
    }

    #[test]
    fn a_request_that_was_tampered_with_is_refused() {
        let csr = PrivateKey::generate().expect("key").csr().expect("request");
        let last = csr.len() - 1;
        let mut bent = csr.clone();
        bent[last] ^= 1;
        assert!(matches!(
            PublicKey::from_csr(&bent),
            Err(KeyError::RequestSignature)
        ));
        let mut longer = csr.clone();
        longer.push(0);
        for bad in [&csr[..last], &longer, &[], &[0x30; 9000]] {
            assert!(matches!(
                PublicKey::from_csr(bad),
                Err(KeyError::NotARequest)
            ));
        }
    }

    #[test]
    fn other_kinds_of_keys_are_refused() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&pair)
            .expect("request");
        assert!(matches!(
            PublicKey::from_csr(csr.der()),
            Err(KeyError::OtherKind)
        ));
        assert!(matches!(
            PrivateKey::from_pem(&pair.serialize_pem()),
            Err(KeyError::Read)
        ));
    }

    #[test]
    fn debug_shows_no_key() {
        let key = PrivateKey::generate().expect("key");
        assert_eq!(format!("{key:?}"), "PrivateKey(redacted)");
    }
}
