//! Versions of k3s, checked where they enter, and the rules by which one may follow another.
//!
//! A version becomes part of URLs and file names, so only the form of a k3s release is let in: `v1.34.8+k3s1`,
//! and release candidates as `v1.34.8-rc1+k3s1`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The text is not a version of k3s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a k3s version looks like v1.34.8+k3s1")]
pub struct VersionError;

/// A version of k3s. Ordered as releases follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct K3sVersion {
    major: u32,
    minor: u32,
    patch: u32,
    candidate: Option<u32>,
    build: u32,
}

/// How an installed version relates to a wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// They are the same.
    None,
    /// A higher patch or build of the same minor, or the next minor: installed with one restart.
    Upgrade,
    /// Older than what is there: Kubernetes does not support it (k3s-facts 4.6).
    Downgrade,
    /// A minor version would be skipped: Kubernetes does not support it (k3s-facts 4.6).
    SkipsMinor,
}

impl K3sVersion {
    /// How going from `self` to `wanted` is to be judged.
    pub fn change_to(&self, wanted: &Self) -> Change {
        match self.cmp(wanted) {
            Ordering::Equal => Change::None,
            Ordering::Greater => Change::Downgrade,
            Ordering::Less if self.major == wanted.major && wanted.minor - self.minor <= 1 => {
                Change::Upgrade
            }
            Ordering::Less => Change::SkipsMinor,
        }
    }

    /// The version with its `+` encoded as URLs need it.
    pub fn url_encoded(&self) -> String {
        self.to_string().replace('+', "%2B")
    }

    /// `v1.35`, the minor after this one, for hints.
    pub fn next_minor(&self) -> String {
        format!("v{}.{}", self.major, self.minor + 1)
    }

    fn key(&self) -> (u32, u32, u32, u32, u32) {
        // A release candidate comes before its release.
        (
            self.major,
            self.minor,
            self.patch,
            self.candidate.unwrap_or(u32::MAX),
            self.build,
        )
    }
}

impl PartialOrd for K3sVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for K3sVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// A plain number as it stands in a version: no sign, no leading zero, at most six digits.
fn number(text: &str) -> Result<u32, VersionError> {
    let plain = (1..=6).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if !plain {
        return Err(VersionError);
    }
    text.parse().map_err(|_| VersionError)
}

impl FromStr for K3sVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let rest = text.strip_prefix('v').ok_or(VersionError)?;
        let (release, build) = rest.split_once("+k3s").ok_or(VersionError)?;
        let (release, candidate) = match release.split_once("-rc") {
            Some((release, candidate)) => (release, Some(number(candidate)?)),
            None => (release, None),
        };
        let mut parts = release.split('.');
        let mut part = || number(parts.next().ok_or(VersionError)?);
        let (major, minor, patch) = (part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(VersionError);
        }
        Ok(Self {
            major,
            minor,
            patch,
            candidate,
            build: number(build)?,
        })
    }
}

impl fmt::Display for K3sVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "v{}.{}.{}", self.major, self.minor, self.patch)?;
        if let Some(candidate) = self.candidate {
            write!(formatter, "-rc{candidate}")?;
        }
        write!(formatter, "+k3s{}", self.build)
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, K3sVersion};

    fn version(text: &str) -> K3sVersion {
        text.parse().expect(text)
    }

    #[test]
    fn a_release_is_read_and_shown_as_it_is() {
        for text in ["v1.34.8+k3s1", "v1.21.3+k3s1", "v1.34.0-rc2+k3s10"] {
            assert_eq!(version(text).to_string(), text);
        }
        assert_eq!(version("v1.34.8+k3s1").url_encoded(), "v1.34.8%2Bk3s1");
    }

    #[test]
    fn what_is_no_release_is_refused() {
        for text in [
            "",
            "v",
            "1.34.8+k3s1",
            "v1.34+k3s1",
            "v1.34.8",
            "v1.34.8+k3s",
            "v1.34.8+k3s1/..",
            "v1.34.8+k3s1 ",
            "v1.034.8+k3s1",
            "v1.34.8.1+k3s1",
            "v+1.3.4+k3s1",
            "latest",
            "v1.34.8+k3s1\n",
            "v9999999.1.1+k3s1",
            "v1.34.8+k3s1; rm -rf /",
        ] {
            assert!(text.parse::<K3sVersion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_steps_that_kubernetes_supports_are_upgrades() {
        let from = version("v1.33.4+k3s1");
        let cases = [
            ("v1.33.4+k3s1", Change::None),
            ("v1.33.4+k3s2", Change::Upgrade),
            ("v1.33.9+k3s1", Change::Upgrade),
            ("v1.34.0+k3s1", Change::Upgrade),
            ("v1.35.0+k3s1", Change::SkipsMinor),
            ("v2.0.0+k3s1", Change::SkipsMinor),
            ("v1.33.3+k3s9", Change::Downgrade),
            ("v1.33.4-rc1+k3s1", Change::Downgrade),
        ];
        for (to, change) in cases {
            assert_eq!(from.change_to(&version(to)), change, "{to}");
        }
    }
}
