//! Waits until an agent has joined its cluster, or tells why it can't.
//!
//! An active unit proves nothing: k3s tries for ever. Joined means that the server has made this node's certificates, that the
//! kubelet is well, and that this run of the unit hasn't failed meanwhile. That the Node is Ready, the controller asks the API.

use std::time::{Duration, SystemTime};

use canasta_host::journal::Since;
use canasta_host::systemd::Unit;
use canasta_steps::{Done, Reporter, StepError};
use tokio::time::{Instant, sleep_until};

use super::Work;
use super::api_ready::is_down;
use crate::k3s::server_url::ServerUrl;
use crate::k3s::watch::{self, Follower, with_journal};
use crate::k3s::{Error, paths};

mod fault;
mod kubelet;
mod reach;

use fault::Fault;
use reach::Reach;

/// How many lines of the journal are looked at for a cause.
const LINES: usize = 200;

/// What one look showed.
struct Sight {
    joined: bool,
    /// The journal of the run.
    lines: Vec<String>,
    /// What is not there yet, in words.
    missing: String,
}

impl Work<'_> {
    pub(super) async fn joined(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let begun = Instant::now();
        let since = self.since().await?;
        let server: ServerUrl = self
            .spec
            .server_url
            .parse()
            .map_err(|error| StepError::from_source("SPEC_INVALID", &error))?;
        let mut follower = Follower::begin(self.host, self.unit)
            .await
            .map_err(Error::from)?;
        let mut unit = follower.next().await.map_err(Error::from)?;
        let restarts_before = unit.n_restarts;
        if is_down(&unit) {
            return Err(self.ended(&unit, since, &server).await);
        }
        let mut looks = 0_u32;
        let mut pause = self.timings.first_pause;
        let mut missing = String::new();
        let mut reached: Option<Reach> = None;
        let mut look = Box::pin(self.look(Duration::ZERO, unit.clone()));
        let sockets = &*self.host.sockets;
        let mut reaching = Box::pin(reach::server(sockets, &server, Duration::ZERO));
        let deadline = begun + self.timings.ready;
        loop {
            tokio::select! {
                changed = follower.next() => {
                    unit = changed.map_err(Error::from)?;
                    let restarts = unit.n_restarts.saturating_sub(restarts_before);
                    if is_down(&unit) || restarts >= self.timings.most_restarts {
                        return Err(self.ended(&unit, since, &server).await);
                    }
                }
                sight = &mut look => {
                    looks += 1;
                    if sight.joined && runs(&unit) {
                        return Ok(self.done(looks, begun, &server));
                    }
                    let waited = begun.elapsed() >= self.timings.patience;
                    if let Some(fault) = fault::judge(&sight.lines, reached.as_ref(), waited) {
                        return Err(self.cannot_join(fault, &unit, &server).await);
                    }
                    missing = sight.missing;
                    reporter.message(missing.clone()).await;
                    look = Box::pin(self.look(pause, unit.clone()));
                    pause = (pause * 2).min(self.timings.longest_pause);
                }
                said = &mut reaching => {
                    reached = Some(said);
                    reaching = Box::pin(reach::server(sockets, &server, self.timings.longest_pause));
                }
                () = sleep_until(deadline) => return Err(self.not_joined(&missing, since).await),
            }
        }
    }

    fn done(&self, looks: u32, begun: Instant, server: &ServerUrl) -> Done {
        let name = &self.spec.node_name;
        if looks == 1 {
            return Done::unchanged(format!(
                "{name} is joined to {server} and its kubelet is well"
            ));
        }
        let seconds = begun.elapsed().as_secs_f32();
        Done::changed(format!(
            "{name} has joined {server}; its kubelet is well after {seconds:.1} s"
        ))
    }

    /// Looks after a pause.
    async fn look(&self, pause: Duration, unit: Unit) -> Sight {
        tokio::time::sleep(pause).await;
        let lines = self.lines(&unit).await;
        for path in paths::KUBELET_IDENTITY {
            if !self.host.root.exists(path).await.unwrap_or(false) {
                return Sight {
                    joined: false,
                    lines,
                    missing: "the server has not made this node's certificates yet".to_owned(),
                };
            }
        }
        match kubelet::health(self.host, self.timings.request).await {
            Ok(()) => Sight {
                joined: true,
                lines,
                missing: format!("{} does not run", self.unit),
            },
            Err(why) => Sight {
                joined: false,
                lines,
                missing: format!("the kubelet is not well yet: {why}"),
            },
        }
    }

    /// The journal of this run. What can't be read shows nothing.
    async fn lines(&self, unit: &Unit) -> Vec<String> {
        let Some(invocation) = unit.invocation_id.clone() else {
            return Vec::new();
        };
        let lines = self
            .host
            .journal
            .tail(self.unit, LINES, Since::Invocation(invocation))
            .await;
        lines
            .unwrap_or_default()
            .into_iter()
            .map(|line| line.message)
            .collect()
    }

    /// The error of a run that has ended.
    async fn ended(&self, unit: &Unit, since: SystemTime, server: &ServerUrl) -> StepError {
        match fault::of_lines(&self.lines(unit).await) {
            Some(fault) => self.cannot_join(fault, unit, server).await,
            None => self.exited(unit, since).await,
        }
    }

    /// The error of a join that can't work, with the journal of the run.
    async fn cannot_join(&self, fault: Fault, unit: &Unit, server: &ServerUrl) -> StepError {
        let since = unit
            .invocation_id
            .clone()
            .map_or(Since::Start, Since::Invocation);
        let evidence = watch::evidence(self.host, self.unit, since).await;
        fault
            .into_error(&self.spec.node_name, server)
            .evidence(evidence)
    }

    async fn not_joined(&self, missing: &str, since: SystemTime) -> StepError {
        let limit = self.timings.ready.as_secs();
        let error = StepError::new(
            "K3S_NOT_JOINED",
            format!("{} had not joined within {limit} s", self.spec.node_name),
        )
        .subject(self.unit)
        .cause(missing)
        .hint("the last lines of the journal are the evidence; k3s goes on trying, so run the command again once the cause is mended");
        with_journal(self.host, self.unit, since, error).await
    }
}

/// Whether there is a process that systemd doesn't mean to end or start again.
fn runs(unit: &Unit) -> bool {
    unit.main_pid.is_some() && matches!(unit.active_state.as_str(), "active" | "activating")
}
