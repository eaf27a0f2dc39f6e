//! What one side shows of itself, and the means to exchange it while connections run.
//!
//! A daemon holds one [`Reloadable`]. Connections that are open keep what they began with; every new handshake takes what
//! is current. [`Reloadable::replace`] tells when the new material has been used once, so that the old files can go.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::facts::{CertificateError, CertificateFacts, fleet_of_ca, is_self_signed_ca, read};
use crate::keys::{KeyError, PrivateKey};
use crate::refusal::HandshakeRefusal;
use crate::spiffe::Identity;
use crate::tls::{chain, provider};

/// Why files don't make up an identity.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// One of the certificates can't be read.
    #[error("failed to use the certificate")]
    Certificate(#[source] CertificateError),
    /// The certificate given as the CA's is none.
    #[error("failed to use the CA certificate: it is not a CA signed by its own key")]
    NotACa,
    /// The leaf is not from that CA.
    #[error("failed to use the certificate: it is not from the CA that is stored beside it")]
    NotFromCa(#[source] HandshakeRefusal),
    /// The leaf is of another fleet than the CA.
    #[error("failed to use the certificate: it is of another fleet than the CA beside it")]
    OtherFleet,
    /// The key can't be used.
    #[error("failed to use the private key")]
    Key(#[source] KeyError),
    /// Key and leaf don't belong together.
    #[error("failed to use the certificate: it was not issued for the private key beside it")]
    Mismatch,
    /// The TLS library refused the key.
    #[error("failed to use the private key for TLS")]
    Tls(#[source] rustls::Error),
}

/// A leaf certificate with its key and the fleet's CA certificate, checked to belong together. Dates are not judged.
#[derive(Clone)]
pub struct Material {
    identity: Identity,
    facts: CertificateFacts,
    ca: CertificateDer<'static>,
    pub(crate) certified: Arc<CertifiedKey>,
    used: watch::Sender<bool>,
}

impl Material {
    /// Puts together leaf (DER), key and CA certificate (DER).
    ///
    /// # Errors
    /// When they don't belong together.
    pub fn new(leaf: &[u8], key: &PrivateKey, ca: &[u8]) -> Result<Self, MaterialError> {
        let (identity, facts) = read(leaf).map_err(MaterialError::Certificate)?;
        if !is_self_signed_ca(ca) {
            return Err(MaterialError::NotACa);
        }
        if fleet_of_ca(ca).map_err(MaterialError::Certificate)? != identity.fleet {
            return Err(MaterialError::OtherFleet);
        }
        let leaf = CertificateDer::from(leaf.to_vec());
        let ca = CertificateDer::from(ca.to_vec());
        chain::signed_by(&leaf, &facts, &ca).map_err(MaterialError::NotFromCa)?;
        if key.public().map_err(MaterialError::Key)?.spki_sha256() != facts.spki_sha256 {
            return Err(MaterialError::Mismatch);
        }
        // The CA's certificate goes along, so that a peer that knows its pin alone can take it.
        let certified =
            CertifiedKey::from_der(vec![leaf, ca.clone()], key.for_rustls(), provider())
                .map_err(MaterialError::Tls)?;
        Ok(Self {
            identity,
            facts,
            ca,
            certified: Arc::new(certified),
            used: watch::Sender::new(false),
        })
    }

    /// Who this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Serial, key and dates of the leaf.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The leaf certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    /// The fleet's CA certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// Notes that a peer has accepted this material in a handshake.
    pub(crate) fn mark_used(&self) {
        self.used
            .send_if_modified(|used| !std::mem::replace(used, true));
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Material")
            .field("identity", &self.identity)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// Material that can be exchanged while it is in use. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Reloadable {
    current: Arc<ArcSwap<Material>>,
}

impl Reloadable {
    /// Begins with this material.
    pub fn new(material: Material) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(material)),
        }
    }

    /// What new handshakes take.
    pub fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// Exchanges the material for all handshakes from now on; open connections go on.
    pub fn replace(&self, material: Material) -> FirstUse {
        let first_use = FirstUse(material.used.subscribe());
        self.current.store(Arc::new(material));
        first_use
    }

    /// Tells when the current material is used first, or at once when it has been.
    pub fn first_use(&self) -> FirstUse {
        FirstUse(self.current.load().used.subscribe())
    }
}

/// Resolves when a peer has accepted the material in a handshake.
#[derive(Debug)]
pub struct FirstUse(watch::Receiver<bool>);

impl FirstUse {
    /// Waits for it. False when the material was replaced or dropped before anyone saw it.
    pub async fn wait(mut self) -> bool {
        self.0.wait_for(|used| *used).await.is_ok()
    }
}
