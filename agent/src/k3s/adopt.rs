//! Records a k3s that someone else installed. Changes nothing on the node but the agent's own record, and restarts nothing.

use canasta_host::Host;
use canasta_proto::pb::{K3sOrigin, K3sRole};
use canasta_steps::{Done, StepError};

use super::paths;
use super::record::{Adopted, Origin, Record, Role};
use super::traces::Traces;
use crate::facts::k3s::{BinaryCache, look};

/// Records the k3s that is here. Its files are not owned: nothing of the agent ever changes or removes them.
///
/// # Errors
/// `K3S_NOT_FOUND` where there is none; errors of files and of systemd.
pub async fn run(host: &Host) -> Result<Done, StepError> {
    let traces = Traces::look(host).await?;
    match traces.origin() {
        K3sOrigin::Installed => {
            return Ok(Done::unchanged(
                "k3s was installed by canasta-agent, so there is nothing to adopt",
            ));
        }
        K3sOrigin::Unspecified => return Err(not_found("there is no k3s on this node")),
        K3sOrigin::Adopted | K3sOrigin::Foreign => {}
    }
    if traces.unit().is_none() {
        return Err(not_found(&format!(
            "no unit of k3s is on this node, only {}",
            traces.in_words().join(", ")
        )));
    }
    let facts = look(host, &traces, &BinaryCache::default()).await;
    let role = match facts.k3s.role() {
        K3sRole::Agent => Role::Agent,
        K3sRole::Server | K3sRole::Unspecified => Role::Server,
    };
    let record = Record {
        version: facts.k3s.binary_version.clone(),
        node_name: facts.k3s.node_name.clone(),
        adopted: Some(Adopted {
            ca_hash: facts.k3s.ca_hash.clone(),
            unit: facts.k3s.unit.clone(),
            arguments: facts.k3s.arguments.clone(),
            config_keys: facts.k3s.config_keys.clone(),
        }),
        ..Record::new(Origin::Adopted, role)
    };
    let detail = format!(
        "{} of {} is recorded and left as it is",
        record.version, facts.k3s.unit
    );
    if traces.record.as_ref() == Some(&record) {
        return Ok(Done::unchanged(detail));
    }
    record.save(host).await?;
    Ok(Done::changed(detail))
}

fn not_found(message: &str) -> StepError {
    StepError::new("K3S_NOT_FOUND", message)
        .subject(paths::SERVER_UNIT)
        .hint("leave out --adopt to have k3s installed")
}
