//! Apt repositories of packages that nodes lack, made by the machine's own apt from the sources that the nodes' root file
//! system was made from. Called by [`crate::Lab::apt_repository`].
//!
//! apt works on the list of what is installed in that root file system, with directories and a configuration of its own:
//! what the machine itself has installed, cached or configured plays no part and stays as it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::packages::{architecture, hex};
use crate::program::{Place, ProgramError, checked, command, run};

/// Where the packages lie in a repository.
const POOL: &str = "pool";

/// Why there is no repository to serve.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// apt does not find or can't fetch what is wanted.
    #[error("failed to download {packages} for the nodes with this machine's apt")]
    Download {
        /// The packages that were asked for.
        packages: String,
        /// What apt said.
        #[source]
        source: ProgramError,
    },
    /// The index of the packages can't be made.
    #[error("failed to make the index of the apt repository {}", path.display())]
    Index {
        /// The repository.
        path: PathBuf,
        /// What dpkg-scanpackages said.
        #[source]
        source: ProgramError,
    },
    /// A file can't be used.
    #[error("failed to use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RepositoryError {
    let path = path.to_owned();
    move |source| RepositoryError::File { path, source }
}

/// The repository below `repositories` with these packages and all that the root file system `base` lacks for them, made
/// first if there is none. `lock` keeps a second caller out meanwhile; `say` is told when it takes long.
pub(crate) fn ensure(
    repositories: &Path,
    lock: &Path,
    base: &Path,
    packages: &[&str],
    say: &dyn Fn(&str),
) -> Result<PathBuf, RepositoryError> {
    let ready = repositories.join(name(base, packages));
    if ready.exists() {
        return Ok(ready);
    }
    let lock_file = File::create(lock).map_err(at(lock))?;
    lock_file.lock().map_err(at(lock))?;
    if ready.exists() {
        return Ok(ready);
    }
    say(&format!(
        "downloading {} for the nodes (once)",
        packages.join(" ")
    ));
    let partial = ready.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(at(&partial))?;
    }
    let pool = partial.join(POOL);
    fs::create_dir_all(&pool).map_err(at(&pool))?;
    let apt = Apt::new(partial.join("apt"), base)?;
    apt.download(packages, &pool)?;
    fs::remove_dir_all(&apt.directory).map_err(at(&apt.directory))?;
    index(&partial)?;
    fs::rename(&partial, &ready).map_err(at(&ready))?;
    Ok(ready)
}

/// Names a repository by what it is for and what it holds, whatever the order.
fn name(base: &Path, packages: &[&str]) -> String {
    let mut packages = packages.to_vec();
    packages.sort_unstable();
    packages.dedup();
    let mut hash = Sha256::new();
    hash.update(format!("{packages:?}"));
    let mut key = hex(hash);
    key.truncate(12);
    let base = base.file_name().unwrap_or_default().to_string_lossy();
    format!("{base}-{key}")
}

/// Writes the index, which names each package by its path in the repository.
fn index(repository: &Path) -> Result<(), RepositoryError> {
    let argv = ["dpkg-scanpackages", POOL];
    let scanned = Place::default()
        .output(command(&argv).current_dir(repository), b"")
        .and_then(|output| checked(&argv, output))
        .map_err(|source| RepositoryError::Index {
            path: repository.to_owned(),
            source,
        })?;
    let packages = repository.join("Packages");
    fs::write(&packages, scanned.stdout).map_err(at(&packages))
}

/// The machine's apt, working for a root file system that is not the machine's.
struct Apt {
    /// Everything that it writes.
    directory: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    fn new(directory: PathBuf, base: &Path) -> Result<Self, RepositoryError> {
        for part in ["lists/partial", "archives/partial"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).map_err(at(&part))?;
        }
        // A copy, because apt locks the directory that it lies in.
        let (installed, status) = (base.join("var/lib/dpkg/status"), directory.join("status"));
        fs::copy(&installed, &status).map_err(at(&installed))?;
        let configuration = directory.join("apt.conf");
        fs::write(&configuration, settings(&directory, base)).map_err(at(&configuration))?;
        Ok(Self {
            directory,
            configuration,
        })
    }

    /// Downloads packages, and what they depend on or recommend and is not installed, into `pool`.
    fn download(&self, packages: &[&str], pool: &Path) -> Result<(), RepositoryError> {
        let mut install = vec!["install", "--download-only", "--yes"];
        install.extend(packages);
        self.get(&["update"])
            .and_then(|()| self.get(&install))
            .map_err(|source| RepositoryError::Download {
                packages: packages.join(" "),
                source,
            })?;
        let archives = self.directory.join("archives");
        for entry in fs::read_dir(&archives).map_err(at(&archives))? {
            let path = entry.map_err(at(&archives))?.path();
            if let (Some("deb"), Some(file)) = (
                path.extension().and_then(|extension| extension.to_str()),
                path.file_name(),
            ) {
                fs::rename(&path, pool.join(file)).map_err(at(&path))?;
            }
        }
        Ok(())
    }

    fn get(&self, arguments: &[&str]) -> Result<(), ProgramError> {
        let configuration = format!("APT_CONFIG={}", self.configuration.display());
        let mut argv = vec!["env", &configuration, "apt-get", "--quiet"];
        argv.extend(arguments);
        run(&Place::default(), &argv, b"").map(drop)
    }
}

/// The configuration: read before the machine's own, and in its place.
fn settings(directory: &Path, base: &Path) -> String {
    let (directory, base) = (directory.display(), base.display());
    format!(
        "APT::Architectures \"{architecture}\";\n\
         APT::Sandbox::User \"root\";\n\
         APT::Update::Error-Mode \"any\";\n\
         Acquire::Languages \"none\";\n\
         Dir::State \"{directory}\";\n\
         Dir::State::status \"{directory}/status\";\n\
         Dir::Cache \"{directory}\";\n\
         Dir::Etc \"{base}/etc/apt\";\n\
         Dir::Etc::trusted \"/etc/apt/trusted.gpg\";\n\
         Dir::Etc::trustedparts \"/etc/apt/trusted.gpg.d\";\n",
        architecture = architecture()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_known_by_the_root_file_system_and_the_packages_in_any_order() {
        let (base, other) = (Path::new("/base/noble-1"), Path::new("/base/noble-2"));
        assert_eq!(name(base, &["a", "b"]), name(base, &["b", "a", "a"]));
        assert!(name(base, &["a"]).starts_with("noble-1-"));
        assert_ne!(name(base, &["a", "b"]), name(base, &["a"]));
        assert_ne!(name(base, &["a"]), name(other, &["a"]));
    }

    #[test]
    fn an_index_names_packages_by_their_path_in_the_repository() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = "Package: lab-sample\nVersion: 1:2.0\nArchitecture: all\nMaintainer: nobody <n@example.org>\n\
            Description: of no use\n";
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::create_dir(directory.path().join(POOL)).unwrap();
        let package = directory.path().join("pool/lab-sample_1%3a2.0_all.deb");
        let (tree, package) = (tree.to_str().unwrap(), package.to_str().unwrap());
        run(
            &Place::default(),
            &["dpkg-deb", "--build", tree, package],
            b"",
        )
        .unwrap();
        index(directory.path()).unwrap();
        let index = fs::read_to_string(directory.path().join("Packages")).unwrap();
        for line in [
            "Package: lab-sample\n",
            "Filename: pool/lab-sample_1%3a2.0_all.deb\n",
        ] {
            assert!(index.contains(line), "{index}");
        }
    }
}
