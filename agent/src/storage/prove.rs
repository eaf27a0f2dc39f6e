//! Proves that a share can be used from this node, and says what keeps it from that.

use std::time::Duration;

use canasta_host::Host;
use canasta_host::nfs::{Action, Failure, Proof, ProofError, Reason};
use canasta_proto::pb::MountProofTask;
use canasta_steps::{Done, Reporter, StepError};

/// The port of NFS 4.
const PORT: u16 = 2049;
/// After what time a proof is killed.
const LIMIT: Duration = Duration::from_secs(150);

/// Makes a proof.
///
/// # Errors
/// The reasons that `agent.proto` names, each with what to do about it; `NFS_SERVER_HANGS` where the process had to be killed.
pub(crate) async fn run(
    host: &Host,
    action: Action,
    task: &MountProofTask,
    reporter: &Reporter,
) -> Result<Done, StepError> {
    // An address may come in brackets.
    let server = task.server.trim_matches(['[', ']']);
    let share = task.path.as_str();
    let proof = Proof {
        server: server.to_owned(),
        port: PORT,
        path: share.to_owned(),
        action,
        nonce: task.nonce.clone(),
    };
    reporter.message(format!("using {server}:{share}")).await;
    let made = host.nfs.prove(&proof, LIMIT).await;
    let proven = made.map_err(|error| refused(server, share, &error))?;
    let took = format!("{}:{share}, {} ms", proven.address, proven.milliseconds);
    Ok(match action {
        Action::Write => Done::changed(format!(
            "written, given to another owner and read back: {took}; handle {}",
            proven.handle
        )),
        Action::Read => Done::unchanged(format!(
            "read, content and owner are right: {took}; handle {}",
            proven.handle
        )),
        Action::Remove => Done::changed(format!("removed: {took}")),
    })
}

/// Why there is no proof, as the error of the step.
fn refused(server: &str, share: &str, error: &ProofError) -> StepError {
    match error {
        ProofError::Failed(failure) => failed(server, share, failure),
        ProofError::TimedOut { limit } => {
            let text = format!("the proof was killed after {} s", limit.as_secs());
            let failure = Failure::new("using the share", Reason::ServerHangs, text);
            failed(server, share, &failure)
        }
        ProofError::NoAnswer { program } => StepError::from_source("PROOF_FAILED", error)
            .subject(*program)
            .hint(format!(
                "see to it that {program} is there (it is part of the package canasta-agent), and look at `journalctl -u \
                 canasta-agent-proof`"
            )),
        _ => StepError::from_source("PROOF_FAILED", error)
            .hint("look at `journalctl -u canasta-agent-proof` on the node, then run the command again"),
    }
}

fn failed(server: &str, share: &str, failure: &Failure) -> StepError {
    let (reason, meaning, hint) = meaning(failure.reason);
    let place = format!("{server}:{share}");
    StepError::new(
        reason,
        format!("{place} can't be used from this node: {meaning}"),
    )
    .subject(place)
    .cause(format!("while {}: {}", failure.doing, failure.text))
    .hint(hint)
}

/// The stable word, what it means, and what to do about it.
fn meaning(reason: Reason) -> (&'static str, &'static str, &'static str) {
    match reason {
        Reason::NameUnknown => (
            "NFS_NAME_UNKNOWN",
            "the server's name has no address here",
            "name the server by its IP address, or mend the node's name servers (/etc/resolv.conf, /etc/hosts); names of the cluster's own DNS are not known to nodes",
        ),
        Reason::WrongFamily => (
            "NFS_WRONG_FAMILY",
            "this node has no address of the server's family (IPv4, IPv6)",
            "name the server by an address of a family that all nodes have",
        ),
        Reason::Unreachable => (
            "NFS_UNREACHABLE",
            "there is no way to the server",
            "look at the server's address, at the node's routes (`ip route get ADDRESS`), and for a firewall that rejects TCP 2049",
        ),
        Reason::Refused => (
            "NFS_REFUSED",
            "nothing listens on TCP 2049 of the server",
            "start the NFS server there (`systemctl status nfs-server nfs-ganesha` on it), or open TCP 2049 in a firewall that rejects it",
        ),
        Reason::PortBlocked => (
            "NFS_PORT_BLOCKED",
            "the server does not answer on TCP 2049",
            "open TCP 2049 from this node to the server: most likely a firewall on the server or on the way drops it",
        ),
        Reason::ServerHangs => (
            "NFS_SERVER_HANGS",
            "the server takes connections and does not answer",
            "look at the NFS server's journal and at its disks; restart it if it hangs",
        ),
        Reason::ConnectionLost => (
            "NFS_LOST",
            "the server broke the connection",
            "it may just have been restarted: run the command again, and look at the server's journal if that happens again",
        ),
        Reason::NotAClientOrNoShare => (
            "NFS_NOT_A_CLIENT_OR_NO_SHARE",
            "the server has no such share, or this node is not one of its clients",
            "compare the path with the server's exports, and this node's address with the share's clients; NFS 4 does not tell the two apart",
        ),
        Reason::ReadOnly => (
            "NFS_READ_ONLY",
            "the share can't be written to",
            "export it read-write (rw) to the cluster's nodes, and look whether the server's disk is mounted read-only",
        ),
        Reason::AccessDenied => (
            "NFS_ACCESS_DENIED",
            "the server does not let root write there or give files away",
            "export it with no_root_squash to the cluster's nodes: the provisioner sets owners as root",
        ),
        Reason::OwnerChanged => (
            "NFS_OWNER_CHANGED",
            "files belong to another owner than was set",
            "export it with no_root_squash and without all_squash to the cluster's nodes, and with numeric owners (no id mapping)",
        ),
        Reason::NoSpace => (
            "NFS_NO_SPACE",
            "the share's disk or quota is full",
            "make room on the server's file system",
        ),
        Reason::InGrace => (
            "NFS_IN_GRACE",
            "the server was restarted and is in its grace period, in which nobody can open files anew",
            "run the command again in a minute or two; the period is 90 s with most servers",
        ),
        Reason::Version => (
            "NFS_VERSION",
            "the server does not speak NFS 4.1",
            "switch 4.1 on there; volumes are mounted with nfsvers=4.1",
        ),
        Reason::Security => (
            "NFS_SECURITY",
            "the server wants Kerberos for this share",
            "export it with sec=sys to the cluster's nodes",
        ),
        Reason::Stale => (
            "NFS_STALE",
            "the directory behind the share is gone or another one",
            "make the directory again on the server, then run the command again",
        ),
        Reason::ProbeMissing => (
            "NFS_PROBE_MISSING",
            "the file that another node wrote is not there",
            "the nodes reach different servers by this name or path: compare the addresses that they used",
        ),
        Reason::ProbeDiffers => (
            "NFS_PROBE_DIFFERS",
            "the file that another node wrote has another content",
            "look at the server's disks and journal",
        ),
        Reason::Other => (
            "NFS_OTHER",
            "the server answers with an error",
            "look at the server's journal for this moment",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_share_from_being_used_is_said_with_the_next_step() {
        let failure = Failure {
            doing: "opening the share".to_owned(),
            reason: Reason::PortBlocked,
            text: "RPC connect timeout".to_owned(),
        };
        let error = failed("10.0.0.5", "/srv/nfs/canasta", &failure);
        assert_eq!(error.reason(), "NFS_PORT_BLOCKED");
        let report = error.report();
        assert_eq!(report.subject, "10.0.0.5:/srv/nfs/canasta");
        assert!(report.causes[0].contains("opening the share: RPC connect timeout"));
        assert!(report.hint.contains("TCP 2049"));
    }
}
