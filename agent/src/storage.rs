//! Shared storage on this node: exports of directories over NFS, and the proof that a share can be used from it. Called by the tasks
//! and questions of the agent's API.
//!
//! Two servers can export: that of the kernel, where `/proc/fs/nfsd` can be had, and nfs-ganesha where it can't ([`server`]). What
//! is ours stands in files of our own, noted in a [`record`] first; what others export is looked at ([`foreign`]), to keep out of its
//! way, and never changed.

pub(crate) mod ensure;
pub(crate) mod export;
mod files;
mod foreign;
mod ganesha;
pub(crate) mod inspect;
mod install;
mod kernel;
pub(crate) mod list;
mod packages;
mod prepare;
pub(crate) mod prove;
mod record;
pub(crate) mod remove;
mod rules;
pub(crate) mod server;
mod told;

pub(crate) use install::install;
pub(crate) use server::Limits;
