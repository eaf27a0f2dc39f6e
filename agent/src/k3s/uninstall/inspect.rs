//! What an uninstall would destroy and what stands in its way. Changes nothing; answers also where an uninstall would be refused.

use std::path::PathBuf;

use canasta_host::Host;
use canasta_host::mounts as table;
use canasta_proto::pb;
use canasta_steps::StepError;

use super::layout::Place;
use super::{Limits, Work, before, data, guard, processes, unseen};
use crate::k3s::Error;
use crate::k3s::record::{Origin, Record, Role};
use crate::k3s::traces::Traces;

/// Looks. `k3s` is what the facts tell of it.
///
/// # Errors
/// When systemd, the record or the picture from before the install can't be read.
pub async fn inspect(
    host: &Host,
    k3s: Option<pb::K3sFacts>,
) -> Result<pb::InspectUninstallResponse, StepError> {
    let traces = Traces::look(host).await?;
    let is_known = traces.record.as_ref().is_some_and(Record::is_install);
    let work = Work {
        host,
        limits: Limits::default(),
        record: traces
            .record
            .clone()
            .unwrap_or_else(|| Record::new(Origin::Installed, Role::Server)),
        before: before(host).await?,
        discard: &[],
    };
    let mut answer = pb::InspectUninstallResponse {
        observed_at: Some(host.machine.now().into()),
        k3s,
        ..pb::InspectUninstallResponse::default()
    };
    let mounts = table::read(&host.root).await.map_err(Error::from)?;
    let places = Place::all(host, &mounts).await?;
    let mut entries = Vec::new();
    let mut remote = Vec::new();
    for place in &places {
        // A server that is gone would hold up the look.
        if let Some(mount) = place.remote() {
            answer.unknown.push(format!(
                "what lies in {}: it is on {}",
                place.path, mount.source
            ));
            remote.push(mount.clone());
        } else if place.is_hidden {
            answer.unknown.push(format!(
                "what lies in {}: the place is hidden from canasta-agent",
                place.in_words()
            ));
        } else {
            entries.extend(data::entries(host, &place.path).await?);
        }
    }
    answer.local_path = places
        .first()
        .map(|place| place.path.clone())
        .unwrap_or_default();
    let volumes: Vec<PathBuf> = entries.iter().map(PathBuf::from).collect();
    let (stored, unknown) = data::measure(host, entries, mounts).await;
    answer.stored = stored;
    answer.unknown.extend(unknown);
    let sorted = work.sorted_mounts(&volumes).await?;
    answer.foreign_mounts = sorted
        .foreign
        .into_iter()
        .chain(remote)
        .map(|mount| pb::ForeignMount {
            path: mount.point.display().to_string(),
            source: mount.source,
            fs_type: mount.fs_type,
        })
        .collect();
    if traces.is_present() || is_known {
        let seen = answer.unknown.len();
        work.tell_found(&traces, &mut answer).await?;
        // What can't be seen of a k3s that is recorded may be there yet.
        answer.clean = answer.unknown.len() == seen;
    } else {
        answer.clean = true;
    }
    answer.clean &= answer.found.is_empty() && answer.stored.is_empty();
    Ok(answer)
}

impl Work<'_> {
    /// Tells what is there of k3s, and what of it can't be looked at.
    async fn tell_found(
        &self,
        traces: &Traces,
        answer: &mut pb::InspectUninstallResponse,
    ) -> Result<(), StepError> {
        let host = self.host;
        answer.found = traces.in_words();
        match host.processes.list().await {
            Ok(running) => {
                let own = processes::own(&running, processes::groups_count(host).await);
                answer.found.extend(processes::in_words(&own));
            }
            Err(error) => answer.unknown.push(unseen("processes", &error)),
        }
        match guard::another_kubernetes(host).await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => answer.unknown.push(format!(
                "what is k3s's and what another Kubernetes': there is {}",
                guard::signs(&found)
            )),
            Err(error) => answer.unknown.push(unseen("another Kubernetes", &error)),
        }
        let known: Vec<String> = answer.found.clone();
        let (left, unknown) = self.found().await?;
        answer
            .found
            .extend(left.into_iter().filter(|found| !known.contains(found)));
        for part in unknown {
            if !answer.unknown.contains(&part) {
                answer.unknown.push(part);
            }
        }
        Ok(())
    }
}
