//! The distribution, as `/etc/os-release` has it.

use serde::{Deserialize, Serialize};

/// The distribution; all fields are empty where there is no os-release file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsRelease {
    /// `debian`, `ubuntu`, `rhel`.
    pub id: String,
    /// `12`, `24.04`; empty for rolling distributions.
    pub version_id: String,
    /// For people: `Debian GNU/Linux 12 (bookworm)`.
    pub pretty_name: String,
    /// Distributions that this one is like, most alike first: `rhel fedora`.
    pub id_like: String,
}

/// Reads an os-release file: shell assignments, with or without quotes.
pub fn parse(text: &str) -> OsRelease {
    let mut release = OsRelease::default();
    for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
        let field = match key {
            "ID" => &mut release.id,
            "VERSION_ID" => &mut release.version_id,
            "PRETTY_NAME" => &mut release.pretty_name,
            "ID_LIKE" => &mut release.id_like,
            _ => continue,
        };
        *field = unquote(value);
    }
    release
}

fn unquote(value: &str) -> String {
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut plain = String::new();
    let mut characters = inner.unwrap_or(value).chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_and_comments_are_understood() {
        let text = "# comment\nNAME=x\nPRETTY_NAME=\"Debian \\\"GNU\\\"/Linux 12\"\nID=debian\nVERSION_ID='12'\nID_LIKE=\nbroken\n";
        let release = parse(text);
        assert_eq!(release.pretty_name, "Debian \"GNU\"/Linux 12");
        assert_eq!(
            (release.id.as_str(), release.version_id.as_str()),
            ("debian", "12")
        );
        assert_eq!(release.id_like, "");
        assert_eq!(parse(""), OsRelease::default());
        assert_eq!(parse("ID=\"").id, "\"");
    }
}
