//! The status that goes to the controller: at once, when the unit of k3s changes or a member of the fleet was refused, and
//! at the latest after an interval.

use std::sync::Arc;

use canasta_host::systemd::{Unit, UnitStream};
use canasta_proto::pb;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::agent::Core;
use crate::k3s::paths::{AGENT_UNIT, SERVER_UNIT};

/// Statuses that wait for a slow controller.
const WAITING: usize = 2;

/// Begins to send statuses. They end when the receiver is dropped or the agent is stopping.
pub(crate) fn watch(core: Arc<Core>) -> mpsc::Receiver<pb::WatchStatusResponse> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let life = core.life.clone();
    life.clone().spawn(async move {
        let stopping = life.stopping.clone();
        tokio::select! {
            () = send(&core, &sender) => {}
            () = stopping.cancelled() => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn send(core: &Core, sender: &mpsc::Sender<pb::WatchStatusResponse>) {
    let mut ticks = tokio::time::interval(core.timings.status_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = changes(core).await;
    let mut refusals = core.refusals.follow();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = refusals.another() => {}
            change = changes.next() => if change.is_some() {
                ticks.reset();
            } else {
                // The bus is gone, and asked again at the next tick.
                ticks.tick().await;
                changes = self::changes(core).await;
            },
        }
        if sender.send(look(core).await).await.is_err() {
            return;
        }
    }
}

/// The changes of either unit of k3s. Ends when one of them can't be followed any more.
async fn changes(core: &Core) -> BoxStream<'static, ()> {
    let mut streams: Vec<UnitStream> = Vec::new();
    for unit in [SERVER_UNIT, AGENT_UNIT] {
        match core.host.systemd.watch(unit).await {
            // The state at the beginning is sent anyway.
            Ok(stream) => streams.push(stream.skip(1).boxed()),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "can't follow {unit}"
                );
                return stream::empty().boxed();
            }
        }
    }
    let ends = streams
        .into_iter()
        .map(|stream| stream.map(Some).chain(stream::iter([None])));
    stream::select_all(ends)
        .take_while(|item| std::future::ready(matches!(item, Some(Ok(_)))))
        .map(|_| ())
        .boxed()
}

async fn look(core: &Core) -> pb::WatchStatusResponse {
    let (hostname, boot_id) = match core.host.machine.facts().await {
        Ok(facts) => (facts.hostname, facts.boot_id.unwrap_or_default()),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "facts of this machine are not known"
            );
            (String::new(), String::new())
        }
    };
    pb::WatchStatusResponse {
        observed_at: Some(core.host.machine.now().into()),
        agent_version: crate::VERSION.to_owned(),
        boot_id,
        agent_run_id: core.run_id.clone(),
        hostname,
        k3s_unit: k3s_unit(core).await,
        certificate_expires_at: core
            .identity
            .material()
            .map(|material| std::time::SystemTime::from(material.facts().not_after).into()),
        refused_connections: core.refusals.count(),
        refused_peers: core.refusals.members(),
    }
}

/// The unit of k3s that is installed, a server's before an agent's.
async fn k3s_unit(core: &Core) -> Option<pb::UnitStatus> {
    for name in [SERVER_UNIT, AGENT_UNIT] {
        match core.host.systemd.unit(name).await {
            Ok(unit) if unit.load_state != "not-found" => return Some(status_of(unit)),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the state of {name} is not known"
                );
            }
        }
    }
    None
}

fn status_of(unit: Unit) -> pb::UnitStatus {
    pb::UnitStatus {
        name: unit.name,
        active_state: unit.active_state,
        sub_state: unit.sub_state,
        restarts: unit.n_restarts,
        main_pid: unit.main_pid.unwrap_or_default(),
    }
}
