//! Which host a command means that names none: the one that fits, when exactly one does.

use canasta_proto::name::HostName;

use super::{Context, Error};
use crate::fleet::Phase;
use crate::store::HostRow;

/// The host that is named, or the one that fits: connected, and in no cluster. The second value tells that it was chosen.
///
/// # Errors
/// When the name is none or not registered, or not exactly one host fits.
pub(super) async fn choose(context: &Context, named: &str) -> Result<(HostRow, bool), Error> {
    if !named.is_empty() {
        named.parse::<HostName>().map_err(|rule| Error::Name {
            field: "host",
            rule,
        })?;
        return Ok((context.fleet.host(named).await?, false));
    }
    let members = context.clusters.memberships().await?;
    let connected = |host: &HostRow| {
        context
            .fleet
            .state(&host.name)
            .is_some_and(|state| state.phase == Phase::Connected)
    };
    let mut fitting = context.store.hosts().await?;
    fitting.retain(|host| connected(host) && !members.contains_key(host.name.as_str()));
    match fitting.len() {
        1 => Ok((fitting.remove(0), true)),
        _ => Err(Error::HostRequired {
            hosts: fitting.into_iter().map(|host| host.name.into()).collect(),
        }),
    }
}
