//! The two rpcs about credentials for joining. What they carry is secret: it is in no error and no log.

use std::sync::Arc;
use std::time::Duration;

use canasta_proto::pb;
use canasta_steps::StepError;
use canasta_transport::status::Fault;
use tonic::Code;

use super::check::broken;
use super::error::Error;
use crate::agent::Core;
use crate::k3s::credential;
use crate::k3s::join_token::JoinToken;

/// How long a bootstrap token may be good, in seconds.
const TTL: std::ops::RangeInclusive<u32> = 60..=3600;
/// The longest description of one.
const MAX_DESCRIPTION: usize = 100;

/// Makes a credential on a server.
pub(super) async fn create(
    core: &Arc<Core>,
    request: pb::CreateJoinCredentialRequest,
) -> Result<pb::CreateJoinCredentialResponse, Error> {
    let pb::CreateJoinCredentialRequest {
        ttl_seconds,
        description,
    } = request;
    if !TTL.contains(&ttl_seconds) {
        return Err(broken(
            "ttl_seconds",
            format!(
                "a credential is good for {} to {} seconds",
                TTL.start(),
                TTL.end()
            ),
        ));
    }
    let is_plain = description
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ');
    // A description that begins with a dash would be taken for an option.
    if description.len() > MAX_DESCRIPTION || !is_plain || description.starts_with('-') {
        return Err(broken(
            "description",
            format!(
                "a description has at most {MAX_DESCRIPTION} printable ASCII characters and begins with no dash"
            ),
        ));
    }
    let ttl = Duration::from_secs(ttl_seconds.into());
    let created = credential::create(&core.host, ttl, &description)
        .await
        .map_err(refused)?;
    Ok(pb::CreateJoinCredentialResponse {
        token: created.token.reveal().to_owned(),
        kind: created.kind.into(),
        token_id: created.token.bootstrap_id().unwrap_or_default().to_owned(),
    })
}

/// Keeps a credential on the node that is to join.
pub(super) async fn store(
    core: &Arc<Core>,
    request: pb::StoreJoinCredentialRequest,
) -> Result<pb::StoreJoinCredentialResponse, Error> {
    let token: JoinToken = request
        .token
        .parse()
        .map_err(|rule| broken("token", rule))?;
    // A task writes the same record.
    let host = core.host.clone();
    let storing = async move { credential::store(&host, &token).await };
    core.tasks.exclusive(storing).await?.map_err(refused)?;
    Ok(pb::StoreJoinCredentialResponse {})
}

/// What the node's state forbids, as the answer to a call.
pub(super) fn refused(error: StepError) -> Error {
    Fault::from_report(Code::FailedPrecondition, error.report()).into()
}
