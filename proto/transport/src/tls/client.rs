//! The side that dials: whom it takes for the one it means to reach.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use super::chain::{Side, judge, moment, verify};
use super::{ALPN_H2, PeerCheck, no_tls12, provider, schemes, signature_of};
use crate::facts::{CertificateFacts, fleet_of_ca, is_self_signed_ca, read};
use crate::material::{Material, Reloadable};
use crate::refusal::HandshakeRefusal;
use crate::spiffe::{CONTROLLER_DNS, Identity, Kind};

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Who it is.
    pub identity: Identity,
    /// Serial, key and dates of its leaf.
    pub facts: CertificateFacts,
    /// The CA's certificate that it was judged by.
    pub ca: CertificateDer<'static>,
}

/// Whom to expect.
#[derive(Clone)]
enum Expect {
    /// A member of the own fleet by its identity, judged by the CA of the own material.
    Member {
        identity: Identity,
        /// An expired leaf passes with this key.
        rescue: Option<[u8; 32]>,
    },
    /// The controller of whatever fleet has a CA with this key.
    Pinned { pin: [u8; 32] },
}

/// How a dialling side shows itself and judges who answers. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    /// What is shown; none at first contact.
    material: Option<Reloadable>,
    expect: Expect,
    check: Option<Arc<PeerCheck>>,
}

impl ClientTls {
    /// Within the fleet: the peer must be `expected` by the fleet's CA, at whatever address it answers.
    pub fn fleet(material: Reloadable, expected: Identity) -> Self {
        Self {
            material: Some(material),
            expect: Expect::Member {
                identity: expected,
                rescue: None,
            },
            check: None,
        }
    }

    /// First contact: the peer must be the controller of the fleet whose CA's public key has this SHA-256. Its dates are not
    /// judged, and nothing is shown of this side. [`Presented`] yields the CA's certificate and the fleet.
    pub fn pinned(pin: [u8; 32]) -> Self {
        Self {
            material: None,
            expect: Expect::Pinned { pin },
            check: None,
        }
    }

    /// As [`fleet`](Self::fleet), but an expired leaf passes when its public key has this SHA-256: for renewal alone.
    pub fn rescue(material: Reloadable, expected: Identity, spki_sha256: [u8; 32]) -> Self {
        Self {
            material: Some(material),
            expect: Expect::Member {
                identity: expected,
                rescue: Some(spki_sha256),
            },
            check: None,
        }
    }

    /// Adds a check of the peer's certificate, such as that its key is a recorded one.
    pub fn with_check(self, check: Arc<PeerCheck>) -> Self {
        Self {
            check: Some(check),
            ..self
        }
    }

    /// The DNS name under which the peer is addressed within TLS and HTTP.
    pub(crate) fn dns_name(&self) -> String {
        match &self.expect {
            Expect::Member { identity, .. } => identity.dns_name(),
            Expect::Pinned { .. } => None,
        }
        .unwrap_or_else(|| CONTROLLER_DNS.to_owned())
    }

    /// Does the handshake on a connection. The other side has not judged this one yet when it returns: its verdict comes
    /// with the first bytes, see [`dial`](crate::dial).
    ///
    /// # Errors
    /// [`refusal_of`](crate::refusal::refusal_of) tells a refusal from an accident.
    pub async fn handshake<IO>(&self, io: IO) -> io::Result<Handshaken<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let material = self.material.as_ref().map(Reloadable::current);
        let verdict = Arc::new(OnceLock::new());
        let verifier = Verifier {
            tls: self.clone(),
            material: material.clone(),
            verdict: verdict.clone(),
        };
        let config = config(material.as_deref(), verifier).map_err(io::Error::other)?;
        let name = ServerName::try_from(self.dns_name()).map_err(io::Error::other)?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, io)
            .await?;
        match verdict.get() {
            Some(presented) => Ok(Handshaken {
                stream,
                presented: Presented::clone(presented),
                material,
            }),
            None => Err(io::Error::other(HandshakeRefusal::NoCertificate)),
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("ClientTls");
        match &self.expect {
            Expect::Member { identity, rescue } => shown
                .field("expected", identity)
                .field("rescue", &rescue.is_some()),
            Expect::Pinned { pin } => shown.field("pin", &crate::facts::hex(pin)),
        };
        shown.finish_non_exhaustive()
    }
}

/// A connection whose other end is who it should be.
#[derive(Debug)]
pub struct Handshaken<IO> {
    /// The connection.
    pub stream: TlsStream<IO>,
    /// Who answered.
    pub presented: Presented,
    material: Option<Arc<Material>>,
}

impl<IO> Handshaken<IO> {
    /// Notes that the other side has accepted this one.
    pub(crate) fn mark_used(&self) {
        if let Some(material) = &self.material {
            material.mark_used();
        }
    }
}

fn config(material: Option<&Material>, verifier: Verifier) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match material {
        Some(material) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
            material.certified.clone(),
        ))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Judges the server of one handshake and keeps what it showed.
struct Verifier {
    tls: ClientTls,
    material: Option<Arc<Material>>,
    verdict: Arc<OnceLock<Presented>>,
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Presented, HandshakeRefusal> {
        let presented = match (&self.tls.expect, &self.material) {
            (Expect::Member { identity, rescue }, Some(material)) => {
                member(leaf, material.ca(), identity, *rescue, now)?
            }
            (Expect::Pinned { pin }, _) => pinned(leaf, rest, *pin)?,
            (Expect::Member { .. }, None) => return Err(HandshakeRefusal::UnknownCa),
        };
        if let Some(check) = &self.tls.check {
            check(&presented.identity, &presented.facts)?;
        }
        Ok(presented)
    }
}

/// Judges a leaf that should be a certain member's.
fn member(
    leaf: &CertificateDer<'_>,
    ca: &CertificateDer<'static>,
    expected: &Identity,
    rescue: Option<[u8; 32]>,
    now: UnixTime,
) -> Result<Presented, HandshakeRefusal> {
    let (identity, facts) = match judge(leaf, ca, Side::Server, now) {
        Ok(good) => good,
        Err(rejected) => match (rejected.why, rejected.known, rescue) {
            (HandshakeRefusal::Expired { not_after }, Some(identity), Some(recorded)) => {
                let facts = CertificateFacts::from_der(leaf)
                    .map_err(|_| HandshakeRefusal::NotAnIdentity)?;
                if facts.spki_sha256 != recorded {
                    return Err(HandshakeRefusal::ExpiredWithOtherKey { not_after });
                }
                // All but the date is judged as ever.
                verify(leaf, ca, Side::Server, moment(facts.not_after))?;
                (identity, facts)
            }
            (why, ..) => return Err(why),
        },
    };
    if identity.fleet != expected.fleet {
        return Err(HandshakeRefusal::OtherFleet {
            expected: expected.fleet.clone(),
            presented: identity.fleet,
        });
    }
    if identity != *expected {
        return Err(HandshakeRefusal::WrongIdentity {
            expected: expected.clone(),
            presented: identity,
        });
    }
    Ok(Presented {
        identity,
        facts,
        ca: ca.clone(),
    })
}

/// Judges a leaf that should be the controller's of the fleet with a pinned CA.
fn pinned(
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    pin: [u8; 32],
) -> Result<Presented, HandshakeRefusal> {
    let key_of = |der: &[u8]| CertificateFacts::from_der(der).map(|facts| facts.spki_sha256);
    let ca = rest
        .iter()
        .find(|ca| key_of(ca) == Ok(pin))
        .ok_or_else(|| HandshakeRefusal::PinMismatch {
            expected: pin,
            presented: rest.last().and_then(|ca| key_of(ca).ok()),
        })?;
    // The key is right; this makes sure of all else in the certificate that will be stored.
    if !is_self_signed_ca(ca) {
        return Err(HandshakeRefusal::UnknownCa);
    }
    let (identity, facts) = read(leaf).map_err(|_| HandshakeRefusal::NotAnIdentity)?;
    verify(leaf, ca, Side::Server, moment(facts.not_before))?;
    if identity.kind != Kind::Controller {
        return Err(HandshakeRefusal::NotController {
            presented: identity,
        });
    }
    let fleet = fleet_of_ca(ca).map_err(|_| HandshakeRefusal::UnknownCa)?;
    if identity.fleet != fleet {
        return Err(HandshakeRefusal::OtherFleet {
            expected: fleet,
            presented: identity.fleet,
        });
    }
    Ok(Presented {
        identity,
        facts,
        ca: ca.clone().into_owned(),
    })
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = self
            .judge(end_entity, intermediates, now)
            .map_err(HandshakeRefusal::carried)?;
        self.verdict.get_or_init(|| presented);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        signature_of(message, cert, dss)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
