//! One-use tokens: made for the services, looked up by [`Enrolment`](super::Enrolment). Only hashes are stored.

use std::time::Duration;

use canasta_proto::token::{Purpose, SECRET_BYTES, Token};
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::store::{Error, Store, TokenRow};

/// A new token with its end.
#[derive(Debug)]
pub struct MadeToken {
    /// The token, to be shown once.
    pub token: Token,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The system gave no random numbers.
    #[error("failed to get random numbers from the system")]
    Random,
    /// The host or user was removed meanwhile, or never was.
    #[error("there is nobody of this name to make a token for")]
    HolderGone,
    /// It could not be stored.
    #[error("failed to store a token")]
    Store(#[source] Error),
}

/// Makes and finds tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokens {
    store: Store,
    pin: [u8; 32],
    life: Duration,
}

impl Tokens {
    /// Tokens of the fleet whose CA has this pin; each is good for `life`.
    pub fn new(store: Store, pin: [u8; 32], life: Duration) -> Self {
        Self { store, pin, life }
    }

    /// Makes a token for a host or user; earlier ones end.
    ///
    /// # Errors
    /// When there is no such host or user, or it can't be stored.
    pub async fn make(&self, purpose: Purpose, name: &str) -> Result<MadeToken, MakeError> {
        let mut secret = [0; SECRET_BYTES];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| MakeError::Random)?;
        let token = Token::new(purpose, self.pin, secret);
        let expires_at = Timestamp::now()
            .saturating_add(self.life)
            .unwrap_or(Timestamp::MAX);
        let added = self
            .store
            .add_token(purpose, name, hash(token.secret()), expires_at)
            .await
            .map_err(MakeError::Store)?;
        if !added {
            return Err(MakeError::HolderGone);
        }
        Ok(MadeToken { token, expires_at })
    }

    /// Finds a token by its secret, dead or alive.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(super) async fn find(
        &self,
        purpose: Purpose,
        secret: &str,
    ) -> Result<Option<TokenRow>, Error> {
        let wanted = hash(secret);
        // All are compared, so that time tells nothing of how far a guess fits.
        let mut found = None;
        for row in self.store.tokens(purpose).await? {
            if bool::from(row.hash.ct_eq(&wanted)) {
                found = Some(row);
            }
        }
        Ok(found)
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}
