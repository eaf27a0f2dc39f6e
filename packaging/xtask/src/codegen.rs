//! Generates the Rust code of the wire contract from `proto/canasta/fleet/v1/*.proto`, without protoc.
//!
//! Called by `xtask generate`; the test `generated_code_is_current` compares its output with what is checked in.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// The generated Rust file.
pub const CODE: &str = "canasta.fleet.v1.rs";
/// The descriptor set that reflection serves and that the contract check compares.
pub const DESCRIPTORS: &str = "canasta.fleet.v1.bin";

/// Messages that hold a secret: their `Debug` stands in `proto/src/redacted.rs` and leaves it out.
const SECRETS: [&str; 8] = [
    ".canasta.fleet.v1.AddUserResponse",
    ".canasta.fleet.v1.CreateJoinCredentialResponse",
    ".canasta.fleet.v1.EnrolHostRequest",
    ".canasta.fleet.v1.GetApiCredentialsResponse",
    ".canasta.fleet.v1.GetKubeconfigResponse",
    ".canasta.fleet.v1.JoinToken",
    ".canasta.fleet.v1.RedeemUserRequest",
    ".canasta.fleet.v1.StoreJoinCredentialRequest",
];

/// Why generation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A proto file does not compile; the source tells file, line and reason.
    #[error("failed to compile the proto files below {root}", root = .root.display())]
    Compile {
        /// The include root.
        root: PathBuf,
        /// What the compiler said.
        #[source]
        source: Box<protox::Error>,
    },
    /// A file could not be read or written.
    #[error("failed to access {path}", path = .path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Compiles all proto files below `proto_root` (the directory that holds `canasta/`).
///
/// # Errors
/// When a file cannot be read or does not compile.
pub fn compile(proto_root: &Path) -> Result<FileDescriptorSet, Error> {
    let dir = proto_root.join("canasta/fleet/v1");
    let mut files = Vec::new();
    let entries = std::fs::read_dir(&dir).map_err(|source| Error::File {
        path: dir.clone(),
        source,
    })?;
    for entry in entries {
        let path = entry
            .map_err(|source| Error::File {
                path: dir.clone(),
                source,
            })?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut compiler =
        protox::Compiler::new([proto_root]).map_err(|source| compile_error(proto_root, source))?;
    compiler.include_source_info(true).include_imports(true);
    compiler
        .open_files(files)
        .map_err(|source| compile_error(proto_root, source))?;
    Ok(compiler.file_descriptor_set())
}

fn compile_error(root: &Path, source: protox::Error) -> Error {
    Error::Compile {
        root: root.to_owned(),
        source: Box::new(source),
    }
}

/// Writes [`CODE`] and [`DESCRIPTORS`] into `out`.
///
/// # Errors
/// When the contract does not compile or a file cannot be written.
pub fn generate(proto_root: &Path, out: &Path) -> Result<(), Error> {
    let descriptors = compile(proto_root)?;
    tonic_prost_build::configure()
        .out_dir(out)
        .build_transport(false)
        .bytes(".")
        .skip_debug(SECRETS)
        .compile_fds(descriptors.clone())
        .map_err(|source| Error::File {
            path: out.to_owned(),
            source,
        })?;
    // Imports have code of their own in prost-types; compile_fds leaves empty files for them.
    let stray = out.join("google.protobuf.rs");
    if stray.exists() {
        std::fs::remove_file(&stray).map_err(|source| Error::File {
            path: stray,
            source,
        })?;
    }
    let path = out.join(DESCRIPTORS);
    std::fs::write(&path, without_source_info(descriptors).encode_to_vec())
        .map_err(|source| Error::File { path, source })
}

/// Drops comments and positions: reflection and the contract check do not need them, and a changed comment
/// must not change the binary.
#[must_use]
pub fn without_source_info(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    descriptors
}
