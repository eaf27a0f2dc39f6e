//! Who is who in the fleet: the CA, the controller's own certificate, tokens, and the users that may log in.
//!
//! [`Issuer`] alone holds the CA's key. [`crate::fleet`] renews the certificates of agents with it, [`Enrolment`] turns
//! tokens into certificates for [`crate::api`], and [`Directory`] tells the handshakes and the gate who is let in.

mod ca;
mod directory;
mod enrolment;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use canasta_transport::authority::{Authority, AuthorityError, IssueRequest};
use canasta_transport::facts::{CertificateError, CertificateFacts};
use canasta_transport::keys::{KeyError, PrivateKey, PublicKey};
use canasta_transport::material::{Material, MaterialError, Reloadable};
use canasta_transport::spiffe::{FleetId, Identity, Kind};
use jiff::Timestamp;

pub use ca::CaError;
pub use directory::Directory;
pub use enrolment::{EnrolError, Enrolment, HostRequest, IssuedLeaf};
pub use tokens::{MadeToken, MakeError, Tokens};

use crate::logging::line;
use crate::store::{CertificateRow, StateDir};

/// How far `notBefore` lies in the past at most.
const BACKDATING: Duration = Duration::from_secs(5 * 60);
/// The shortest pause before the own leaf is issued again.
const OWN_LEAF_PAUSE: Duration = Duration::from_millis(200);

/// Why a certificate can't be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The CA refused or could not.
    #[error("failed to issue a certificate")]
    Authority(#[source] AuthorityError),
    /// The new certificate can't be read.
    #[error("failed to read the certificate that was just issued")]
    Read(#[source] CertificateError),
    /// No key could be made.
    #[error("failed to make the controller's own key")]
    Key(#[source] KeyError),
    /// Key, leaf and CA don't fit together.
    #[error("failed to put together the controller's own certificate")]
    Material(#[source] MaterialError),
}

/// Issues all certificates of the fleet. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Issuer {
    authority: Arc<Authority>,
    material: Reloadable,
    life: Duration,
}

impl Issuer {
    /// Takes up the CA, or makes it at a first start, and issues the controller's own leaf. Leaves live for `life`. Blocks.
    ///
    /// # Errors
    /// When the CA can't be read or made.
    pub fn open(state: &StateDir, life: Duration) -> Result<Self, CaError> {
        let authority = ca::open(state)?;
        let material = own_material(&authority, life).map_err(CaError::OwnLeaf)?;
        Ok(Self {
            authority: Arc::new(authority),
            material: Reloadable::new(material),
            life,
        })
    }

    /// The fleet's id.
    pub fn fleet(&self) -> &FleetId {
        self.authority.fleet()
    }

    /// SHA-256 of the CA's public key, as tokens carry it.
    pub fn pin(&self) -> [u8; 32] {
        self.authority.ca_pin()
    }

    /// The CA's certificate (DER).
    pub fn ca_certificate(&self) -> &[u8] {
        self.authority.certificate()
    }

    /// What the controller shows of itself, on both sides of connections.
    pub fn material(&self) -> &Reloadable {
        &self.material
    }

    /// Issues a leaf; it counts only when it is recorded in the store.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn issue(&self, key: &PublicKey, holder: Identity) -> Result<CertificateRow, IssueError> {
        let now = Timestamp::now();
        let name = match &holder.kind {
            Kind::Controller => "controller".to_owned(),
            Kind::Agent(host) => host.to_string(),
            Kind::User(name) => name.to_string(),
        };
        let der = self
            .authority
            .issue(&request(key, holder, now, self.life))
            .map_err(IssueError::Authority)?;
        let facts = CertificateFacts::from_der(&der).map_err(IssueError::Read)?;
        Ok(CertificateRow {
            serial: facts.serial,
            name,
            spki_sha256: facts.spki_sha256,
            der: der.to_vec(),
            issued_at: now,
            not_after: facts.not_after,
            pending: false,
            used: false,
        })
    }

    /// Issues the controller's own leaf anew whenever two thirds of its life are over. Never ends.
    pub async fn keep_own_leaf(self) {
        loop {
            let due = self.material.current().facts().renew_at(jitter());
            sleep_until(due, OWN_LEAF_PAUSE).await;
            match own_material(&self.authority, self.life) {
                // Connections that are open go on with the old one.
                Ok(material) => drop(self.material.replace(material)),
                Err(error) => {
                    let error = line(&error);
                    tracing::error!(error, "failed to renew the controller's own certificate");
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            }
        }
    }
}

fn request(
    key: &PublicKey,
    identity: Identity,
    now: Timestamp,
    life: Duration,
) -> IssueRequest<'_> {
    // A leaf that lives shortly is not back-dated by more than a tenth of its life: else it would be due at once.
    let back = BACKDATING.min(life / 10);
    IssueRequest {
        public_key: key,
        identity,
        not_before: now.saturating_sub(back).unwrap_or(now),
        not_after: now.saturating_add(life).unwrap_or(Timestamp::MAX),
    }
}

fn own_material(authority: &Authority, life: Duration) -> Result<Material, IssueError> {
    let key = PrivateKey::generate().map_err(IssueError::Key)?;
    let public = key.public().map_err(IssueError::Key)?;
    let holder = authority.fleet().controller();
    let leaf = authority
        .issue(&request(&public, holder, Timestamp::now(), life))
        .map_err(IssueError::Authority)?;
    Material::new(&leaf, &key, authority.certificate()).map_err(IssueError::Material)
}

/// A number from 0 to 1, another one each time: spreads renewals and dials in time.
pub(crate) fn jitter() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Sleeps until a time of the clock, in pieces, so that a clock that is set does not upset it; at least for `least`.
pub(crate) async fn sleep_until(due: Timestamp, least: Duration) {
    const PIECE: Duration = Duration::from_secs(5 * 60);
    tokio::time::sleep(least).await;
    loop {
        let left = due.duration_since(Timestamp::now());
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(PIECE)).await,
            _ => return,
        }
    }
}
