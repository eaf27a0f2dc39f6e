//! Whether k3s can be installed on this node: looks at everything first, then judges all of it, and changes nothing.
//!
//! The `Preflight` rpc calls [`preflight`]. That the hostname is unique in the fleet and the clock is right is the controller's
//! to judge.

use canasta_host::Host;
use canasta_proto::pb::{Finding, K3sRole};

pub mod observed;
pub mod rules;

#[cfg(test)]
mod tests;

pub use observed::Observed;

/// All findings at once, errors first; empty when nothing stands in the way.
pub async fn preflight(host: &Host, role: K3sRole) -> Vec<Finding> {
    rules::judge(&Observed::gather(host).await, role)
}
