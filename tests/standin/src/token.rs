//! Join tokens: `K10<hash of the CA>::<user>:<secret>`, the bare secret, and in newer releases bootstrap tokens. Made by
//! the server, checked by the agent.

use sha2::{Digest as _, Sha256};

use crate::bootstrap::BootstrapToken;
use crate::trailer::Profile;

/// A token as an operator gives it.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// The form that carries the hash of the cluster's CA.
    Secure {
        /// SHA-256 of the body of `/cacerts`, hex.
        ca_hash: String,
        /// The user named in it.
        user: String,
        /// The secret.
        secret: String,
    },
    /// The bare secret.
    Short(String),
    /// A bootstrap token, which only newer releases know.
    Bootstrap {
        /// SHA-256 of the body of `/cacerts`, hex, if it is given.
        ca_hash: Option<String>,
        /// Id and secret.
        token: BootstrapToken,
    },
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

impl Token {
    /// Reads a token; `None` for one that begins like the secure form and is not one.
    pub fn parse(text: &str, profile: Profile) -> Option<Self> {
        let text = text.trim();
        let bootstrap = |text: &str| {
            Some(text)
                .filter(|_| profile == Profile::Documented)
                .and_then(BootstrapToken::parse)
        };
        let Some(rest) = text.strip_prefix("K10") else {
            return Some(match bootstrap(text) {
                Some(token) => Self::Bootstrap {
                    ca_hash: None,
                    token,
                },
                None => Self::Short(text.to_owned()),
            });
        };
        let (ca_hash, credentials) = rest.split_once("::")?;
        if ca_hash.len() != 64 {
            return None;
        }
        if let Some(token) = bootstrap(credentials) {
            return Some(Self::Bootstrap {
                ca_hash: Some(ca_hash.to_owned()),
                token,
            });
        }
        let (user, secret) = credentials.split_once(':')?;
        (!secret.is_empty()).then(|| Self::Secure {
            ca_hash: ca_hash.to_owned(),
            user: user.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The secret of the users `server` and `node` in it; a bootstrap token has none.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::Secure { secret, .. } | Self::Short(secret) => Some(secret),
            Self::Bootstrap { .. } => None,
        }
    }

    /// The hash of the authority that it carries.
    pub fn ca_hash(&self) -> Option<&str> {
        match self {
            Self::Secure { ca_hash, .. } => Some(ca_hash),
            Self::Bootstrap { ca_hash, .. } => ca_hash.as_deref(),
            Self::Short(_) => None,
        }
    }
}

/// The secure form as k3s writes it into its files, without the newline.
pub fn secure(cacerts: &str, user: &str, secret: &str) -> String {
    format!("K10{}::{user}:{secret}", hash(cacerts.as_bytes()))
}

/// SHA-256 in hex.
pub fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// 32 random hex digits.
pub fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let text = secure("pem\n", "server", "abc");
        assert_eq!(
            Token::parse(&format!("{text}\n"), Profile::Recorded),
            Some(Token::Secure {
                ca_hash: hash(b"pem\n"),
                user: "server".into(),
                secret: "abc".into()
            })
        );
        let recorded = |text: &str| Token::parse(text, Profile::Recorded);
        assert_eq!(recorded("abc"), Some(Token::Short("abc".into())));
        assert_eq!(recorded("K10abc"), None);
        assert_eq!(recorded("K10abc::server:x"), None);
    }

    #[test]
    fn only_newer_releases_know_bootstrap_tokens() {
        let text = format!("K10{}::abcdef.0123456789abcdef", hash(b"pem\n"));
        assert_eq!(Token::parse(&text, Profile::Recorded), None);
        let parsed = Token::parse(&text, Profile::Documented).unwrap();
        assert_eq!(parsed.ca_hash(), Some(hash(b"pem\n").as_str()));
        assert_eq!(parsed.secret(), None);
    }
}
