//! The steps that bring a release of k3s to a node: from its source to the controller, and on to the agent.

use async_trait::async_trait;
use canasta_proto::name::HostName;
use canasta_steps::{Done, Reporter, Step, StepError};

use super::Context;
use crate::artefacts::{Artefact, Pushed};

/// The release that a node gets.
#[derive(Debug, Clone)]
pub(super) struct Release {
    pub(super) context: Context,
    /// The name of the host, as it was stored.
    pub(super) host: String,
    pub(super) version: String,
    pub(super) arch: String,
}

impl Release {
    /// The artefact; from the cache, once it was fetched. The second value tells whether it was fetched now.
    pub(super) async fn artefact(
        &self,
        reporter: &Reporter,
    ) -> Result<(Artefact, bool), StepError> {
        let version = self.version.parse();
        let version = version.map_err(|error| StepError::from_source("INTERNAL", &error))?;
        let artefacts = &self.context.artefacts;
        Ok(artefacts.ensure_k3s(&version, &self.arch, reporter).await?)
    }
}

/// Fetches it, unless the controller keeps it already.
#[derive(Debug)]
pub(super) struct Fetch(pub(super) Release);

#[async_trait]
impl Step for Fetch {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let (artefact, fetched) = self.0.artefact(reporter).await?;
        Ok(if fetched {
            Done::changed(format!(
                "{} bytes from {}",
                artefact.size(),
                artefact.source()
            ))
        } else {
            Done::unchanged(format!("kept since it came from {}", artefact.source()))
        })
    }
}

/// Sends it, unless the node has it already.
#[derive(Debug)]
pub(super) struct Push(pub(super) Release);

#[async_trait]
impl Step for Push {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let (artefact, _) = self.0.artefact(reporter).await?;
        let Release { context, host, .. } = &self.0;
        let host: HostName = host
            .parse()
            .map_err(|error| StepError::from_source("INTERNAL", &error))?;
        let patience = context.timings.agent_wait;
        let push = context
            .artefacts
            .push(&context.fleet, &host, &artefact, reporter, patience);
        Ok(match push.await? {
            Pushed::There => Done::unchanged("the node has it"),
            Pushed::Sent(bytes) => Done::changed(format!("{bytes} bytes sent")),
        })
    }
}
