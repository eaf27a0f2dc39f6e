//! Has proofs made by their program in a transient unit, which sees and may do little else.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{Failure, Proof, ProofError, Proven, Prover};
use crate::files::Root;
use crate::systemd::bus::{BusSystemd, Rights};
use crate::systemd::{Systemd as _, SystemdError};

/// The program, from the agent's package. It is called with the directory of the request.
const PROGRAM: &str = "/usr/libexec/canasta-agent/nfs-proof";
/// Where requests and answers lie. Only root may enter it.
const DIRECTORY: &str = "/run/canasta-agent/proof";
/// The unit.
const UNIT: &str = "canasta-agent-proof.service";
const REQUEST: &str = "request.json";
const ANSWER: &str = "answer.json";

/// How long systemd may take beyond the limit to say that it killed the program.
const GRACE: Duration = Duration::from_secs(15);

/// Proofs in a transient unit.
#[derive(Debug)]
pub struct InUnit {
    root: Root,
    systemd: BusSystemd,
    /// There is one unit.
    busy: tokio::sync::Mutex<()>,
}

impl InUnit {
    /// Requests go through files below `root`, which is the machine's own.
    pub fn new(root: Root, systemd: BusSystemd) -> Self {
        Self {
            root,
            systemd,
            busy: tokio::sync::Mutex::default(),
        }
    }
}

#[async_trait]
impl Prover for InUnit {
    async fn prove(&self, proof: &Proof, limit: Duration) -> Result<Proven, ProofError> {
        let _busy = self.busy.lock().await;
        // An agent that was killed, or a caller that went away, may have left one at work.
        let stopped = self.systemd.stop(UNIT, GRACE).await;
        stopped.map_err(ProofError::Unit)?;
        let request = serde_json::to_vec(proof).expect("a proof is text and numbers");
        self.root.create_dir_all(DIRECTORY, 0o700).await?;
        let answer = format!("{DIRECTORY}/{ANSWER}");
        self.root.remove_file(&answer).await?;
        self.root
            .write(format!("{DIRECTORY}/{REQUEST}"), request, 0o600)
            .await?;
        let argv = [PROGRAM, DIRECTORY].map(str::to_owned);
        let begun = Instant::now();
        let rights = Rights::NetworkOnly {
            writes: DIRECTORY.to_owned(),
        };
        let ended = self
            .systemd
            .run_once(UNIT, &argv, rights, limit, limit + GRACE)
            .await;
        // systemd says of a program that it killed only that it failed.
        let timed_out = begun.elapsed() >= limit;
        let text = self.root.read_optional(&answer).await?.unwrap_or_default();
        self.root.remove_file(&answer).await?;
        judge(&text, ended, timed_out.then_some(limit))
    }
}

/// What came of the unit, from what its program wrote and how the job ended.
fn judge(
    text: &[u8],
    ended: Result<(), SystemdError>,
    timed_out: Option<Duration>,
) -> Result<Proven, ProofError> {
    if let Ok(answer) = serde_json::from_slice::<Result<Proven, Failure>>(text) {
        return answer.map_err(ProofError::Failed);
    }
    match (ended, timed_out) {
        (_, Some(limit)) => Err(ProofError::TimedOut { limit }),
        (Err(SystemdError::JobFailed { .. }) | Ok(()), None) => {
            Err(ProofError::NoAnswer { program: PROGRAM })
        }
        (Err(error), None) => Err(ProofError::Unit(error)),
    }
}

/// What the program is to prove, from the directory that it is called with.
///
/// # Errors
/// When there is no request or it can't be read.
pub fn asked(directory: &Path) -> std::io::Result<Proof> {
    let request = std::fs::read(directory.join(REQUEST))?;
    Ok(serde_json::from_slice(&request)?)
}

/// Leaves what came of it in the directory that the program is called with.
///
/// # Errors
/// When it can't be written.
pub fn answer(directory: &Path, made: &Result<Proven, Failure>) -> std::io::Result<()> {
    let text = serde_json::to_vec(made)?;
    canasta_durable::write(&directory.join(ANSWER), &text, 0o600).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::Reason;

    #[test]
    fn the_answer_counts_and_without_one_how_the_program_ended() {
        let failed = || {
            Err(SystemdError::JobFailed {
                action: "run",
                unit: UNIT.to_owned(),
                result: "failed".to_owned(),
            })
        };
        let refused = br#"{"Err":{"doing":"opening the share","reason":"refused","text":"no"}}"#;
        let told = judge(refused, failed(), None).unwrap_err();
        assert!(
            matches!(&told, ProofError::Failed(failure) if failure.reason == Reason::Refused),
            "{told:?}"
        );
        let killed = judge(b"", failed(), Some(Duration::from_secs(9))).unwrap_err();
        assert_eq!(
            killed.to_string(),
            "failed to use the share within 9 s, the program that tried was killed"
        );
        let silent = judge(b"{", failed(), None).unwrap_err();
        assert!(matches!(silent, ProofError::NoAnswer { .. }), "{silent:?}");
    }
}
