//! What the maintainers' program `xtask` does: generated code, the checks of the contract and of the
//! layout.
//!
//! `./dev generate` and `./dev lint` call the program; its tests prove that what is checked in is current.

pub mod codegen;
pub mod contract;
pub mod layout;
