//! The fleet under test: in one process and on systemd nodes.
//!
//! [`fleet`] is a whole fleet inside a test: a real controller, real agents over fake hosts, a stand-in for k3s on each, a
//! release server, and clients. The tests in `tests/fleet` use it; those in `tests/machines` work on booted nodes.

pub mod fleet;
