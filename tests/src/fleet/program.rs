//! What the release server gives out as k3s in one process: a program of a few lines that tells its version. What it would
//! do as a service, [`super::k3s`] does.

use std::path::Path;

use canasta_standin::release::Source;
use canasta_standin::trailer::{Faults, Profile, Trailer};
use sha2::{Digest as _, Sha256};

/// Reads the version from the trailer that the release server puts behind it.
const PROGRAM: &str = r#"#!/bin/sh
# Stands in for k3s where only its version is asked for.
sed -n 's/^STANDIN .*"version":"\([^"]*\)".*$/k3s version \1 (standin)/p' "$0"
exit 0
"#;

/// Writes the program to `file`, padded to at least `size` bytes, for a release server.
///
/// # Panics
/// When the file can't be written.
pub fn source(file: &Path, size: usize) -> Source {
    std::fs::write(file, bytes(size)).expect("the program can be written");
    Source::Standin {
        file: file.to_owned(),
        profile: Profile::Documented,
        faults: Faults::default(),
    }
}

/// The whole file of a version, as the release server gives it out.
pub fn release(version: &str, size: usize) -> Vec<u8> {
    let trailer = Trailer {
        version: version.to_owned(),
        profile: Profile::Documented,
        ..Trailer::default()
    };
    let mut file = bytes(size);
    file.extend(trailer.to_bytes());
    file
}

/// This machine's architecture, as releases call it.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// The file of a release for this machine.
pub fn asset() -> &'static str {
    match arch() {
        "arm64" => "k3s-arm64",
        _ => "k3s",
    }
}

/// The list of checksums beside it.
pub fn checksums() -> String {
    format!("sha256sum-{}.txt", arch())
}

/// Lays out a release in a directory with a directory for each version, as `[k3s] release_url` takes it: the file and the
/// list of checksums, which tells `sha256`.
///
/// # Panics
/// When it can't be written.
pub fn lay_out(releases: &Path, version: &str, file: &[u8], sha256: &str) {
    let directory = releases.join(version);
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join(asset()), file).expect("the file can be written");
    std::fs::write(
        directory.join(checksums()),
        format!("{sha256}  {}\n", asset()),
    )
    .expect("the list can be written");
}

/// A file that is taken for a program of this machine and can't be run: imports look at the head alone.
pub fn head_only(size: usize) -> Vec<u8> {
    let machine = if std::env::consts::ARCH == "aarch64" {
        183
    } else {
        62
    };
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(18, 0);
    file.extend([machine, 0]);
    file.resize(size.max(64), 0);
    file
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn bytes(size: usize) -> Vec<u8> {
    let mut bytes = PROGRAM.as_bytes().to_vec();
    // Not all the same, so that a part in the wrong place is seen.
    let mut state = 1_u32;
    while bytes.len() < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend(format!("# {state:08x}\n").into_bytes());
    }
    bytes
}
