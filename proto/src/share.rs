//! Paths of shares of NFS servers, checked where they enter. They become part of the calls of a client and of the parameters of
//! storage classes, so nothing that would have to be quoted anywhere is let in.

/// The most bytes of a path of a share.
pub const MAX_PATH: usize = 255;

/// The rule that a path of a share broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharePathError {
    /// It does not begin at the root.
    #[error("the path of a share is absolute, like /srv/nfs/canasta")]
    Relative,
    /// It has too many bytes.
    #[error("the path of a share has at most {MAX_PATH} bytes, this one has {length}")]
    TooLong {
        /// How many it has.
        length: usize,
    },
    /// A character that is not allowed.
    #[error(
        "the path of a share has letters, digits, '/', '.', '_' and '-' only, and this one has {character}"
    )]
    Character {
        /// The first that is not, in words or as U+XXXX.
        character: String,
    },
    /// It can be written in a shorter way.
    #[error("the path of a share is written without '.', '..', '//' and a '/' at its end")]
    NotNormal,
}

/// Checks the path of a share as its server names it: absolute, normalised, short, and nothing in it that would have to be quoted
/// anywhere. Any directory: what a server's directories are is its own affair.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_path(text: &str) -> Result<(), SharePathError> {
    if !text.starts_with('/') {
        return Err(SharePathError::Relative);
    }
    let allowed = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if let Some(character) = text.chars().find(|character| !allowed(*character)) {
        return Err(SharePathError::Character {
            character: crate::name::shown(character),
        });
    }
    if text.len() > MAX_PATH {
        return Err(SharePathError::TooLong { length: text.len() });
    }
    let mut parts = text.split('/').skip(1);
    if text != "/" && parts.any(|part| ["", ".", ".."].contains(&part)) {
        return Err(SharePathError::NotNormal);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{SharePathError, check_path};

    #[test]
    fn a_share_of_another_server_may_be_any_directory() {
        for good in ["/", "/home", "/vol/vol1", "/srv/nfs/canasta"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "nas",
            "/a/",
            "//",
            "/a b",
            "/a?version=3",
            "/a/../b",
            "/a#b",
        ] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_rule_that_is_broken_is_named() {
        for (text, words) in [
            ("srv/nfs", "absolute"),
            ("/srv/nfs/", "without '.', '..', '//'"),
            ("/srv//nfs", "without '.', '..', '//'"),
            ("/srv/../etc", "without '.', '..', '//'"),
            ("/srv/my wiki", "a space"),
            ("/srv/x\ny", "a line break"),
            ("/srv/\u{202e}x", "U+202E"),
        ] {
            let error = check_path(text).expect_err(text);
            assert!(error.to_string().contains(words), "{text:?}: {error}");
        }
        let long = format!("/srv/{}", "x".repeat(300));
        assert_eq!(
            check_path(&long),
            Err(SharePathError::TooLong { length: 305 })
        );
    }
}
