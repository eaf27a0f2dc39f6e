//! The side that listens: who is let in, and what is told to who is not.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use super::chain::{Rejected, Side, judge};
use super::{ALPN_H2, PeerCheck, no_tls12, provider, schemes, signature_of};
use crate::facts::CertificateFacts;
use crate::material::{Material, Reloadable};
use crate::refusal::{HandshakeRefusal, refusal_of};
use crate::spiffe::{Identity, Kind};

/// Who is let in by a listener.
#[derive(Clone)]
enum Admits {
    /// The controller of this fleet alone, and a certificate is demanded.
    Controller,
    /// Users whom the check lets pass, and callers without a certificate.
    Users(Arc<PeerCheck>),
}

impl Admits {
    /// Judges a peer whose certificate is good.
    fn check(
        &self,
        own: &Identity,
        peer: &Identity,
        facts: &CertificateFacts,
    ) -> Result<(), HandshakeRefusal> {
        if peer.fleet != own.fleet {
            return Err(HandshakeRefusal::OtherFleet {
                expected: own.fleet.clone(),
                presented: peer.fleet.clone(),
            });
        }
        match (self, &peer.kind) {
            (Self::Controller, Kind::Controller) => Ok(()),
            (Self::Users(check), Kind::User(_)) => check(peer, facts),
            _ => Err(HandshakeRefusal::NotAdmitted {
                presented: peer.clone(),
            }),
        }
    }
}

/// How a listener shows itself and judges its callers. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    material: Reloadable,
    admits: Admits,
}

impl ServerTls {
    /// For an agent (7443): only the controller of the agent's own fleet gets through the handshake.
    pub fn agent(material: Reloadable) -> Self {
        Self {
            material,
            admits: Admits::Controller,
        }
    }

    /// For the controller (7440): users whom the check lets pass, and callers without a certificate as
    /// [`Peer::Anonymous`](crate::listen::Peer::Anonymous). The check looks up revocation.
    pub fn controller(material: Reloadable, check: Arc<PeerCheck>) -> Self {
        Self {
            material,
            admits: Admits::Users(check),
        }
    }

    /// Judges a peer again after it was let in, in case it was revoked in between.
    pub(crate) fn still_admits(
        &self,
        identity: &Identity,
        facts: &CertificateFacts,
    ) -> Result<(), HandshakeRefusal> {
        let own = self.material.current();
        self.admits.check(own.identity(), identity, facts)
    }

    /// Does the handshake of one connection.
    pub(crate) async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, Refused<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let material = self.material.current();
        let verdict = Arc::new(OnceLock::new());
        let verifier = Verifier {
            material: material.clone(),
            admits: self.admits.clone(),
            verdict: verdict.clone(),
        };
        let config = match config(&material, verifier) {
            Ok(config) => config,
            Err(error) => {
                return Err(Refused {
                    io,
                    identity: None,
                    why: Err(std::io::Error::other(error)),
                });
            }
        };
        let accept = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(io);
        match accept.into_fallible().await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates().is_some();
                let (identity, why) = match verdict.get() {
                    Some(Ok(peer)) => {
                        material.mark_used();
                        let peer = Some(peer.clone());
                        return Ok(Accepted { stream, peer });
                    }
                    None if !shown && matches!(self.admits, Admits::Users(_)) => {
                        material.mark_used();
                        return Ok(Accepted { stream, peer: None });
                    }
                    // Not reached, since the handshake fails with the verdict; nobody is let in should that change.
                    None => (None, HandshakeRefusal::NotAnIdentity),
                    Some(Err(rejected)) => (rejected.known.clone(), rejected.why.clone()),
                };
                Err(Refused {
                    io: stream.into_inner().0,
                    identity,
                    why: Ok(why),
                })
            }
            Err((error, io)) => Err(match verdict.get() {
                Some(Err(rejected)) => Refused {
                    io,
                    identity: rejected.known.clone(),
                    why: Ok(rejected.why.clone()),
                },
                verdict => Refused {
                    io,
                    identity: verdict
                        .and_then(|verdict| verdict.as_ref().ok())
                        .map(|(identity, _)| identity.clone()),
                    why: refusal_of(&error).ok_or(error),
                },
            }),
        }
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServerTls")
            .field("material", &self.material)
            .finish_non_exhaustive()
    }
}

/// A caller that got through the handshake.
pub(crate) struct Accepted<IO> {
    pub(crate) stream: TlsStream<IO>,
    /// None for a caller without a certificate.
    pub(crate) peer: Option<(Identity, Arc<CertificateFacts>)>,
}

/// A caller that did not.
pub(crate) struct Refused<IO> {
    /// The connection, on which the alert has been written.
    pub(crate) io: IO,
    /// Who it is, when the CA did sign its certificate.
    pub(crate) identity: Option<Identity>,
    /// The refusal, or the accident.
    pub(crate) why: Result<HandshakeRefusal, std::io::Error>,
}

fn config(material: &Material, verifier: Verifier) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(material.certified.clone())));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session would not be judged again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

type Verdict = OnceLock<Result<(Identity, Arc<CertificateFacts>), Box<Rejected>>>;

/// Judges the client of one handshake and keeps the verdict for the listener.
///
/// The judgement waits until the client has signed with the key of its certificate, so that nobody is named in a refusal on
/// the strength of a certificate alone, which is no secret.
struct Verifier {
    material: Arc<Material>,
    admits: Admits,
    verdict: Arc<Verdict>,
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<(Identity, Arc<CertificateFacts>), Box<Rejected>> {
        let (identity, facts) =
            judge(leaf, self.material.ca(), Side::Client, now).map_err(|mut rejected| {
                // An agent's certificate is for servers alone; that it is an agent's says more than that.
                if let (HandshakeRefusal::WrongUse, Some(presented)) =
                    (&rejected.why, rejected.known.clone())
                {
                    rejected.why = HandshakeRefusal::NotAdmitted { presented };
                }
                rejected
            })?;
        match self
            .admits
            .check(self.material.identity(), &identity, &facts)
        {
            Ok(()) => Ok((identity, Arc::new(facts))),
            Err(why) => Err(Box::new(Rejected {
                why,
                known: Some(identity),
            })),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier")
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        matches!(self.admits, Admits::Controller)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // Judged in verify_tls13_signature, which always follows.
        Ok(ClientCertVerified::assertion())
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
        match self
            .verdict
            .get_or_init(|| self.judge(cert, UnixTime::now()))
        {
            Ok(_) => Ok(HandshakeSignatureValid::assertion()),
            Err(rejected) => Err(rejected.why.told()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
