//! Turning tokens into certificates, once each. Called by the enrolment service.
//!
//! A host may lose the answer: its agent crashes, or the connection breaks. The same token with the same public key is
//! therefore answered again until the holder was seen with the certificate; with another key it is used up.

use canasta_proto::name::{HostName, UserName};
use canasta_proto::token::Purpose;
use canasta_transport::facts::CertificateFacts;
use canasta_transport::keys::{KeyError, PublicKey};
use canasta_transport::roles::Role;
use jiff::{Timestamp, Unit};

use super::{Directory, IssueError, Issuer, Tokens};
use crate::store::{
    AuditEntry, CertificateRow, Error, Holder, Join, Recorded, Store, TokenEnd, TokenRow,
};

/// Why no certificate was given. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is no such token.
    #[error("this token is not known here")]
    TokenUnknown,
    /// Its time is over.
    #[error("this token for {name} expired at {at}")]
    TokenExpired {
        /// The host or user that it was for.
        name: String,
        /// When it ended.
        at: Timestamp,
    },
    /// A newer one was made.
    #[error("this token for {name} was replaced by a newer one")]
    TokenReplaced {
        /// The host or user that it was for.
        name: String,
    },
    /// It was redeemed by another machine or key.
    #[error("this token for {name} has been used already")]
    TokenUsed {
        /// The host or user that it was for.
        name: String,
    },
    /// The machine expects to be another host.
    #[error("this token is for host {name}, and this machine expects to be host {expected}")]
    OtherHost {
        /// The host that it is for.
        name: String,
        /// The host that the machine expects to be.
        expected: HostName,
    },
    /// What it was for has been removed.
    #[error("this token was for {name}, which has been removed from the fleet")]
    Removed {
        /// The host or user that it was for.
        name: String,
    },
    /// The user was removed while its certificate was renewed.
    #[error("there is no user '{name}' any more")]
    UserGone {
        /// The user.
        name: UserName,
    },
    /// The certificate is too young to be renewed.
    #[error("this certificate has not lived half of its life; it can be renewed from {at} on")]
    NotDue {
        /// When it can be renewed.
        at: Timestamp,
    },
    /// The request is of no use.
    #[error("failed to take the certificate request")]
    Request(#[source] KeyError),
    /// No certificate could be issued.
    #[error("failed to issue the certificate")]
    Issue(#[source] IssueError),
    /// The database failed.
    #[error("failed to look up or record the token")]
    Store(#[source] Error),
}

/// What a host sends to enrol.
pub struct HostRequest<'a> {
    /// The secret part of the token.
    pub secret: &'a str,
    /// The certificate request (PKCS#10, DER).
    pub csr: &'a [u8],
    /// The host that the machine expects to be.
    pub expected: Option<HostName>,
    /// What it tells of itself.
    pub join: Join,
    /// The call, for the audit trail.
    pub entry: AuditEntry,
}

impl std::fmt::Debug for HostRequest<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("HostRequest")
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// A certificate that was issued and recorded.
#[derive(Debug)]
pub struct IssuedLeaf<N> {
    /// Whom it was issued for.
    pub name: N,
    /// The certificate as it is recorded.
    pub certificate: CertificateRow,
    /// A row of the audit trail was written with it.
    pub audited: bool,
}

/// Turns tokens into certificates. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Enrolment {
    store: Store,
    issuer: Issuer,
    tokens: Tokens,
    directory: Directory,
}

impl Enrolment {
    /// Puts together what an enrolment needs.
    pub fn new(store: Store, issuer: Issuer, tokens: Tokens, directory: Directory) -> Self {
        Self {
            store,
            issuer,
            tokens,
            directory,
        }
    }

    /// The host that a token is for.
    ///
    /// # Errors
    /// When the token is refused, or the database fails.
    pub async fn host_of(&self, request: &HostRequest<'_>) -> Result<HostName, EnrolError> {
        let token = self.live_join(request).await?;
        named(&token.name)
    }

    async fn live_join(&self, request: &HostRequest<'_>) -> Result<TokenRow, EnrolError> {
        let token = self.live(Purpose::Join, request.secret).await?;
        match &request.expected {
            Some(expected) if expected.as_str() != token.name => Err(EnrolError::OtherHost {
                name: token.name,
                expected: expected.clone(),
            }),
            _ => Ok(token),
        }
    }

    /// Enrols a host.
    ///
    /// # Errors
    /// When the token is refused, the request is of no use, or the database fails.
    pub async fn host(
        &self,
        request: &HostRequest<'_>,
    ) -> Result<IssuedLeaf<HostName>, EnrolError> {
        let key = PublicKey::from_csr(request.csr).map_err(EnrolError::Request)?;
        let token = self.live_join(request).await?;
        let host: HostName = named(&token.name)?;
        if token.used_key.is_some() {
            let certificate = self.again(&token, &key, Holder::Agent(&token.name)).await?;
            return Ok(IssuedLeaf {
                name: host,
                certificate,
                audited: false,
            });
        }
        let holder = self.issuer.fleet().agent(host.clone());
        let row = self.issuer.issue(&key, holder).map_err(EnrolError::Issue)?;
        let recorded = self
            .store
            .record_join(&token.hash, &row, &request.join, &request.entry)
            .await;
        settled(recorded, token.name)?;
        Ok(IssuedLeaf {
            name: host,
            certificate: row,
            audited: true,
        })
    }

    /// Gives a user a client certificate, and tells what the user may do.
    ///
    /// # Errors
    /// When the token is refused, the request is of no use, or the database fails.
    pub async fn user(
        &self,
        secret: &str,
        csr: &[u8],
        entry: &AuditEntry,
    ) -> Result<(IssuedLeaf<UserName>, Role), EnrolError> {
        let key = PublicKey::from_csr(csr).map_err(EnrolError::Request)?;
        let token = self.live(Purpose::User, secret).await?;
        let name: UserName = named(&token.name)?;
        let again = token.used_key.is_some();
        let certificate = if again {
            self.again(&token, &key, Holder::User(&token.name)).await?
        } else {
            let holder = self.issuer.fleet().user(name.clone());
            let row = self.issuer.issue(&key, holder).map_err(EnrolError::Issue)?;
            let recorded = self.store.record_redemption(&token.hash, &row, entry).await;
            settled(recorded, token.name.clone())?;
            row
        };
        self.directory
            .refresh(&self.store, &name)
            .await
            .map_err(EnrolError::Store)?;
        let role = self.directory.role(&name, &certificate.serial);
        let role = role.ok_or(EnrolError::Removed { name: token.name })?;
        let leaf = IssuedLeaf {
            name,
            certificate,
            audited: !again,
        };
        Ok((leaf, role))
    }

    /// Gives a known user, who shows the certificate with these facts, one for a new key. Those that the user has stay good
    /// until they end, or the user has more than [`LIVING_CERTIFICATES`](crate::store::LIVING_CERTIFICATES).
    ///
    /// # Errors
    /// When the certificate has not lived half of its life, the request is of no use, the user was removed meanwhile, or the
    /// database fails.
    pub async fn renew_user(
        &self,
        name: UserName,
        shown: &CertificateFacts,
        csr: &[u8],
    ) -> Result<IssuedLeaf<UserName>, EnrolError> {
        let half = half_of_life(shown);
        if Timestamp::now() < half {
            return Err(EnrolError::NotDue {
                at: in_seconds(half),
            });
        }
        let key = PublicKey::from_csr(csr).map_err(EnrolError::Request)?;
        let holder = self.issuer.fleet().user(name.clone());
        let certificate = self.issuer.issue(&key, holder).map_err(EnrolError::Issue)?;
        let recorded = self
            .store
            .record_user_renewal(&certificate, &shown.serial)
            .await
            .map_err(EnrolError::Store)?;
        if recorded != Recorded::Done {
            return Err(EnrolError::UserGone { name });
        }
        self.directory
            .refresh(&self.store, &name)
            .await
            .map_err(EnrolError::Store)?;
        Ok(IssuedLeaf {
            name,
            certificate,
            audited: false,
        })
    }

    /// Finds a token that may be redeemed, or was.
    async fn live(&self, purpose: Purpose, secret: &str) -> Result<TokenRow, EnrolError> {
        let found = self.tokens.find(purpose, secret).await;
        let token = found
            .map_err(EnrolError::Store)?
            .ok_or(EnrolError::TokenUnknown)?;
        let name = token.name.clone();
        match token.ended {
            Some(TokenEnd::Removed) => Err(EnrolError::Removed { name }),
            Some(TokenEnd::Replaced) if token.used_key.is_some() => {
                Err(EnrolError::TokenUsed { name })
            }
            Some(TokenEnd::Replaced) => Err(EnrolError::TokenReplaced { name }),
            None if token.expires_at <= Timestamp::now() => Err(EnrolError::TokenExpired {
                name,
                at: in_seconds(token.expires_at),
            }),
            None => Ok(token),
        }
    }

    /// Answers a token that was redeemed with the same key, whose certificate nobody has been seen with yet.
    async fn again(
        &self,
        token: &TokenRow,
        key: &PublicKey,
        holder: Holder<'_>,
    ) -> Result<CertificateRow, EnrolError> {
        let used = || EnrolError::TokenUsed {
            name: token.name.clone(),
        };
        let key = key.spki_sha256();
        if token.used_key != Some(key) {
            return Err(used());
        }
        let rows = self
            .store
            .certificates(holder)
            .await
            .map_err(EnrolError::Store)?;
        rows.into_iter()
            .rfind(|row| row.spki_sha256 == key && !row.used)
            .ok_or_else(used)
    }
}

fn in_seconds(at: Timestamp) -> Timestamp {
    at.round(Unit::Second).unwrap_or(at)
}

fn half_of_life(facts: &CertificateFacts) -> Timestamp {
    let life = facts.not_after.duration_since(facts.not_before);
    facts
        .not_before
        .saturating_add(life / 2)
        .unwrap_or(facts.not_after)
}

fn settled(recorded: Result<Recorded, Error>, name: String) -> Result<(), EnrolError> {
    match recorded {
        Ok(Recorded::Done) => Ok(()),
        Ok(Recorded::TokenUsed) => Err(EnrolError::TokenUsed { name }),
        Ok(Recorded::HolderGone) => Err(EnrolError::Removed { name }),
        Err(error) => Err(EnrolError::Store(error)),
    }
}

fn named<N: std::str::FromStr>(name: &str) -> Result<N, EnrolError> {
    name.parse()
        .map_err(|_| EnrolError::Store(Error::damaged("the name in a token")))
}
