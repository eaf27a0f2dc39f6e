//! Waits until the API server says that it is ready. READY=1 and the kubeconfig come seconds too early and don't count.

use std::time::{Duration, UNIX_EPOCH};

use canasta_host::systemd::Unit;
use canasta_steps::{Done, Reporter, StepError};
use tokio::time::{Instant, sleep_until};

use super::Work;
use crate::k3s::Error;
use crate::k3s::api::ready::{self, Readiness};
use crate::k3s::record::Record;
use crate::k3s::watch::{Follower, with_journal};

impl Work<'_> {
    pub(super) async fn api_ready(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let begun = Instant::now();
        let since = self.since().await?;
        let mut follower = Follower::begin(self.host, self.unit)
            .await
            .map_err(Error::from)?;
        let mut first: Option<Unit> = None;
        let mut answer = "it was not asked yet".to_owned();
        let mut pause = self.timings.first_pause;
        let mut asked = 0_u32;
        // There is no event for this, so it is asked again and again.
        let mut question = Box::pin(self.ask(Duration::ZERO));
        let deadline = begun + self.timings.ready;
        loop {
            tokio::select! {
                unit = follower.next() => {
                    let unit = unit.map_err(Error::from)?;
                    let restarts = unit.n_restarts.saturating_sub(first.as_ref().map_or(unit.n_restarts, |first| first.n_restarts));
                    if is_down(&unit) || restarts >= self.timings.most_restarts {
                        return Err(self.exited(&unit, since).await);
                    }
                    if unit.sub_state.starts_with("auto-restart") {
                        reporter.message(format!("k3s ended with status {}, systemd starts it again", unit.exec_main_status)).await;
                    }
                    first.get_or_insert(unit);
                }
                said = &mut question => {
                    asked += 1;
                    match said {
                        Readiness::Ready if asked == 1 => return Ok(Done::unchanged("the API server is ready")),
                        Readiness::Ready => {
                            return Ok(Done::changed(format!("the API server is ready after {:.1} s", begun.elapsed().as_secs_f32())));
                        }
                        Readiness::NotYet(text) => answer = text,
                    }
                    reporter.message(answer.clone()).await;
                    question = Box::pin(self.ask(pause));
                    pause = (pause * 2).min(self.timings.longest_pause);
                }
                () = sleep_until(deadline) => {
                    let limit = self.timings.ready.as_secs();
                    let error = StepError::new("K3S_NOT_READY", format!("the API server of {} was not ready within {limit} s", self.unit))
                        .subject(self.unit)
                        .cause(format!("its last answer: {answer}"))
                        .hint("the last lines of the journal are the evidence; k3s goes on trying, so run the command again once the cause is mended");
                    return Err(with_journal(self.host, self.unit, since, error).await);
                }
            }
        }
    }

    /// Asks after a pause. What keeps it from asking is an answer too.
    async fn ask(&self, pause: Duration) -> Readiness {
        tokio::time::sleep(pause).await;
        ready::ask(self.host, self.timings.request)
            .await
            .unwrap_or_else(|error| {
                let report: canasta_proto::pb::ErrorReport =
                    StepError::from_source("", &error).into();
                let parts = std::iter::once(report.message).chain(report.causes);
                Readiness::NotYet(parts.collect::<Vec<_>>().join(": "))
            })
    }

    /// From when on the journal is of interest: the last start that the agent ordered.
    pub(super) async fn since(&self) -> Result<std::time::SystemTime, Error> {
        let record = Record::load(self.host).await?;
        let started = record
            .and_then(|record| record.started)
            .map(|started| UNIX_EPOCH + Duration::from_secs(started.at));
        Ok(started.unwrap_or_else(|| self.host.machine.now()))
    }
}

/// Down for good: systemd won't start it again by itself.
pub(super) fn is_down(unit: &Unit) -> bool {
    matches!(unit.active_state.as_str(), "failed" | "inactive")
        && !unit.sub_state.starts_with("auto-restart")
}
