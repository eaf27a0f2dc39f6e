//! Names of hosts, clusters and users, checked where they enter: the controller's API, the agent's API and the CLI.
//!
//! A name becomes part of SPIFFE ids, DNS names, file names and messages, so nothing but lower case ASCII letters,
//! digits and a few signs is let in; a refused name is told by the rule that it broke and never echoed raw.

use std::fmt;

/// The most characters of a name: the length of a DNS label (RFC 1123).
pub const MAX_LENGTH: usize = 63;

/// The rule that a text broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} can't be empty")]
    Empty {
        /// What kind of name it should be: `host name`.
        what: &'static str,
    },
    /// It has too many characters.
    #[error("a {what} has at most {MAX_LENGTH} characters, this one has {length}")]
    TooLong {
        /// What kind of name it should be.
        what: &'static str,
        /// Its number of characters.
        length: usize,
    },
    /// A character that is not allowed.
    #[error("a {what} has {allowed} only, and this one has {character}")]
    Character {
        /// What kind of name it should be.
        what: &'static str,
        /// What is allowed, in words.
        allowed: &'static str,
        /// The first character that is not, in words or as U+XXXX.
        character: String,
    },
    /// It begins or ends with a sign.
    #[error("a {what} begins and ends with a letter or digit")]
    Ends {
        /// What kind of name it should be.
        what: &'static str,
    },
}

/// Names a character so that it can be shown in any terminal: printable ASCII in quotes, all else by number.
pub(crate) fn shown(character: char) -> String {
    match character {
        ' ' => "a space".to_owned(),
        '\n' | '\r' => "a line break".to_owned(),
        character if character.is_ascii_graphic() => format!("'{character}'"),
        character => format!("the character U+{:04X}", u32::from(character)),
    }
}

fn check(
    text: &str,
    what: &'static str,
    signs: &[char],
    allowed: &'static str,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    let allowed_here = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || signs.contains(&character)
    };
    if let Some(character) = text.chars().find(|character| !allowed_here(*character)) {
        return Err(NameError::Character {
            what,
            allowed,
            character: shown(character),
        });
    }
    if text.len() > MAX_LENGTH {
        return Err(NameError::TooLong {
            what,
            length: text.len(),
        });
    }
    if text.starts_with(signs) || text.ends_with(signs) {
        return Err(NameError::Ends { what });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $signs:expr, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $what, $signs, $allowed).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name_type!(
    /// The name of a host in the fleet: a DNS label.
    HostName,
    "host name",
    &['-'],
    "lower case letters, digits and '-'"
);
name_type!(
    /// The name of a cluster: a DNS label.
    ClusterName,
    "cluster name",
    &['-'],
    "lower case letters, digits and '-'"
);
name_type!(
    /// The name of a user.
    UserName,
    "user name",
    &['-', '_', '.'],
    "lower case letters, digits, '-', '_' and '.'"
);
name_type!(
    /// The name of a storage class.
    ClassName,
    "name of a storage class",
    &['-', '.'],
    "lower case letters, digits, '-' and '.'"
);

#[cfg(test)]
mod tests {
    use super::{ClusterName, HostName, NameError, UserName};

    #[test]
    fn good_names_pass() {
        for name in ["cp1", "a", "web-01", "0", &"a".repeat(63)] {
            assert_eq!(name.parse::<HostName>().expect("good").as_str(), name);
            assert!(name.parse::<ClusterName>().is_ok());
        }
        assert!("anna.b_c-d".parse::<UserName>().is_ok());
    }

    #[test]
    fn bad_names_are_told_by_the_rule() {
        let cases = [
            ("", "can't be empty"),
            ("a b", "a space"),
            ("..", "'.'"),
            ("a/b", "'/'"),
            ("a;rm", "';'"),
            ("$(x)", "'$'"),
            ("a\nb", "a line break"),
            ("a\u{202e}b", "U+202E"),
            ("CP1", "'C'"),
            ("-a", "begins and ends"),
            ("a-", "begins and ends"),
            ("ä", "U+00E4"),
        ];
        for (name, rule) in cases {
            let error = name.parse::<HostName>().expect_err(name).to_string();
            assert!(error.contains(rule), "{name:?}: {error}");
            assert!(!error.contains(['\n', '\u{202e}']), "{error:?}");
        }
        assert_eq!(
            "a".repeat(300).parse::<HostName>(),
            Err(NameError::TooLong {
                what: "host name",
                length: 300
            })
        );
    }
}
