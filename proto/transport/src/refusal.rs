//! Why a handshake was refused, by this side or by the other, in a form that callers can tell apart.

use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, OtherError, PeerIncompatible};
use rustls_pki_types::UnixTime;

use crate::facts::hex;
use crate::spiffe::{FleetId, Identity};

/// Why a handshake was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// The CA behind the peer is not the one that the token was made by.
    #[error(
        "the peer belongs to another CA: the token expects the key {expected}, the peer showed {presented}",
        expected = hex(expected),
        presented = presented.as_ref().map_or("none".to_owned(), |pin| hex(pin))
    )]
    PinMismatch {
        /// SHA-256 of the public key that was expected.
        expected: [u8; 32],
        /// SHA-256 of the public key that ends the chain shown; none when only a leaf was shown.
        presented: Option<[u8; 32]>,
    },
    /// The peer is a member of the fleet, but not its controller.
    #[error("the peer is not a controller but {presented}")]
    NotController {
        /// Who it is.
        presented: Identity,
    },
    /// The peer belongs to another fleet.
    #[error("the peer is of fleet {presented}, not of {expected}")]
    OtherFleet {
        /// The fleet that was expected.
        expected: FleetId,
        /// The peer's fleet.
        presented: FleetId,
    },
    /// The peer is a member of the fleet, but another one.
    #[error("the peer is {presented}, not {expected}")]
    WrongIdentity {
        /// Who was expected.
        expected: Identity,
        /// Who it is.
        presented: Identity,
    },
    /// The peer is who it says, but has no business here: an agent as a user, a user with an agent.
    #[error("{presented} may not connect here")]
    NotAdmitted {
        /// Who it is.
        presented: Identity,
    },
    /// The certificate ended.
    #[error("the peer's certificate expired at {not_after}")]
    Expired {
        /// When it ended.
        not_after: Timestamp,
    },
    /// The certificate has not begun; one of the two clocks is wrong.
    #[error("the peer's certificate is not valid before {not_before}: one of the clocks is wrong")]
    NotYetValid {
        /// When it begins.
        not_before: Timestamp,
    },
    /// The certificate expired, and its key is not the recorded one either.
    #[error("the peer's certificate expired at {not_after}, and its key is not the recorded one")]
    ExpiredWithOtherKey {
        /// When it ended.
        not_after: Timestamp,
    },
    /// The key is not the recorded one.
    #[error("the peer's key is not the one that is recorded for {presented}")]
    OtherKey {
        /// Who it says it is.
        presented: Identity,
    },
    /// The certificate is not signed by the fleet's CA.
    #[error("the peer's certificate is not from this fleet's CA")]
    UnknownCa,
    /// The host or user was removed.
    #[error("the certificate of {presented} was revoked")]
    Revoked {
        /// Whose certificate it is.
        presented: Identity,
    },
    /// The peer showed a certificate and could not sign with its key.
    #[error("the peer does not hold the key of the certificate that it showed")]
    WithoutKey,
    /// The certificate is not for this side of a connection.
    #[error("the peer's certificate is not for this use")]
    WrongUse,
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The certificate names nobody, or can't be read.
    #[error("the peer's certificate is not one of a fleet")]
    NotAnIdentity,
    /// The peer speaks no TLS 1.3.
    #[error("the peer does not speak TLS 1.3")]
    OldProtocol,
    /// The other side refused this one.
    #[error("the peer refused this side: {0}")]
    ByPeer(PeerVerdict),
}

/// Why the other side refused, as far as its alert tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerVerdict {
    /// It wants a certificate.
    #[error("it wants a certificate")]
    CertificateRequired,
    /// Our certificate is revoked.
    #[error("our certificate was revoked")]
    Revoked,
    /// Our certificate is expired, or not yet valid by the peer's clock.
    #[error("our certificate is expired or not yet valid by its clock")]
    Expired,
    /// Our certificate is of another CA.
    #[error("our certificate is from another CA than its own")]
    UnknownCa,
    /// We are known, and not admitted.
    #[error("we are not admitted there")]
    NotAdmitted,
    /// Our certificate is not for this use.
    #[error("our certificate is not for this use")]
    WrongUse,
    /// It speaks another version of TLS.
    #[error("it speaks another version of TLS")]
    Protocol,
    /// It does not accept our certificate for another reason, such as an identity that it did not expect.
    #[error("it does not accept our certificate")]
    Certificate,
}

impl HandshakeRefusal {
    /// For rustls on the side of a client: carried whole, for [`refusal_of`].
    pub(crate) fn carried(self) -> rustls::Error {
        CertificateError::Other(OtherError(Arc::new(self))).into()
    }

    /// For rustls on the side of a server: an error whose alert tells the client the gist.
    pub(crate) fn told(&self) -> rustls::Error {
        let error = match self {
            Self::Expired { .. } | Self::ExpiredWithOtherKey { .. } => CertificateError::Expired,
            Self::NotYetValid { .. } => CertificateError::NotValidYet,
            Self::UnknownCa => CertificateError::UnknownIssuer,
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::WrongUse => CertificateError::InvalidPurpose,
            Self::NotAnIdentity => CertificateError::BadEncoding,
            _ => CertificateError::ApplicationVerificationFailure,
        };
        error.into()
    }

    /// Reads what rustls says, for errors that are a judgement and not an accident.
    pub(crate) fn of_rustls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidCertificate(error) => Some(Self::of_certificate(error)),
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Some(Self::OldProtocol),
            rustls::Error::AlertReceived(alert) => PeerVerdict::of(*alert).map(Self::ByPeer),
            _ => None,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Other(OtherError(other)) => other
                .downcast_ref::<Self>()
                .cloned()
                .unwrap_or(Self::NotAnIdentity),
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired {
                not_after: timestamp(*not_after),
            },
            CertificateError::NotValidYetContext { not_before, .. } => Self::NotYetValid {
                not_before: timestamp(*not_before),
            },
            CertificateError::UnknownIssuer => Self::UnknownCa,
            CertificateError::BadSignature => Self::WithoutKey,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongUse
            }
            _ => Self::NotAnIdentity,
        }
    }
}

impl PeerVerdict {
    fn of(alert: AlertDescription) -> Option<Self> {
        Some(match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                Self::CertificateRequired
            }
            AlertDescription::CertificateRevoked => Self::Revoked,
            AlertDescription::CertificateExpired => Self::Expired,
            AlertDescription::UnknownCA => Self::UnknownCa,
            AlertDescription::AccessDenied => Self::NotAdmitted,
            AlertDescription::UnsupportedCertificate => Self::WrongUse,
            AlertDescription::ProtocolVersion => Self::Protocol,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError => Self::Certificate,
            _ => return None,
        })
    }
}

/// Finds the refusal behind an error of a handshake or of a connection. None when it was an accident of the network.
pub fn refusal_of(error: &io::Error) -> Option<HandshakeRefusal> {
    let inner = error.get_ref()?;
    if let Some(refusal) = inner.downcast_ref::<HandshakeRefusal>() {
        return Some(refusal.clone());
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(inner);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return HandshakeRefusal::of_rustls(error);
        }
        next = error.source();
    }
    None
}

pub(crate) fn timestamp(at: UnixTime) -> Timestamp {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok())
        .unwrap_or(Timestamp::MAX)
}
