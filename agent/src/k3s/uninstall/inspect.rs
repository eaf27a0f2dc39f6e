//! What an uninstall would destroy and what stands in its way. Changes nothing; answers also where an uninstall would be refused.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use canasta_host::Host;
use canasta_host::mounts as table;
use canasta_proto::pb;
use canasta_steps::StepError;

use super::guard::unseen_place;
use super::layout::Place;
use super::{Limits, Work, before, data, processes, told, unseen};
use crate::k3s::Error;
use crate::k3s::record::{Origin, Record, Role};
use crate::k3s::traces::Traces;

/// How long the look into all places that the agent itself can't see may take: whoever asks waits no longer than a minute.
const LOOK: Duration = Duration::from_secs(10);

/// Looks. `k3s` is what the facts tell of it, `asked` in which directories the cluster keeps local volumes.
///
/// # Errors
/// When systemd, the record or the picture from before the install can't be read.
pub async fn inspect(
    host: &Host,
    k3s: Option<pb::K3sFacts>,
    asked: &[String],
) -> Result<pb::InspectUninstallResponse, StepError> {
    let traces = Traces::look(host).await?;
    let is_known = traces.record.as_ref().is_some_and(Record::is_install);
    let work = Work {
        host,
        limits: Limits {
            removal: LOOK,
            ..Limits::default()
        },
        told: told(asked, traces.record.as_ref()),
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
    let is_there = traces.is_present() || is_known;
    let refusing = work.tell_stored(&mut answer).await?;
    if is_there {
        answer.refusals.extend(refusing.iter().map(finding));
    } else {
        // Where nothing of k3s is, no step of an uninstall does anything that it could refuse.
        answer.unknown.extend(refusing.iter().map(in_words));
    }
    if is_there {
        let seen = answer.unknown.len();
        work.tell_found(&traces, &mut answer).await?;
        // What can't be seen of a k3s that is recorded may be there yet.
        answer.clean = answer.unknown.len() == seen && answer.refusals.is_empty();
    } else {
        answer.clean = true;
    }
    answer.clean &= answer.found.is_empty() && answer.stored.is_empty();
    Ok(answer)
}

/// What a guard says, as something found.
fn finding(error: &StepError) -> pb::Finding {
    let report = error.report();
    pb::Finding {
        code: report.reason.clone(),
        severity: pb::Severity::Error.into(),
        message: in_words(error),
        subject: report.subject.clone(),
        mend: report.hint.clone(),
    }
}

/// An error with its causes, in one line.
fn in_words(error: &StepError) -> String {
    let report = error.report();
    let causes = report.causes.iter().map(String::as_str);
    let parts: Vec<&str> = [report.message.as_str()]
        .into_iter()
        .chain(causes)
        .collect();
    parts.join(": ")
}

impl Work<'_> {
    /// Tells where volumes keep data, what lies there, and what is mounted where k3s's files go. Returns why places that only the
    /// removal can see would stop it.
    async fn tell_stored(
        &self,
        answer: &mut pb::InspectUninstallResponse,
    ) -> Result<Vec<StepError>, StepError> {
        let host = self.host;
        let mounts = table::read(&host.root).await.map_err(Error::from)?;
        let places = Place::all(host, &mounts, &self.told).await?;
        let mut entries = Vec::new();
        let mut remote = Vec::new();
        let mut refusing = Vec::new();
        let until = Instant::now() + self.limits.removal;
        for place in &places {
            if let Some(why) = &place.unusable {
                answer.unknown.push(format!(
                    "{why}; mend where the cluster keeps local volumes (the ConfigMap local-path-config)"
                ));
            } else if let Some(mount) = place.remote() {
                // A server that is gone would hold up the look.
                let what = format!(
                    "what lies in {}: it is on {}",
                    place.in_words(),
                    mount.source
                );
                if place.remote_in_the_way().is_some() {
                    answer.unknown.push(what);
                    remote.push(mount.clone());
                } else {
                    answer.unknown.push(format!(
                        "{what}, outside of k3s's own directories; it stays untouched"
                    ));
                }
            } else if place.is_hidden {
                let left = until.saturating_duration_since(Instant::now());
                refusing.extend(if left.is_zero() {
                    let limit = self.limits.removal.as_secs();
                    let why = format!("the look at other such places took all of its {limit} s");
                    Some(unseen_place(place, &why))
                } else {
                    self.hidden_place(place, left).await.err()
                });
            } else {
                entries.extend(place.entries(host).await?);
            }
        }
        answer.local_paths = places.into_iter().map(|place| place.path).collect();
        answer.local_path = answer.local_paths.first().cloned().unwrap_or_default();
        let volumes: Vec<PathBuf> = entries.iter().map(PathBuf::from).collect();
        let (stored, unknown) = data::measure(host, entries, mounts).await;
        answer.stored = stored;
        answer.unknown.extend(unknown);
        let sorted = self.sorted_mounts(&volumes).await?;
        let foreign = sorted.foreign.into_iter().chain(remote);
        answer.foreign_mounts = foreign
            .map(|mount| pb::ForeignMount {
                path: mount.point.display().to_string(),
                source: mount.source,
                fs_type: mount.fs_type,
            })
            .collect();
        Ok(refusing)
    }

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
        let refused = self.alone().await.err();
        answer.refusals.extend(refused.as_ref().map(finding));
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
