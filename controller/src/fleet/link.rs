//! The task that keeps the connection to one host: dial, hold the status stream open, renew, dial again.

use std::sync::Arc;
use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_transport::refusal::HandshakeRefusal;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use super::dial::{Failed, Reached, dial, rescue};
use super::refusals::Refusals;
use super::renewal::{RenewError, renew};
use super::state::{LinkState, Phase};
use super::{Context, FleetError, Signals};
use crate::identity::{jitter, sleep_until};
use crate::logging::line;
use crate::store::{Error, Holder, HostRow, Shown};

/// Agents send a status every 15 seconds; one that is silent for three times as long is not there any more.
const SILENCE: Duration = Duration::from_secs(45);
/// Changes of a status within this time lead to one look at the facts.
const FACTS_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a renewal that did not work out.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);
/// So many tries fit into the life of a certificate, however short it is.
const RENEWAL_TRIES: u32 = 20;
/// The least time between a connection and its renewal.
const RENEWAL_LEAST: Duration = Duration::from_millis(50);

/// What to do next.
enum Next {
    /// Dial at once.
    Dial,
    /// Dial after a pause, or as soon as somebody wants the agent.
    Pause,
    /// Nothing before the host's record changes.
    Sleep,
}

/// Keeps the connection to one host.
pub(super) struct Task {
    context: Context,
    host: HostName,
    state: watch::Sender<LinkState>,
    signals: Arc<Signals>,
    /// Cancelled when the host is removed.
    end: CancellationToken,
    backoff: Duration,
    /// True when the agent has just been given a certificate, and should show that one next.
    renewed: bool,
    /// Whom the agent refused.
    refusals: Refusals,
}

impl Task {
    pub(super) fn new(
        context: Context,
        host: HostName,
        state: watch::Sender<LinkState>,
        signals: Arc<Signals>,
        end: CancellationToken,
    ) -> Self {
        let backoff = context.timings.backoff_first;
        Self {
            context,
            host,
            state,
            signals,
            end,
            backoff,
            renewed: false,
            refusals: Refusals::default(),
        }
    }

    /// Runs until the host is removed.
    pub(super) async fn run(mut self) {
        loop {
            let next = match self.round().await {
                Ok(next) => next,
                Err(error) => {
                    let reason = line(&error);
                    self.enter(Phase::Unreachable { reason }, |state| state.rounds += 1)
                        .await;
                    Next::Pause
                }
            };
            match next {
                Next::Dial => {}
                Next::Pause => self.pause().await,
                Next::Sleep => {
                    self.signals.reload.notified().await;
                    self.forget_attempts();
                }
            }
        }
    }

    /// One dial, and all that follows from it while the connection lasts.
    async fn round(&mut self) -> Result<Next, Error> {
        let Some(host) = self.context.store.host(&self.host).await? else {
            return Ok(Next::Sleep);
        };
        if host.joined_at.is_none() {
            self.enter(Phase::Waiting, |_| {}).await;
            return Ok(Next::Sleep);
        }
        let keys = self.keys().await?;
        match dial(&self.context, &host, &keys, &self.end).await {
            Ok(reached) => self.hold(reached).await,
            Err(failed) => Ok(self.missed(&host, &keys, failed).await),
        }
    }

    /// SHA-256 of the public keys that the agent may show.
    async fn keys(&self) -> Result<Vec<[u8; 32]>, Error> {
        let holder = Holder::Agent(self.host.as_str());
        let rows = self.context.store.certificates(holder).await?;
        Ok(rows.iter().map(|row| row.spki_sha256).collect())
    }

    /// Nobody answered: says so, or renews a certificate that has ended.
    async fn missed(&mut self, host: &HostRow, keys: &[[u8; 32]], failed: Failed) -> Next {
        let reason = failed.reason();
        let phase = match &failed.expired_at {
            // As after the restore of an old backup: only a new join helps.
            None if failed.other_key => Phase::NeedsRejoin { reason },
            None => Phase::Unreachable { reason },
            Some(address) => match self.renew_expired(host, address, keys).await {
                // Pauses, so that an agent that keeps showing the old one is not renewed again and again.
                Ok(()) => return Next::Pause,
                Err(phase) => phase,
            },
        };
        tracing::debug!(host = %self.host, ?phase, "failed to reach an agent");
        self.enter(phase, |state| {
            state.rounds += 1;
            state.attempts = failed.attempts;
        })
        .await;
        Next::Pause
    }

    async fn renew_expired(
        &self,
        host: &HostRow,
        address: &str,
        keys: &[[u8; 32]],
    ) -> Result<(), Phase> {
        let at = Timestamp::now();
        let dialled = match rescue(&self.context, &host.name, address, keys, &self.end).await {
            Ok(dialled) => dialled,
            Err(error) => {
                let reason = line(&error);
                return Err(match error.refusal() {
                    Some(
                        HandshakeRefusal::ExpiredWithOtherKey { .. }
                        | HandshakeRefusal::OtherKey { .. },
                    ) => Phase::NeedsRejoin { reason },
                    _ => Phase::Unreachable { reason },
                });
            }
        };
        let mut client = AgentServiceClient::new(dialled.channel);
        let serial = dialled.presented.facts.serial;
        renew(
            &self.context,
            &self.host,
            &mut client,
            &Shown { serial, at },
        )
        .await
        .map_err(|error| Phase::Unreachable {
            reason: format!("{address}: {}", line(&error)),
        })
    }

    /// Holds a connection until it ends.
    async fn hold(&mut self, reached: Reached) -> Result<Next, Error> {
        let Reached {
            dialled,
            attempts,
            at: reached_at,
        } = reached;
        let address = attempts
            .last()
            .map_or("", |attempt| &attempt.address)
            .to_owned();
        let mut client = AgentServiceClient::new(dialled.channel);
        let (mut stream, first) = match self.open(&mut client).await {
            Ok(opened) => opened,
            Err(reason) => return Ok(self.lost(&address, &reason, true).await),
        };
        self.refusals
            .take(&self.context.store, &self.host, &first)
            .await;
        let facts = dialled.presented.facts;
        self.context
            .store
            .agent_seen(&self.host, &facts.serial, Timestamp::now())
            .await?;
        self.backoff = self.context.timings.backoff_first;
        tracing::info!(host = %self.host, %address, "connected to an agent");
        self.enter(Phase::Connected, |state| {
            state.rounds += 1;
            state.attempts = attempts;
            state.client = Some(client.clone());
            state.key = Some(facts.spki_sha256);
            state.status = Some(first);
        })
        .await;
        let shown = Shown {
            serial: facts.serial.clone(),
            at: reached_at,
        };
        let due = facts.renew_at(jitter());
        let still_due = std::mem::take(&mut self.renewed) && due <= Timestamp::now();
        let pause = RENEWAL_PAUSE.min(self.context.timings.leaf / RENEWAL_TRIES);
        let least = if still_due { pause } else { RENEWAL_LEAST };
        let mut renew_at = Box::pin(sleep_until(due, least));
        let mut facts_at = Box::pin(sleep(Duration::ZERO));
        let mut facts_due = true;
        loop {
            tokio::select! {
                message = timeout(SILENCE, stream.message()) => match message {
                    Ok(Ok(Some(status))) => {
                        self.refusals.take(&self.context.store, &self.host, &status).await;
                        if self.note(status) && !facts_due {
                            facts_due = true;
                            facts_at.as_mut().reset(Instant::now() + FACTS_PAUSE);
                        }
                    }
                    Ok(Ok(None)) => return Ok(self.lost(&address, "the agent ended the connection", false).await),
                    Ok(Err(status)) => return Ok(self.lost(&address, status.message(), false).await),
                    Err(_) => return Ok(self.lost(&address, "the agent has fallen silent", false).await),
                },
                () = &mut facts_at, if facts_due => {
                    facts_due = false;
                    if let Err(error) = fetch_facts(&self.context, &self.host, client.clone()).await {
                        tracing::warn!(host = %self.host, error = line(&error), "failed to learn the facts of a host");
                    }
                }
                () = &mut renew_at => match renew(&self.context, &self.host, &mut client, &shown).await {
                    // What the agent shows on a new connection tells which certificate it took.
                    Ok(()) | Err(RenewError::TooMany) => {
                        self.renewed = true;
                        return Ok(Next::Dial);
                    }
                    Err(error) => {
                        tracing::warn!(host = %self.host, error = line(&error), "failed to renew a certificate");
                        renew_at = Box::pin(sleep_until(Timestamp::now(), pause));
                    }
                },
                () = self.signals.reload.notified() => {
                    self.forget_attempts();
                    return Ok(Next::Dial);
                }
            }
        }
    }

    /// Opens the status stream and waits for the first status.
    async fn open(
        &self,
        client: &mut AgentServiceClient<Channel>,
    ) -> Result<(Streaming<pb::WatchStatusResponse>, pb::WatchStatusResponse), String> {
        let opening = async {
            let answer = client.watch_status(pb::WatchStatusRequest {}).await?;
            let mut stream = answer.into_inner();
            let first = stream.message().await?;
            Ok::<_, tonic::Status>(first.map(|first| (stream, first)))
        };
        match timeout(self.context.timings.request, opening).await {
            Ok(Ok(Some(opened))) => Ok(opened),
            Ok(Ok(None)) => Err("the agent ended the connection".to_owned()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("the agent sent no status in time".to_owned()),
        }
    }

    /// Publishes a status. True when something in it makes the known facts old.
    fn note(&self, status: pb::WatchStatusResponse) -> bool {
        let mut news = false;
        self.state.send_modify(|state| {
            let before = state.status.take().unwrap_or_default();
            news = before.boot_id != status.boot_id
                || before.agent_run_id != status.agent_run_id
                || before.hostname != status.hostname
                || before.k3s_unit != status.k3s_unit;
            state.status = Some(status);
        });
        news
    }

    async fn lost(&self, address: &str, why: &str, dialling: bool) -> Next {
        let reason = format!("{address}: {why}");
        tracing::info!(host = %self.host, reason, "lost the connection to an agent");
        self.enter(Phase::Unreachable { reason }, |state| {
            if dialling {
                state.rounds += 1;
            }
            state.attempts = vec![pb::DialAttempt {
                address: address.to_owned(),
                error: why.to_owned(),
            }];
        })
        .await;
        Next::Pause
    }

    /// Publishes a phase with what else has changed, and keeps since when the agent is away.
    async fn enter(&self, phase: Phase, change: impl FnOnce(&mut LinkState)) {
        let mut away = None;
        self.state.send_modify(|state| {
            let before = state.away();
            change(state);
            state.enter(phase, Timestamp::now());
            if state.away() != before || state.phase == Phase::Connected {
                away = Some(state.away());
            }
        });
        if let Some(away) = away
            && let Err(error) = self.context.store.set_away(&self.host, away).await
        {
            tracing::warn!(host = %self.host, error = line(&error), "failed to keep since when a host is away");
        }
    }

    /// The record is another: what came of dialling by the old one says nothing any more.
    fn forget_attempts(&mut self) {
        self.backoff = self.context.timings.backoff_first;
        self.state.send_modify(|state| state.attempts.clear());
    }

    /// Waits before the next dial, each time longer, unless somebody wants the agent.
    async fn pause(&mut self) {
        let pause = self.backoff.mul_f64(0.75 + jitter() / 2.0);
        let most = self.context.timings.backoff_most;
        tokio::select! {
            () = sleep(pause) => self.backoff = (self.backoff * 2).min(most),
            () = self.signals.wake.notified() => {}
            () = self.signals.reload.notified() => self.forget_attempts(),
        }
    }
}

/// Asks an agent for its facts and keeps them.
pub(super) async fn fetch_facts(
    context: &Context,
    host: &HostName,
    mut client: AgentServiceClient<Channel>,
) -> Result<pb::NodeFacts, FleetError> {
    let call = |source| FleetError::Call {
        host: host.clone(),
        what: "its facts",
        source: Box::new(source),
    };
    let asked = timeout(
        context.timings.request,
        client.get_facts(pb::GetFactsRequest {}),
    );
    let answer = asked
        .await
        .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time")))
        .map_err(call)?;
    let facts = answer.into_inner().facts.unwrap_or_default();
    let kept = context.store.set_facts(host, &facts).await;
    kept.map_err(|source| FleetError::Store {
        host: host.clone(),
        source,
    })?;
    Ok(facts)
}
