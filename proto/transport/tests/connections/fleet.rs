//! A fleet for tests: a CA and certificates of any kind and age.

use std::time::Duration;

use canasta_transport::authority::{Authority, IssueRequest};
use canasta_transport::keys::PrivateKey;
use canasta_transport::material::{Material, Reloadable};
use canasta_transport::spiffe::Identity;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

/// An hour.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A leaf with its key.
pub(crate) struct Leaf {
    pub(crate) key: PrivateKey,
    pub(crate) der: CertificateDer<'static>,
    ca: CertificateDer<'static>,
}

impl Leaf {
    pub(crate) fn material(&self) -> Material {
        Material::new(&self.der, &self.key, &self.ca).expect("material")
    }

    pub(crate) fn reloadable(&self) -> Reloadable {
        Reloadable::new(self.material())
    }
}

/// A CA with short ways to what it issues.
pub(crate) struct Fleet {
    pub(crate) authority: Authority,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            authority: Authority::create(Timestamp::now()).expect("authority"),
        }
    }

    pub(crate) fn controller(&self) -> Identity {
        self.authority.fleet().controller()
    }

    pub(crate) fn agent(&self, name: &str) -> Identity {
        self.authority.fleet().agent(name.parse().expect("name"))
    }

    pub(crate) fn user(&self, name: &str) -> Identity {
        self.authority.fleet().user(name.parse().expect("name"))
    }

    /// A leaf that is valid now.
    pub(crate) fn leaf(&self, identity: Identity) -> Leaf {
        let now = Timestamp::now();
        self.between(
            PrivateKey::generate().expect("key"),
            identity,
            now - HOUR,
            now + HOUR,
        )
    }

    /// A leaf that ended an hour ago.
    pub(crate) fn expired(&self, identity: Identity) -> Leaf {
        let now = Timestamp::now();
        self.between(
            PrivateKey::generate().expect("key"),
            identity,
            now - 2 * HOUR,
            now - HOUR,
        )
    }

    /// A leaf with these dates.
    pub(crate) fn between(
        &self,
        key: PrivateKey,
        identity: Identity,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Leaf {
        let public_key = key.public().expect("public key");
        let der = self
            .authority
            .issue(&IssueRequest {
                public_key: &public_key,
                identity,
                not_before,
                not_after,
            })
            .expect("leaf");
        Leaf {
            key,
            der,
            ca: self.authority.certificate().clone(),
        }
    }
}
