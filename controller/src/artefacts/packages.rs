//! The package of the agent for a kind of machine: imported, or brought by the controller's own package. Called by the API,
//! which hands it to the CLI for the bootstrap over ssh.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use canasta_proto::package::{self, Format};
use canasta_proto::pb;
use tokio::sync::mpsc;

use super::import::CHUNK;
use super::source::Architecture;
use super::{Artefacts, Error, file, to_pb};
use crate::store::artefacts::ArtefactRow;

/// The version of this controller, with which packages of its own version begin.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// A package, and its content as it is read.
#[derive(Debug)]
pub(crate) struct AgentPackage {
    pub(crate) artefact: pb::Artefact,
    pub(crate) chunks: mpsc::Receiver<Result<Bytes, canasta_durable::Error>>,
}

/// A package that may be the one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    row: ArtefactRow,
    path: PathBuf,
}

impl Artefacts {
    /// The package for a form and an architecture: one of the controller's own version, else the newest that was brought.
    ///
    /// # Errors
    /// [`Error::NoPackage`] when there is none.
    pub(crate) async fn agent_package(
        &self,
        format: Format,
        arch: &str,
        shipped: &Path,
    ) -> Result<AgentPackage, Error> {
        let missing = |arch: &str| Error::NoPackage {
            format: format.ending(),
            arch: arch
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .take(16)
                .collect(),
        };
        let known = Architecture::find(arch).map_err(|_| missing(arch))?;
        let mut candidates =
            file::blocking(shipped, move |shipped| Ok(look(shipped, format, known))).await?;
        let rows = self.inner.store.artefacts().await.map_err(Error::Store)?;
        for row in rows {
            if row.name != format.artefact() || row.arch != known.name {
                continue;
            }
            let key = (row.name, row.version, row.arch);
            if let Some(kept) = self.inner.kept(&key).await? {
                candidates.push(Candidate {
                    row: kept.row,
                    path: kept.path,
                });
            }
        }
        let mut best = best(candidates).ok_or_else(|| missing(arch))?;
        if best.row.sha256.is_empty() {
            best.row.sha256 = file::hash(&best.path).await?;
        }
        Ok(AgentPackage {
            artefact: to_pb(&best.row),
            chunks: file::read_chunks(&best.path, 0, CHUNK),
        })
    }
}

/// The packages in a directory; one that is not there has none.
fn look(directory: &Path, format: Format, arch: &Architecture) -> Vec<Candidate> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| candidate(&entry.ok()?.path(), format, arch))
        .collect()
}

fn candidate(path: &Path, format: Format, arch: &Architecture) -> Option<Candidate> {
    if path.extension()?.to_str()? != format.ending() {
        return None;
    }
    let look = file::look(path).ok()??;
    let mut head = Vec::new();
    let opened = std::fs::File::open(path).ok()?;
    let limit = u64::try_from(package::HEAD).ok()?;
    opened.take(limit).read_to_end(&mut head).ok()?;
    let package = package::read(&head).ok()?;
    let fits = package.format == format && package.arch == arch.name;
    fits.then(|| Candidate {
        row: ArtefactRow {
            name: format.artefact().to_owned(),
            version: package.version,
            arch: arch.name.to_owned(),
            // Computed for the one that is taken.
            sha256: String::new(),
            size: look.size,
            source: path.display().to_string(),
            stored_at: look.modified / 1_000_000,
            modified: look.modified,
        },
        path: path.to_owned(),
    })
}

/// Own version first, then the newest. A pure function.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    let own = |version: &str| {
        let rest = version.strip_prefix(OWN);
        rest.is_some_and(|rest| {
            !rest.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        })
    };
    candidates
        .into_iter()
        .max_by_key(|candidate| (own(&candidate.row.version), candidate.row.stored_at))
}

#[cfg(test)]
mod tests {
    use super::{Candidate, OWN, best};
    use crate::store::artefacts::ArtefactRow;

    #[test]
    fn the_controllers_own_version_comes_first_then_the_newest() {
        let candidate = |version: String, stored_at| Candidate {
            row: ArtefactRow {
                name: "agent-deb".to_owned(),
                version,
                arch: "amd64".to_owned(),
                sha256: String::new(),
                size: 1,
                source: String::new(),
                stored_at,
                modified: 0,
            },
            path: "/p".into(),
        };
        let version = |candidates: Vec<Candidate>| best(candidates).map(|best| best.row.version);
        let all = vec![
            candidate("9.9.9-1".to_owned(), 30),
            candidate(format!("{OWN}-1"), 10),
            candidate(format!("{OWN}.1-1"), 40),
            candidate(format!("{OWN}-2"), 20),
        ];
        assert_eq!(version(all), Some(format!("{OWN}-2")));
        let others = vec![
            candidate("1.0-1".to_owned(), 30),
            candidate("2.0-1".to_owned(), 10),
        ];
        assert_eq!(version(others), Some("1.0-1".to_owned()));
        assert_eq!(version(Vec::new()), None);
    }
}
