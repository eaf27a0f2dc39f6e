//! One-use tokens that a person carries from the controller to a node or to another machine.
//!
//! The controller makes them (`host add`, `user add`), the agent and the CLI read them. A token carries the SHA-256 of
//! the fleet CA's public key, so that the very first connection is pinned, and a random secret that the controller
//! keeps hashed only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Bytes of the random secret.
pub const SECRET_BYTES: usize = 24;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A host joins the fleet.
    Join,
    /// A user gets a client certificate.
    User,
}

impl Purpose {
    /// The beginning of a token, so that people and programs can tell the kinds apart.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Join => "canasta-join",
            Self::User => "canasta-user",
        }
    }
}

/// Why a text is not a token. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is a token of the other kind.
    #[error(
        "this token is of the other kind: a join token comes from `canasta host add`, a user token from `canasta user add`"
    )]
    OtherPurpose,
    /// It is cut short, has something added, or is something else.
    #[error(
        "this is not a whole token: copy all of it, it begins with `canasta-join.` or `canasta-user.`"
    )]
    Malformed,
}

/// A one-use token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    purpose: Purpose,
    pin: [u8; 32],
    secret: String,
}

impl Token {
    /// A token from the SHA-256 of the CA's public key and a fresh secret.
    pub fn new(purpose: Purpose, pin: [u8; 32], secret: [u8; SECRET_BYTES]) -> Self {
        Self {
            purpose,
            pin,
            secret: URL_SAFE_NO_PAD.encode(secret),
        }
    }

    /// Reads a token as a person gives it; white space around it is ignored.
    ///
    /// # Errors
    /// When it is not a whole token of this purpose.
    pub fn parse(purpose: Purpose, text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let prefix = parts.next().unwrap_or_default();
        if prefix != purpose.prefix() {
            let known = [Purpose::Join, Purpose::User]
                .iter()
                .any(|other| other.prefix() == prefix);
            return Err(if known {
                TokenError::OtherPurpose
            } else {
                TokenError::Malformed
            });
        }
        let (Some(pin), Some(secret), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::Malformed);
        };
        let pin = URL_SAFE_NO_PAD
            .decode(pin)
            .ok()
            .and_then(|pin| pin.try_into().ok())
            .ok_or(TokenError::Malformed)?;
        let whole = URL_SAFE_NO_PAD
            .decode(secret)
            .is_ok_and(|secret| secret.len() == SECRET_BYTES);
        if !whole {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            purpose,
            pin,
            secret: secret.to_owned(),
        })
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of the fleet's CA.
    pub fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// The part that the controller checks against its hash. Sent over a pinned connection and nowhere else.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole token for the one person who asked for it.
    pub fn reveal(&self) -> String {
        format!(
            "{}.{}.{}",
            self.purpose.prefix(),
            URL_SAFE_NO_PAD.encode(self.pin),
            self.secret
        )
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token({}, redacted)", self.purpose.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::{Purpose, SECRET_BYTES, Token, TokenError};

    #[test]
    fn a_token_survives_the_way_through_a_persons_hands() {
        let token = Token::new(Purpose::Join, [7; 32], [9; SECRET_BYTES]);
        let text = token.reveal();
        assert_eq!(
            Token::parse(Purpose::Join, &format!("  {text}\n")),
            Ok(token)
        );
    }

    #[test]
    fn what_is_no_whole_token_is_refused() {
        let text = Token::new(Purpose::Join, [7; 32], [9; SECRET_BYTES]).reveal();
        assert_eq!(
            Token::parse(Purpose::User, &text),
            Err(TokenError::OtherPurpose)
        );
        for bad in [
            "",
            "x",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}.x"),
            "canasta-join..",
            "K10abc::server:x",
        ] {
            assert_eq!(
                Token::parse(Purpose::Join, bad),
                Err(TokenError::Malformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = Token::new(Purpose::User, [7; 32], [9; SECRET_BYTES]);
        assert!(!format!("{token:?}").contains(token.secret()));
    }
}
