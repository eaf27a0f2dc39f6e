//! What a copy of the stand-in is told by the bytes behind its own end: the version that it claims, its profile and
//! faults. The release server writes them, the program reads them from its own file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files;

/// The version that a copy without a trailer claims: the recorded one.
pub const DEFAULT_VERSION: &str = "v1.21.3+k3s1";

const MARK: &[u8] = b"\nSTANDIN ";
const LONGEST: u64 = 8192;

/// Which k3s is stood in for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// 1.21 exactly as recorded.
    #[default]
    Recorded,
    /// What newer releases are documented to do: `/v1-k3s/readyz`, an agent that notifies, a file `agent-token`.
    Documented,
}

/// Misbehaviour on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// `/readyz` and `/livez` stay at 500 for ever.
    pub never_ready: bool,
    /// The Node is made but stays NotReady.
    pub node_never_ready: bool,
    /// READY=1 is never sent.
    pub no_notify: bool,
    /// The process ends this many milliseconds (not scaled) after its start.
    pub exit_after_ms: Option<u64>,
    /// The code of that end; 1 if not given.
    pub exit_code: Option<u8>,
    /// The fatal message of that end.
    pub exit_message: Option<String>,
}

/// The trailer itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trailer {
    /// The version to claim, such as `v1.34.8+k3s1`.
    pub version: String,
    /// Which behaviour to show.
    #[serde(default)]
    pub profile: Profile,
    /// Misbehaviour on demand.
    #[serde(default)]
    pub faults: Faults,
    /// Real seconds per recorded second; the default is 0.05.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
}

impl Default for Trailer {
    fn default() -> Self {
        Self {
            version: DEFAULT_VERSION.to_owned(),
            profile: Profile::default(),
            faults: Faults::default(),
            scale: None,
        }
    }
}

/// `/etc/rancher/k3s/standin.yaml`: what a test wants to change without another binary.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Overrides {
    profile: Option<Profile>,
    scale: Option<f64>,
    faults: Option<Faults>,
}

impl Trailer {
    /// The bytes to append to the program.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MARK.to_vec();
        bytes.extend(serde_json::to_vec(self).unwrap_or_default());
        bytes.push(b'\n');
        bytes
    }

    /// Reads the trailer of the program at `path`; a program without one gets the default.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LONGEST)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(Self::parse(&tail).unwrap_or_default())
    }

    /// Applies `etc/rancher/k3s/standin.yaml` below `root`, if there is one.
    pub fn overridden(mut self, root: &Path) -> io::Result<Self> {
        let path = root.join("etc/rancher/k3s/standin.yaml");
        let Some(text) = files::read_optional(&path)? else {
            return Ok(self);
        };
        let overrides: Overrides = serde_norway::from_str(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        self.profile = overrides.profile.unwrap_or(self.profile);
        self.scale = overrides.scale.or(self.scale);
        self.faults = overrides.faults.unwrap_or(self.faults);
        Ok(self)
    }

    // The program itself holds the mark as a constant, so only a last line that is whole and parses counts.
    fn parse(tail: &[u8]) -> Option<Self> {
        let at = tail
            .windows(MARK.len())
            .rposition(|window| window == MARK)?;
        serde_json::from_slice(tail.get(at + MARK.len()..)?.trim_ascii_end()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_is_read_back_and_its_absence_is_the_recorded_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k3s");
        std::fs::write(&path, b"\x7fELF\nSTANDIN not the end").unwrap();
        assert_eq!(Trailer::read(&path).unwrap().version, DEFAULT_VERSION);

        let trailer = Trailer {
            version: "v1.34.8+k3s1".into(),
            profile: Profile::Documented,
            faults: Faults {
                never_ready: true,
                ..Faults::default()
            },
            scale: None,
        };
        let mut bytes = b"\x7fELF\nSTANDIN ".to_vec();
        bytes.extend(trailer.to_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Trailer::read(&path).unwrap(), trailer);
    }
}
