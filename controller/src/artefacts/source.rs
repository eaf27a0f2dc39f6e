//! Where a release is: URLs and paths made from the setting `[k3s] release_url`, and the reading of checksum files.
//! Pure functions, used by the download.

use std::path::{Path, PathBuf};

use canasta_proto::architecture;
use canasta_proto::version::K3sVersion;

use super::Error;
use super::client::is_https;

/// The architectures that k3s is released for: ours, the suffix of the file, the suffix of the checksum file, and
/// the ELF machine number with its byte order.
const ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        name: "amd64",
        asset: "k3s",
        elf: (62, false),
    },
    Architecture {
        name: "arm64",
        asset: "k3s-arm64",
        elf: (183, false),
    },
    Architecture {
        name: "arm",
        asset: "k3s-armhf",
        elf: (40, false),
    },
    Architecture {
        name: "s390x",
        asset: "k3s-s390x",
        elf: (22, true),
    },
];

/// An architecture that k3s is released for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// As releases call it: `amd64`.
    pub(crate) name: &'static str,
    /// The file of the release.
    pub(super) asset: &'static str,
    /// The machine number in an ELF header, and whether it is big-endian.
    elf: (u16, bool),
}

impl Architecture {
    /// Finds it by the name of a release or of a kernel.
    pub(crate) fn find(name: &str) -> Result<&'static Self, Error> {
        architecture::find(name)
            .and_then(|name| ARCHITECTURES.iter().find(|arch| arch.name == name))
            .ok_or_else(|| Error::Architecture {
                name: "k3s".to_owned(),
                arch: name.to_owned(),
            })
    }

    /// Finds it by the first 20 bytes of a program.
    pub(super) fn of_program(head: &[u8]) -> Option<&'static Self> {
        let [0x7f, b'E', b'L', b'F', _class, order, ..] = *head else {
            return None;
        };
        let machine = [*head.get(18)?, *head.get(19)?];
        let found = match order {
            1 => (u16::from_le_bytes(machine), false),
            2 => (u16::from_be_bytes(machine), true),
            _ => return None,
        };
        ARCHITECTURES.iter().find(|arch| arch.elf == found)
    }

    fn checksums(&self) -> String {
        format!("sha256sum-{}.txt", self.name)
    }
}

/// Where one file of a release is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// On a server.
    Url(String),
    /// On this machine.
    Path(PathBuf),
}

impl Location {
    /// As a person reads it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Path(path) => path.display().to_string(),
        }
    }
}

/// A release with its checksum file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) asset: &'static str,
    pub(super) file: Location,
    /// Beside the file.
    pub(super) checksums: Location,
    /// What the file has to have, when an operator said so.
    pub(super) pin: Option<String>,
}

impl Release {
    /// Works out where a release is. A template without `{asset}` is a directory with a directory for each version.
    pub(super) fn locate(
        template: &str,
        pin: Option<&str>,
        version: &K3sVersion,
        arch: &Architecture,
    ) -> Result<Self, Error> {
        let directory;
        let template = if template.contains("{asset}") {
            template
        } else {
            directory = format!("{}/{{version}}/{{asset}}", template.trim_end_matches('/'));
            &directory
        };
        let scheme = |scheme: &str| {
            template
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        };
        let https = is_https(template);
        let location = |asset: &str| {
            if https || scheme("http://") {
                let url = template.replace("{version}", &version.url_encoded());
                Ok(Location::Url(url.replace("{asset}", asset)))
            } else {
                let path = if scheme("file://") {
                    &template["file://".len()..]
                } else {
                    template
                };
                if !Path::new(path).is_absolute() {
                    return Err(Error::Template {
                        template: template.to_owned(),
                    });
                }
                let path = path.replace("{version}", &version.to_string());
                Ok(Location::Path(path.replace("{asset}", asset).into()))
            }
        };
        let release = Self {
            asset: arch.asset,
            file: location(arch.asset)?,
            checksums: location(&arch.checksums())?,
            pin: pin.map(str::to_owned),
        };
        match &release.file {
            Location::Url(url) if !https && pin.is_none() => Err(Error::PinRequired {
                url: url.clone(),
                version: version.to_string(),
                arch: arch.name.to_owned(),
            }),
            _ => Ok(release),
        }
    }
}

/// Finds the hash of a file in a checksum file: lines `HASH  NAME`, the name perhaps marked with `*`.
pub(super) fn read_checksum(text: &str, asset: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (hash, name) = line.split_once(char::is_whitespace)?;
        let whole = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let fits = name.trim().trim_start_matches('*') == asset;
        (whole && fits).then(|| hash.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::{Architecture, Error, Location, Release, read_checksum};

    fn locate(template: &str, pin: Option<&str>, arch: &str) -> Result<Release, Error> {
        let version = "v1.34.8+k3s1".parse().expect("version");
        Release::locate(template, pin, &version, Architecture::find(arch)?)
    }

    #[test]
    fn a_release_is_found_by_its_template() {
        let url = |text: &str| Location::Url(text.to_owned());
        let path = |text: &str| Location::Path(text.into());
        let cases = [
            (
                "https://x.org/{version}/{asset}",
                "x86_64",
                url("https://x.org/v1.34.8%2Bk3s1/k3s"),
                url("https://x.org/v1.34.8%2Bk3s1/sha256sum-amd64.txt"),
            ),
            (
                "https://x.org/k3s",
                "aarch64",
                url("https://x.org/k3s/v1.34.8%2Bk3s1/k3s-arm64"),
                url("https://x.org/k3s/v1.34.8%2Bk3s1/sha256sum-arm64.txt"),
            ),
            (
                "/srv/{asset}",
                "armv7l",
                path("/srv/k3s-armhf"),
                path("/srv/sha256sum-arm.txt"),
            ),
            (
                "file:///srv/k3s/",
                "s390x",
                path("/srv/k3s/v1.34.8+k3s1/k3s-s390x"),
                path("/srv/k3s/v1.34.8+k3s1/sha256sum-s390x.txt"),
            ),
        ];
        for (template, arch, file, checksums) in cases {
            let release = locate(template, None, arch).expect(template);
            assert_eq!((release.file, release.checksums), (file, checksums));
        }
    }

    #[test]
    fn what_can_not_be_trusted_or_read_is_refused() {
        let error = locate("http://x.org/{asset}", None, "amd64").expect_err("no TLS");
        assert_eq!(error.reason(), "ARTEFACT_PIN_REQUIRED");
        let line = "sha256.\"v1.34.8+k3s1\".amd64 = ";
        assert!(error.hint().contains(line), "{}", error.hint());
        assert!(locate("http://x.org/{asset}", Some("ab"), "amd64").is_ok());
        assert_eq!(
            locate("srv/{asset}", None, "amd64")
                .expect_err("relative")
                .reason(),
            "ARTEFACT_SOURCE_INVALID"
        );
        assert_eq!(
            locate("/srv/{asset}", None, "riscv64")
                .expect_err("not released")
                .reason(),
            "ARTEFACT_ARCHITECTURE"
        );
    }

    #[test]
    fn a_checksum_is_read_by_the_name_of_its_file() {
        let (one, two) = ("A1".repeat(32), "b2".repeat(32));
        let text = format!("{one}  k3s\n{two} *k3s-airgap-images-amd64.tar\nshort  k3s-arm64\n");
        assert_eq!(read_checksum(&text, "k3s"), Some("a1".repeat(32)));
        assert_eq!(
            read_checksum(&text, "k3s-airgap-images-amd64.tar"),
            Some(two)
        );
        assert_eq!(read_checksum(&text, "k3s-arm64"), None);
        assert_eq!(read_checksum("<html>404</html>", "k3s"), None);
    }

    #[test]
    fn a_program_tells_its_architecture() {
        let mut head = vec![0; 20];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        head[18] = 183;
        assert_eq!(
            Architecture::of_program(&head).expect("arm64").name,
            "arm64"
        );
        head[5] = 2;
        assert_eq!(Architecture::of_program(&head), None);
        head[18..20].copy_from_slice(&[0, 22]);
        assert_eq!(
            Architecture::of_program(&head).expect("s390x").name,
            "s390x"
        );
        assert_eq!(Architecture::of_program(b"#!/bin/sh\nexit 0\n...."), None);
        assert_eq!(Architecture::of_program(b""), None);
    }
}
