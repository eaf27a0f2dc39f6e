//! The fleet's certificate authority. Only the controller has one: it makes it at first start and issues every leaf.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::CertificateDer;

use crate::facts::{CertificateError, CertificateFacts, fleet_of_ca, is_self_signed_ca};
use crate::keys::{KeyError, PrivateKey, PublicKey};
use crate::spiffe::{FleetId, Identity, Kind};

/// How long the CA lives: ten years.
pub const CA_LIFETIME: Duration = Duration::from_hours(3652 * 24);
/// How long a leaf lives: 30 days.
pub const LEAF_LIFETIME: Duration = Duration::from_hours(30 * 24);
/// How far `notBefore` lies in the past, for clocks that are a little slow.
pub const BACKDATING: Duration = Duration::from_mins(5);

/// Why the authority can't be used or refused to issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The system gave no random numbers.
    #[error("failed to get random numbers from the system")]
    Random,
    /// The key can't be made or read.
    #[error("failed to use the key of the fleet's CA")]
    Key(#[source] KeyError),
    /// The certificate can't be read.
    #[error("failed to use the certificate of the fleet's CA")]
    Certificate(#[source] CertificateError),
    /// The certificate is not a CA's, or not signed by itself.
    #[error(
        "failed to use the certificate of the fleet's CA: it is not a CA signed by its own key"
    )]
    NotACa,
    /// Key and certificate don't belong together.
    #[error("failed to use the fleet's CA: its key and its certificate don't belong together")]
    Mismatch,
    /// The identity is of another fleet.
    #[error("failed to issue a certificate: {identity} is not of this fleet")]
    OtherFleet {
        /// Who it was asked for.
        identity: Identity,
    },
    /// The certificate can't be signed.
    #[error("failed to sign a certificate")]
    Sign(#[source] rcgen::Error),
}

/// A leaf to issue. What it may be used for follows from the identity: the controller both sides, an agent the server's,
/// a user the client's.
#[derive(Debug, Clone)]
pub struct IssueRequest<'a> {
    /// The holder's public key.
    pub public_key: &'a PublicKey,
    /// Who the holder is.
    pub identity: Identity,
    /// When it begins to be valid.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
}

impl<'a> IssueRequest<'a> {
    /// A leaf with the usual life: back-dated by [`BACKDATING`], ending [`LEAF_LIFETIME`] from now.
    pub fn usual(public_key: &'a PublicKey, identity: Identity, now: Timestamp) -> Self {
        Self {
            public_key,
            identity,
            not_before: back(now),
            not_after: ahead(now, LEAF_LIFETIME),
        }
    }
}

/// The fleet's CA with its key.
#[derive(Debug)]
pub struct Authority {
    fleet: FleetId,
    key: PrivateKey,
    certificate: CertificateDer<'static>,
    pin: [u8; 32],
    issuer: RedactedIssuer,
}

struct RedactedIssuer(Issuer<'static, KeyPair>);

impl std::fmt::Debug for RedactedIssuer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Issuer(redacted)")
    }
}

impl Authority {
    /// Makes a new fleet: its id, and a CA that lives [`CA_LIFETIME`] from now.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn create(now: Timestamp) -> Result<Self, AuthorityError> {
        let fleet = FleetId::random().map_err(|_| AuthorityError::Random)?;
        let key = PrivateKey::generate().map_err(AuthorityError::Key)?;
        let pair = key.pair().map_err(AuthorityError::Key)?;
        let mut params = blank(
            back(now),
            ahead(now, CA_LIFETIME),
            &format!("Canasta fleet {fleet}"),
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(fleet.uri())?];
        let certificate = params.self_signed(&pair).map_err(AuthorityError::Sign)?;
        Self::new(fleet, key, certificate.der().clone())
    }

    /// Takes up the CA of an earlier start.
    ///
    /// # Errors
    /// When the two don't belong together or are no CA of a fleet.
    pub fn load(key_pem: &str, certificate_der: &[u8]) -> Result<Self, AuthorityError> {
        let key = PrivateKey::from_pem(key_pem).map_err(AuthorityError::Key)?;
        let fleet = fleet_of_ca(certificate_der).map_err(AuthorityError::Certificate)?;
        if !is_self_signed_ca(certificate_der) {
            return Err(AuthorityError::NotACa);
        }
        Self::new(fleet, key, certificate_der.to_vec().into())
    }

    fn new(
        fleet: FleetId,
        key: PrivateKey,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, AuthorityError> {
        let pin = CertificateFacts::from_der(&certificate)
            .map_err(AuthorityError::Certificate)?
            .spki_sha256;
        if key.public().map_err(AuthorityError::Key)?.spki_sha256() != pin {
            return Err(AuthorityError::Mismatch);
        }
        let pair = key.pair().map_err(AuthorityError::Key)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, pair).map_err(AuthorityError::Sign)?;
        Ok(Self {
            fleet,
            key,
            certificate,
            pin,
            issuer: RedactedIssuer(issuer),
        })
    }

    /// The fleet's id.
    pub fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's key, for its file (0600) in the controller's state directory.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// SHA-256 of the CA's public key (SubjectPublicKeyInfo, DER), as tokens carry it.
    pub fn ca_pin(&self) -> [u8; 32] {
        self.pin
    }

    /// Issues a leaf.
    ///
    /// # Errors
    /// When the identity is of another fleet, or signing fails.
    pub fn issue(
        &self,
        request: &IssueRequest<'_>,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let identity = &request.identity;
        if identity.fleet != self.fleet {
            return Err(AuthorityError::OtherFleet {
                identity: identity.clone(),
            });
        }
        let mut params = blank(
            request.not_before,
            request.not_after,
            &identity.kind.to_string(),
        )?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity.kind {
            Kind::Controller => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Kind::Agent(_) => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Kind::User(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.subject_alt_names = vec![uri(identity.to_string())?];
        if let Some(name) = identity.dns_name() {
            let name = name.try_into().map_err(AuthorityError::Sign)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let key = rcgen::SubjectPublicKeyInfo::from_der(request.public_key.spki())
            .map_err(AuthorityError::Sign)?;
        let leaf = params
            .signed_by(&key, &self.issuer.0)
            .map_err(AuthorityError::Sign)?;
        Ok(leaf.der().clone())
    }
}

fn uri(text: String) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(text.try_into().map_err(AuthorityError::Sign)?))
}

fn blank(
    not_before: Timestamp,
    not_after: Timestamp,
    common_name: &str,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.serial_number = Some(serial()?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |at: Timestamp| Duration::from_secs(at.as_second().try_into().unwrap_or_default());
    params.not_before = epoch + since(not_before);
    params.not_after = epoch + since(not_after);
    Ok(params)
}

/// 16 random bytes, positive and of full length.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn back(now: Timestamp) -> Timestamp {
    now.saturating_sub(BACKDATING).unwrap_or(now)
}

fn ahead(now: Timestamp, life: Duration) -> Timestamp {
    now.saturating_add(life).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::extensions::GeneralName;
    use x509_parser::prelude::FromDer as _;

    use super::{Authority, AuthorityError, IssueRequest, LEAF_LIFETIME};
    use crate::facts::{hex, read};
    use crate::keys::{PrivateKey, PublicKey};

    fn authority() -> Authority {
        Authority::create(Timestamp::now()).expect("authority")
    }

    #[test]
    fn an_authority_is_taken_up_again() {
        let first = authority();
        let pem = first.key().reveal_pem().expect("pem");
        let again = Authority::load(&pem, first.certificate()).expect("load");
        assert_eq!(again.fleet(), first.fleet());
        assert_eq!(again.ca_pin(), first.ca_pin());
        let other = authority();
        assert!(matches!(
            Authority::load(&pem, other.certificate()),
            Err(AuthorityError::Mismatch)
        ));
        assert!(!format!("{first:?}").contains(pem.lines().nth(1).expect("a line")));
    }

    #[test]
    fn a_leaf_names_its_holder_and_lives_as_asked() {
        let authority = authority();
        let public = PrivateKey::generate().expect("key").public().expect("key");
        let now = Timestamp::from_second(1_800_000_000).expect("in range");
        let host = authority.fleet().agent("cp1".parse().expect("name"));
        let request = IssueRequest::usual(&public, host.clone(), now);
        let (leaf, second) = (
            authority.issue(&request).expect("leaf"),
            authority.issue(&request).expect("leaf"),
        );
        let (identity, facts) = read(&leaf).expect("facts");
        assert_eq!(identity, host);
        assert_eq!(hex(&facts.spki_sha256), hex(&public.spki_sha256()));
        assert_eq!(facts.not_before.as_second(), 1_800_000_000 - 300);
        assert_eq!(
            facts.not_after.as_second(),
            1_800_000_000 + i64::try_from(LEAF_LIFETIME.as_secs()).expect("small")
        );
        assert_eq!(facts.serial.len(), 32);
        assert_ne!(facts.serial, read(&second).expect("facts").1.serial);
    }

    fn parsed(der: &[u8]) -> X509Certificate<'_> {
        X509Certificate::from_der(der).expect("a certificate").1
    }

    #[test]
    fn the_ca_lives_ten_years() {
        let authority = authority();
        let ca = parsed(authority.certificate());
        let life = ca.validity().not_after.timestamp() - ca.validity().not_before.timestamp();
        let days = life / (24 * 60 * 60);
        assert!((3650..=3654).contains(&days), "{days} days");
        assert!(ca.is_ca());
    }

    #[test]
    fn each_kind_has_its_use_and_from_a_request_the_key_alone_is_taken() {
        let authority = authority();
        let fleet = authority.fleet();
        let name = "cp1".parse().expect("name");
        let anna = "anna".parse().expect("name");
        // A request that asks for the world.
        let pair = rcgen::KeyPair::generate().expect("key");
        let mut asked =
            rcgen::CertificateParams::new(vec!["evil.example.org".to_owned()]).expect("parameters");
        asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        asked.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        asked.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Any];
        asked
            .distinguished_name
            .push(rcgen::DnType::CommonName, "evil");
        let request = asked.serialize_request(&pair).expect("request");
        let public = PublicKey::from_csr(request.der()).expect("a key");
        for (identity, server, client, dns) in [
            (
                fleet.controller(),
                true,
                true,
                vec!["controller.canasta.internal"],
            ),
            (
                fleet.agent(name),
                true,
                false,
                vec!["cp1.agent.canasta.internal"],
            ),
            (fleet.user(anna), false, true, vec![]),
        ] {
            let request = IssueRequest::usual(&public, identity.clone(), Timestamp::now());
            let leaf = authority.issue(&request).expect("leaf");
            let leaf = parsed(&leaf);
            let usage = leaf.extended_key_usage().expect("one").expect("some");
            let usage = usage.value;
            assert_eq!(
                (usage.server_auth, usage.client_auth, usage.any),
                (server, client, false),
                "{identity}"
            );
            assert!(!leaf.is_ca(), "{identity}");
            let signs = leaf.key_usage().expect("one").expect("some").value;
            assert!(!signs.key_cert_sign(), "{identity}");
            let names = leaf.subject_alternative_name().expect("one").expect("some");
            let found: Vec<_> = names
                .value
                .general_names
                .iter()
                .map(|name| match name {
                    GeneralName::URI(text) | GeneralName::DNSName(text) => *text,
                    other => panic!("{other:?}"),
                })
                .collect();
            let uri = identity.to_string();
            let expected: Vec<_> = std::iter::once(uri.as_str()).chain(dns).collect();
            assert_eq!(found, expected);
            assert!(!leaf.subject().to_string().contains("evil"));
        }
    }

    #[test]
    fn nobody_gets_a_leaf_of_another_fleet() {
        let public = PrivateKey::generate().expect("key").public().expect("key");
        let stranger = authority().fleet().controller();
        let request = IssueRequest::usual(&public, stranger, Timestamp::now());
        assert!(matches!(
            authority().issue(&request),
            Err(AuthorityError::OtherFleet { .. })
        ));
    }
}
