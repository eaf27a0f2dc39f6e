//! SHA-256 of releases that an operator has pinned, a line for each file: `sha256."v1.34.8+k3s1".amd64 = "…"`.
//! Part of the settings; the artefacts heed it.

use std::collections::BTreeMap;
use std::fmt;

use canasta_proto::version::K3sVersion;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::artefacts::Architecture;

/// The pinned SHA-256 of releases, by version and architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins(BTreeMap<(K3sVersion, String), String>);

impl Pins {
    /// The hash that a release must have, lower-case hex. `arch` is as releases call it: `amd64`.
    pub fn get(&self, version: &K3sVersion, arch: &str) -> Option<&str> {
        let key = (version.clone(), arch.to_owned());
        self.0.get(&key).map(String::as_str)
    }

    /// Pins a release.
    pub fn insert(&mut self, version: K3sVersion, arch: &str, sha256: &str) {
        let key = (version, arch.to_owned());
        self.0.insert(key, sha256.to_ascii_lowercase());
    }

    /// The line below `[k3s]` that pins a release.
    pub fn line(version: &str, arch: &str, sha256: &str) -> String {
        format!("sha256.\"{version}\".{arch} = \"{sha256}\"")
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Version(K3sVersion);

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::parsed(deserializer).map(Self)
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Arch(&'static str);

impl<'de> Deserialize<'de> for Arch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let rule = "an architecture is amd64, arm64, arm or s390x";
        Architecture::find(&text)
            .map(|arch| Self(arch.name))
            .map_err(|_unknown| D::Error::custom(rule))
    }
}

struct Sha256(String);

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let whole = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if whole {
            Ok(Self(text))
        } else {
            Err(D::Error::custom("a SHA-256 has 64 hexadecimal digits"))
        }
    }
}

impl<'de> Deserialize<'de> for Pins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table)
    }
}

struct Table;

impl<'de> Visitor<'de> for Table {
    type Value = Pins;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = Pins::line("v1.34.8+k3s1", "amd64", "…");
        write!(formatter, "a line for each version, as {line}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pins, A::Error> {
        let mut pins = Pins::default();
        while let Some((Version(version), files)) =
            map.next_entry::<Version, BTreeMap<Arch, Sha256>>()?
        {
            for (Arch(arch), Sha256(sha256)) in files {
                pins.insert(version.clone(), arch, &sha256);
            }
        }
        Ok(pins)
    }
}
