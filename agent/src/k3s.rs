//! The verbs of k3s on this node: install, adopt, and what is known of the k3s that is here.
//!
//! Tasks call [`install`] (a step at a time) and [`adopt`]; the tunnel calls [`api`]; [`crate::facts`] and
//! [`crate::preflight`] read [`record`] and [`config`]. Everything takes a [`canasta_host::Host`], so all of it runs on a
//! temporary directory and fakes in tests.

pub mod adopt;
pub mod api;
pub mod cause;
pub mod config;
pub mod credential;
pub mod error;
pub mod install;
pub mod join_token;
pub mod owned;
pub mod paths;
pub mod record;
pub mod render;
pub mod server_url;
pub mod traces;
pub mod uninstall;
pub mod version;
pub mod watch;

#[cfg(test)]
pub(crate) mod fake_api;

pub use error::Error;
