//! The wire contract of the fleet.
//!
//! [`pb`] is generated from `proto/canasta/fleet/v1/*.proto` by `./dev generate` and checked in. What crosses a
//! boundary is checked once, where it enters: [`name`], [`version`], [`address`], [`share`] and [`local_path`] turn text into types that can't
//! hold anything else. Agent, controller and CLI meet in this crate and nowhere else.

pub mod address;
pub mod architecture;
pub mod artefact;
pub mod directories;
pub mod local_path;
pub mod name;
#[cfg(feature = "package")]
pub mod package;
mod redacted;
pub mod share;
pub mod token;
pub mod version;

/// Messages, clients and servers as the proto files say. Their comments stand in the proto files.
#[allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod pb {
    include!("gen/canasta.fleet.v1.rs");

    /// The descriptor set of the package and of what it imports, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!("gen/canasta.fleet.v1.bin");
}
