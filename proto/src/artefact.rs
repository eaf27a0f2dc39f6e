//! The bound of artefacts, the same for whoever downloads, imports, sends or takes one.

/// The largest artefact, in bytes. k3s has some 70 MiB.
pub const MAX_SIZE: u64 = 512 * 1024 * 1024;
