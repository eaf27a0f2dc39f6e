//! Certificate authorities and leaf certificates of the stand-in, made once and kept. Used by the server, which signs
//! for itself, its admin and its agents.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use thiserror::Error;

use crate::files::{self, FileError};

const DAY: Duration = Duration::from_hours(24);

/// A certificate that could not be made, read or kept.
#[derive(Debug, Error)]
pub enum PkiError {
    /// Its file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It could not be made or parsed.
    #[error("failed to make or read a certificate")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate with its key, both PEM. The certificate is followed by its authority's, as k3s writes it.
#[derive(Clone)]
pub struct Identity {
    /// Leaf, then authority.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(redacted)")
    }
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// Reads the authority kept as `<name>.crt` and `<name>.key` in `directory`, or makes it.
    pub fn open(directory: &Path, name: &str) -> Result<Self, PkiError> {
        let certificate_path = directory.join(format!("{name}.crt"));
        let key_path = directory.join(format!("{name}.key"));
        if !certificate_path.exists() || !key_path.exists() {
            let key = KeyPair::generate()?;
            let certificate = authority_params(name).self_signed(&key)?;
            files::write(&certificate_path, 0o644, certificate.pem())?;
            files::write(&key_path, 0o600, key.serialize_pem())?;
        }
        let certificate = files::read(&certificate_path)?;
        let key = KeyPair::from_pem(&files::read(&key_path)?)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self {
            certificate,
            issuer,
        })
    }

    /// Makes an authority that is kept nowhere.
    pub fn in_memory(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = authority_params(name).self_signed(&key)?.pem();
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self {
            certificate,
            issuer,
        })
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A client's certificate for one year.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, PkiError> {
        let mut name = DistinguishedName::new();
        if let Some(group) = group {
            name.push(DnType::OrganizationName, group);
        }
        name.push(DnType::CommonName, user);
        self.leaf(name, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server's certificate for one year. Names that cannot stand in a certificate are left out.
    pub fn server(&self, user: &str, names: &[String]) -> Result<Identity, PkiError> {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, user);
        let names = names
            .iter()
            .filter(|name| CertificateParams::new(vec![(*name).clone()]).is_ok())
            .cloned()
            .collect();
        self.leaf(name, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn leaf(
        &self,
        subject: DistinguishedName,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject;
        params.not_before = SystemTime::now().into();
        params.not_after = (SystemTime::now() + DAY * 365).into();
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: format!("{}{}", leaf.pem(), self.certificate),
            key: key.serialize_pem(),
        })
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let seconds = jiff::Timestamp::now().as_second();
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, format!("k3s-{name}@{seconds}"));
    params.distinguished_name = subject;
    params.not_before = SystemTime::now().into();
    params.not_after = (SystemTime::now() + DAY * 3650).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params
}
