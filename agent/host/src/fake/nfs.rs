//! Proofs of shares that are what a test makes of them.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::locked;
use crate::nfs::{Failure, Proof, ProofError, Proven, Prover, Reason};

type OnProve = Arc<dyn Fn(&Proof) -> Result<Proven, ProofError> + Send + Sync>;

/// Proves shares in a test.
#[derive(Default)]
pub struct FakeProver(Mutex<Option<OnProve>>);

impl fmt::Debug for FakeProver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FakeProver").finish_non_exhaustive()
    }
}

impl FakeProver {
    /// Has `work` make all proofs; without it there is no server.
    pub fn on_prove(
        &self,
        work: impl Fn(&Proof) -> Result<Proven, ProofError> + Send + Sync + 'static,
    ) {
        *locked(&self.0) = Some(Arc::new(work));
    }
}

#[async_trait]
impl Prover for FakeProver {
    async fn prove(&self, proof: &Proof, _limit: Duration) -> Result<Proven, ProofError> {
        let work = locked(&self.0).clone();
        let refused = || Failure::new("opening the share", Reason::Refused, "Connection refused");
        work.map_or_else(|| Err(ProofError::Failed(refused())), |work| work(proof))
    }
}
