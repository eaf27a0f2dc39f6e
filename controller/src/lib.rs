//! The daemon that knows the fleet: it enrols hosts, holds a connection to each agent, and runs operations across them.
//!
//! [`controller::Controller`] puts the parts together:
//!
//! * [`config`] and [`paths`]: what an operator may set, and where things are;
//! * [`store`]: the database, the only state besides the CA and the artefacts;
//! * [`identity`]: the CA, certificates, tokens, and who may log in;
//! * [`fleet`]: one task per host that keeps a connection to its agent;
//! * [`operations`], [`workflows`], [`clusters`], [`artefacts`]: work that outlives every connection;
//! * `storage`: what the storage classes of clusters can do;
//! * [`api`]: the gRPC services, each call authorised and audited;
//! * [`logging`]: the log.

pub mod api;
pub mod artefacts;
pub mod clusters;
pub mod config;
pub mod controller;
pub mod fleet;
pub mod identity;
pub mod logging;
pub mod operations;
pub mod paths;
mod retention;
mod storage;
pub mod store;
pub mod workflows;
