//! Shared storage: what may come in with its tasks.

use canasta_proto::address::Address;
use canasta_proto::pb;
use canasta_proto::share::check_path;

use super::check::broken;
use super::error::Error;

/// How long the name of a probe may be.
const NONCE: std::ops::RangeInclusive<usize> = 8..=64;

/// A proof.
pub(super) fn proof(task: &pb::MountProofTask) -> Result<(), Error> {
    match task.server.parse::<Address>() {
        Ok(address) if address.port().is_none() => {}
        Ok(_) => {
            return Err(broken(
                "spec.mount_proof.server",
                "the port of NFS is 2049 and is not named",
            ));
        }
        Err(rule) => return Err(broken("spec.mount_proof.server", rule)),
    }
    if let Err(rule) = check_path(&task.path) {
        return Err(broken("spec.mount_proof.path", rule));
    }
    let known = pb::MountProofAction::try_from(task.action)
        .is_ok_and(|action| action != pb::MountProofAction::Unspecified);
    if !known {
        let rule = format!(
            "{} is nothing that this agent can do on a share",
            task.action
        );
        return Err(broken("spec.mount_proof.action", rule));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !NONCE.contains(&task.nonce.len()) || !task.nonce.bytes().all(plain) {
        let rule = format!(
            "a nonce has {} to {} characters of a-z and 0-9",
            NONCE.start(),
            NONCE.end()
        );
        return Err(broken("spec.mount_proof.nonce", rule));
    }
    Ok(())
}
