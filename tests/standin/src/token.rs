//! Join tokens: `K10<hash of the CA>::<user>:<secret>`, or the bare secret. Made by the server, checked by the agent.

use sha2::{Digest as _, Sha256};

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
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

impl Token {
    /// Reads a token; `None` for one that begins like the secure form and is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix("K10") else {
            return Some(Self::Short(text.to_owned()));
        };
        let (ca_hash, credentials) = rest.split_once("::")?;
        let (user, secret) = credentials.split_once(':')?;
        (ca_hash.len() == 64 && !secret.is_empty()).then(|| Self::Secure {
            ca_hash: ca_hash.to_owned(),
            user: user.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The secret part.
    pub fn secret(&self) -> &str {
        match self {
            Self::Secure { secret, .. } | Self::Short(secret) => secret,
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
            Token::parse(&format!("{text}\n")),
            Some(Token::Secure {
                ca_hash: hash(b"pem\n"),
                user: "server".into(),
                secret: "abc".into()
            })
        );
        assert_eq!(Token::parse("abc"), Some(Token::Short("abc".into())));
        assert_eq!(Token::parse("K10abc"), None);
        assert_eq!(Token::parse("K10abc::server:x"), None);
    }
}
