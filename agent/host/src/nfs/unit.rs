//! Has proofs made by their program in a transient unit, which sees and may do little else.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{Failure, Proof, ProofError, Proven, Prover};
use crate::files::Root;
use crate::systemd::bus::{BusSystemd, Rights};
use crate::systemd::errand::{self, Earlier, Ended, Otherwise, Place};

/// The program, from the agent's package. It is called with the directory of the request.
const PROGRAM: &str = "/usr/libexec/canasta-agent/nfs-proof";
const PLACE: Place = Place {
    unit: "canasta-agent-proof.service",
    directory: "/run/canasta-agent/proof",
    answer: "answer.json",
    earlier: Earlier::Stopped,
};

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
        // Whoever went away in the middle of a proof left it at work; it is stopped.
        let _busy = self.busy.lock().await;
        let request = serde_json::to_vec(proof).expect("a proof is text and numbers");
        let rights = Rights::NetworkOnly {
            writes: PLACE.directory.to_owned(),
        };
        let with = (&self.root, &self.systemd);
        judge(PLACE.send(with, &[PROGRAM], request, rights, limit).await?)
    }
}

/// What came of the unit, from what its program wrote and how it ended.
fn judge(ended: Ended) -> Result<Proven, ProofError> {
    if let Ok(answer) = serde_json::from_slice::<Result<Proven, Failure>>(&ended.answer) {
        return answer.map_err(ProofError::Failed);
    }
    Err(match ended.otherwise {
        Otherwise::TimedOut(limit) => ProofError::TimedOut { limit },
        Otherwise::Silent => ProofError::NoAnswer { program: PROGRAM },
        Otherwise::NotRun(error) => ProofError::Unit(error),
    })
}

/// What the program is to prove, from the directory that it is called with.
///
/// # Errors
/// When there is no request or it can't be read.
pub fn asked(directory: &Path) -> std::io::Result<Proof> {
    errand::asked(directory)
}

/// Leaves what came of it in the directory that the program is called with.
///
/// # Errors
/// When it can't be written.
pub fn answer(directory: &Path, made: &Result<Proven, Failure>) -> std::io::Result<()> {
    errand::answer(PLACE, directory, made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::Reason;

    #[test]
    fn the_answer_counts_and_without_one_how_the_program_ended() {
        let of = |answer: &[u8], otherwise| {
            let answer = answer.to_vec();
            judge(Ended { answer, otherwise }).unwrap_err()
        };
        let refused = br#"{"Err":{"doing":"opening the share","reason":"refused","text":"no"}}"#;
        let told = of(refused, Otherwise::Silent);
        assert!(
            matches!(&told, ProofError::Failed(failure) if failure.reason == Reason::Refused),
            "{told:?}"
        );
        let killed = of(b"", Otherwise::TimedOut(Duration::from_secs(9)));
        assert_eq!(
            killed.to_string(),
            "failed to use the share within 9 s, the program that tried was killed"
        );
        let silent = of(b"{", Otherwise::Silent);
        assert!(matches!(silent, ProofError::NoAnswer { .. }), "{silent:?}");
    }
}
