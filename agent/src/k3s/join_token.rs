//! The credential with which an agent joins a cluster: `K10<SHA-256 of the CA>::<credential>`. Secret.
//!
//! Read where one enters ([`crate::api`]) and where k3s makes one ([`super::credential`]). The server's own token is not let
//! in: who has it is an administrator of the cluster.

use std::fmt;
use std::str::FromStr;

/// The longest token.
const LONGEST: usize = 512;
/// What a token with the hash of the CA begins with.
const PREFIX: &str = "K10";
/// Hexadecimal digits of the hash.
const HASH: usize = 64;

/// The text is not a credential for joining. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It has another form.
    #[error(
        "a join credential is K10, the SHA-256 of the cluster's CA in 64 hexadecimal digits, two colons and the credential"
    )]
    Malformed,
    /// It is longer than any that k3s makes.
    #[error("a join credential has at most {LONGEST} characters")]
    TooLong,
    /// It is that of a server.
    #[error(
        "this is the server's own token, which makes its holder an administrator; nodes join with a bootstrap token or the agent token"
    )]
    OfServer,
}

/// A credential for joining.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    text: String,
}

impl JoinToken {
    /// Of the parts of one.
    ///
    /// # Errors
    /// When they don't make one.
    pub fn of(ca_hash: &str, credential: &str) -> Result<Self, JoinTokenError> {
        format!("{PREFIX}{ca_hash}::{credential}").parse()
    }

    /// What comes after the hash of the CA.
    fn credential(&self) -> &str {
        &self.text[PREFIX.len() + HASH + 2..]
    }

    /// The public half of a bootstrap token; `None` for a token of another kind.
    pub fn bootstrap_id(&self) -> Option<&str> {
        bootstrap_id(self.credential())
    }

    /// The whole token, for k3s and for the controller.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

/// The id of `abcdef.0123456789abcdef`, the form that Kubernetes gives bootstrap tokens.
pub(super) fn bootstrap_id(credential: &str) -> Option<&str> {
    let plain = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let (id, secret) = credential.split_once('.')?;
    (plain(id, 6) && plain(secret, 16)).then_some(id)
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        if text.len() > LONGEST {
            return Err(JoinTokenError::TooLong);
        }
        let (hash, credential) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once("::"))
            .ok_or(JoinTokenError::Malformed)?;
        let is_hash = hash.len() == HASH
            && hash
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_credential =
            !credential.is_empty() && credential.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_hash || !is_credential {
            return Err(JoinTokenError::Malformed);
        }
        if credential.starts_with("server:") {
            return Err(JoinTokenError::OfServer);
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JoinToken(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tokens_of_agents_are_let_in() {
        let hash = "0a".repeat(32);
        let good = |credential: &str| format!("K10{hash}::{credential}").parse::<JoinToken>();
        let bootstrap = good("abcdef.0123456789abcdef").unwrap();
        assert_eq!(bootstrap.bootstrap_id(), Some("abcdef"));
        assert!(!format!("{bootstrap:?}").contains("0123456789"));
        assert_eq!(good("node:s3cret").unwrap().bootstrap_id(), None);
        assert_eq!(good("server:s3cret"), Err(JoinTokenError::OfServer));
        for bad in ["", "a b", "a\nb", "ä"] {
            assert_eq!(good(bad), Err(JoinTokenError::Malformed), "{bad:?}");
        }
        for bad in [
            "",
            "K10abc",
            "K10::x",
            "node:s3cret",
            "abcdef.0123456789abcdef",
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(JoinTokenError::Malformed));
        }
        assert_eq!(good(&"x".repeat(600)), Err(JoinTokenError::TooLong));
        assert_eq!(
            format!("K10{}::node:x", "0A".repeat(32)).parse::<JoinToken>(),
            Err(JoinTokenError::Malformed)
        );
    }
}
