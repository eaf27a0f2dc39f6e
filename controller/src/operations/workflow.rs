//! What an operation does: a workflow, built from a request that can be stored, and rebuilt from it after a restart.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use canasta_steps::Plan;

use super::locks::Wanted;

/// One kind of operation, with all that it needs to know.
pub trait Workflow: Send + Sync {
    /// The kind, stable: `install-k8s-cp`.
    fn kind(&self) -> &'static str;

    /// What it does, in words: `install a k3s control plane on cp1`.
    fn title(&self) -> String;

    /// What it changes and what it consults.
    fn locks(&self) -> Wanted;

    /// What it is rebuilt from. Holds no secrets.
    fn request(&self) -> serde_json::Value;

    /// The steps. `operation` is the id that the tasks of agents are named by.
    fn steps(&self, operation: &str) -> Plan;
}

/// A workflow could not be rebuilt from what was stored.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The kind is not known to this version.
    #[error("failed to rebuild the operation: this version does not know the kind {0}")]
    Kind(String),
    /// The request can't be read by this version.
    #[error("failed to rebuild the operation from its stored request")]
    Request(#[source] serde_json::Error),
    /// The plan of this version has other steps.
    #[error("failed to rebuild the operation: this version plans other steps for it")]
    Steps,
}

type Build = dyn Fn(&str) -> Result<Arc<dyn Workflow>, serde_json::Error> + Send + Sync;

/// The kinds of operations that can be rebuilt.
#[derive(Default)]
pub struct Kinds {
    builders: BTreeMap<&'static str, Box<Build>>,
}

impl Kinds {
    /// Adds a kind with the function that builds it from its stored request.
    pub fn with<W: Workflow + 'static>(
        mut self,
        kind: &'static str,
        build: impl Fn(&str) -> Result<W, serde_json::Error> + Send + Sync + 'static,
    ) -> Self {
        let build = move |request: &str| build(request).map(|workflow| Arc::new(workflow) as _);
        self.builders.insert(kind, Box::new(build));
        self
    }

    /// Builds a workflow of a kind.
    ///
    /// # Errors
    /// When the kind is not known or does not understand the request.
    pub fn build(&self, kind: &str, request: &str) -> Result<Arc<dyn Workflow>, RebuildError> {
        let build = self
            .builders
            .get(kind)
            .ok_or_else(|| RebuildError::Kind(kind.to_owned()))?;
        build(request).map_err(RebuildError::Request)
    }

    /// The names of all kinds.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.builders.keys().copied()
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}
