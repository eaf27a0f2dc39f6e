//! Which packages a node gets, and whether it has them already. Called by [`crate::Lab::up`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::place::CONTROLLER_NODE;

/// Why there is nothing to install.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A package has not been built.
    #[error("failed to find {name}_*_{}.deb in {}: build it with `./dev package`", architecture(), directory.display())]
    Missing {
        /// The package.
        name: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A file can't be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// One package file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// The package's name.
    pub name: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The file's name without directories.
    pub file: String,
    /// SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}

/// Debian's name of this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The packages that node `node` gets.
fn wanted(node: &str) -> &'static [&'static str] {
    if node == CONTROLLER_NODE {
        &["canasta-controller", "canasta"]
    } else {
        &["canasta-agent"]
    }
}

/// The packages in `directory` for node `node`, each in the version that was built last.
pub(crate) fn select(directory: &Path, node: &str) -> Result<Vec<Package>, PackageError> {
    wanted(node)
        .iter()
        .map(|name| newest(directory, name))
        .collect()
}

/// What is recorded once they are installed.
pub(crate) fn record(packages: &[Package]) -> BTreeMap<String, String> {
    packages
        .iter()
        .map(|package| (package.file.clone(), package.sha256.clone()))
        .collect()
}

fn newest(directory: &Path, name: &'static str) -> Result<Package, PackageError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| PackageError::Read { path, source }
    };
    let prefix = format!("{name}_");
    let suffix = format!("_{}.deb", architecture());
    let mut found: Option<(SystemTime, PathBuf, String)> = None;
    for entry in fs::read_dir(directory).map_err(read(directory))? {
        let entry = entry.map_err(read(directory))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if !file.starts_with(&prefix) || !file.ends_with(&suffix) {
            continue;
        }
        let path = entry.path();
        let built = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .map_err(read(&path))?;
        if found.as_ref().is_none_or(|(newest, ..)| built > *newest) {
            found = Some((built, path, file));
        }
    }
    let (_, path, file) = found.ok_or_else(|| PackageError::Missing {
        name,
        directory: directory.to_owned(),
    })?;
    let mut hash = Sha256::new();
    let mut content = File::open(&path).map_err(read(&path))?;
    io::copy(&mut content, &mut hash).map_err(read(&path))?;
    let sha256 = hex(hash);
    Ok(Package {
        name,
        path,
        file,
        sha256,
    })
}

/// The finished sum in hexadecimal digits.
pub(crate) fn hex(sum: Sha256) -> String {
    let mut text = String::new();
    for byte in sum.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_node_gets_two_packages_and_others_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let arch = architecture();
        for name in ["canasta-controller", "canasta", "canasta-agent"] {
            fs::write(
                directory.path().join(format!("{name}_0.1.0-1_{arch}.deb")),
                name,
            )
            .unwrap();
        }
        let files = |node: &str| -> Vec<String> {
            let packages = select(directory.path(), node).unwrap();
            packages.into_iter().map(|package| package.file).collect()
        };
        assert_eq!(
            files("ctl"),
            [
                format!("canasta-controller_0.1.0-1_{arch}.deb"),
                format!("canasta_0.1.0-1_{arch}.deb")
            ]
        );
        assert_eq!(files("cp1"), [format!("canasta-agent_0.1.0-1_{arch}.deb")]);
    }

    #[test]
    fn a_package_that_was_not_built_names_the_way_to_build_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = select(directory.path(), "n1").unwrap_err().to_string();
        assert!(
            error.contains("canasta-agent_") && error.contains("./dev package"),
            "{error}"
        );
    }
}
