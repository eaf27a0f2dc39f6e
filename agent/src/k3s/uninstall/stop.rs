//! Stops and disables the units of k3s.

use canasta_steps::{Done, Reporter, StepError};

use super::Work;
use crate::k3s::{Error, paths};

impl Work<'_> {
    pub(super) async fn stop(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let systemd = &self.host.systemd;
        let mut done = Vec::new();
        for name in [paths::SERVER_UNIT, paths::AGENT_UNIT] {
            let unit = systemd.unit(name).await.map_err(Error::from)?;
            // Disabled first: a power cut between the two must not bring it up again.
            if unit.is_enabled() {
                systemd.disable(name).await.map_err(Error::from)?;
                done.push(format!("{name} disabled"));
            }
            if !matches!(unit.active_state.as_str(), "inactive" | "failed" | "") {
                reporter.message(format!("stopping {name}")).await;
                systemd
                    .stop(name, self.limits.stop)
                    .await
                    .map_err(Error::from)?;
                done.push(format!("{name} stopped"));
            }
            // A healthy k3s that is stopped ends with an error, and its unit is failed: that means nothing.
            if systemd.unit(name).await.map_err(Error::from)?.is_failed() {
                systemd.reset_failed(name).await.map_err(Error::from)?;
            }
        }
        Ok(if done.is_empty() {
            Done::unchanged("k3s is stopped and stays down at boot")
        } else {
            Done::changed(done.join("; "))
        })
    }
}
