//! The steps of a set-up. The class comes last: what a host can't use gets none.

use std::sync::Arc;

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};

use super::Planned;
use super::plan::{driver, merged};
use crate::clusters::classes::{self, Made, is_ours};
use crate::operations::agent::AgentTask;
use crate::storage::NFS;
use crate::store::shared_storage::SharedRow;
use crate::workflows::Context;
use crate::workflows::ask::step_error;
use crate::workflows::check_storage::{VERDICT, proofs};
use crate::workflows::exports::{self, Export};
use crate::workflows::record::database_failed;

struct Shared {
    context: Context,
    planned: Planned,
    operation: String,
}

/// The list of steps.
pub(super) fn steps(context: &Context, planned: &Planned, operation: &str) -> Plan {
    let shared = Arc::new(Shared {
        context: context.clone(),
        planned: planned.clone(),
        operation: operation.to_owned(),
    });
    let with = || Arc::clone(&shared);
    let Planned {
        cluster,
        class,
        path,
        ..
    } = planned;
    let info = |id: &str, title: String, host: &str| StepInfo {
        id: id.to_owned(),
        title,
        host: host.to_owned(),
    };
    let mut plan = Plan::new();
    let mut last = None;
    if let Some(host) = &planned.host {
        let host = host.to_string();
        if planned.install {
            let title = "install the NFS server".to_owned();
            plan = plan.then(info("install-server", title, &host), InstallServer(with()));
        }
        let title = format!("note the export for cluster {cluster}");
        plan = plan.then(info("note", title, ""), Note(with()));
        let title = format!("export {path} to the nodes of cluster {cluster}");
        plan = plan.then(info("export", title, &host), MakeExport(with()));
        last = Some("export");
    }
    let plan = proofs(plan, last, context, &planned.proofs, operation);
    let title = "look for the driver of volumes on NFS".to_owned();
    let plan = plan.after(&[VERDICT], info("driver", title, ""), Driver(with()));
    let title = format!("make storage class {class}");
    let plan = plan.after(&["driver"], info("class", title, ""), MakeClass(with()));
    let title = format!("make it the class of cluster {cluster} that instances get");
    plan.after(&["class"], info("default", title, ""), MakeDefault(with()))
}

impl Shared {
    fn task(&self, step: &str) -> Option<AgentTask> {
        let host = self.planned.host.as_ref()?;
        Some(AgentTask::new(
            self.context.fleet.clone(),
            (**host).clone(),
            &self.operation,
            step,
            self.context.timings.agent_wait,
        ))
    }

    /// What the agent of the host does, in a plan with one.
    async fn on_host(
        &self,
        step: &str,
        verb: Verb,
        reporter: &Reporter,
    ) -> Result<Done, StepError> {
        let Some(task) = self.task(step) else {
            return Ok(Done::skipped("no host exports this share"));
        };
        let spec = pb::TaskSpec { verb: Some(verb) };
        task.run(spec, reporter).await
    }

    /// The export with what other classes on it want.
    async fn export(&self) -> Result<Option<Export>, StepError> {
        let Some(export) = self.planned.export() else {
            return Ok(None);
        };
        let merged = merged(&self.context, &self.planned, export).await;
        merged.map(Some).map_err(database_failed)
    }
}

/// Has the packages of the NFS server installed.
struct InstallServer(Arc<Shared>);

#[async_trait]
impl Step for InstallServer {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let task = pb::NfsInstallTask {
            backend: self.0.planned.backend().into(),
        };
        let verb = Verb::NfsInstall(task);
        self.0.on_host("install-server", verb, reporter).await
    }
}

/// Notes a class that is not known yet, so that nodes which come and go from now on are told to its export. One that is known stays
/// where it is until the new share is proved.
struct Note(Arc<Shared>);

#[async_trait]
impl Step for Note {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let row = planned.row();
        let (class, share) = (&row.class, planned.share());
        if let Some(known) = known(context, planned).await? {
            let before = format!("{}:{}", known.server, known.path);
            return Ok(Done::unchanged(if before == share.to_string() {
                format!("class {class} is on {share}")
            } else {
                format!("class {class} stays on {before} until {share} is proved")
            }));
        }
        let stored = context.store.put_shared_storage(&row).await;
        stored.map_err(database_failed)?;
        Ok(Done::changed(format!("class {class} is to be on {share}")))
    }
}

/// What is recorded of the class.
async fn known(context: &Context, planned: &Planned) -> Result<Option<SharedRow>, StepError> {
    let rows = context.store.shared_storage().await;
    let mut rows = rows.map_err(database_failed)?.into_iter();
    Ok(rows.find(|row| (&row.cluster, &row.class) == (&planned.cluster, &planned.class)))
}

/// Has the directory exported to the nodes that there are now.
struct MakeExport(Arc<Shared>);

#[async_trait]
impl Step for MakeExport {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let Some(export) = self.0.export().await? else {
            return Ok(Done::skipped("no host exports this share"));
        };
        let Shared {
            context, planned, ..
        } = &*self.0;
        let _turn = context.clusters.exports_turn.lock().await;
        let api = context.clusters.api_of(&planned.cluster).await?;
        let clients = exports::current_clients(context, &api, None, &export).await?;
        let spec = exports::ensure(&export, planned.backend(), clients);
        match self.0.task("export") {
            Some(task) => task.run(spec, reporter).await,
            None => Ok(Done::skipped("no host exports this share")),
        }
    }
}

/// Looks once more for the driver that makes volumes of the class.
struct Driver(Arc<Shared>);

#[async_trait]
impl Step for Driver {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let api = context.clusters.api_of(&planned.cluster).await?;
        driver(&api).await.map_err(step_error)?;
        Ok(Done::unchanged(format!("{NFS} is there")))
    }
}

/// Makes the class, which says where its volumes lie.
struct MakeClass(Arc<Shared>);

#[async_trait]
impl Step for MakeClass {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let Planned {
            cluster,
            class,
            server,
            path,
            ..
        } = planned;
        let before = known(context, planned).await?;
        let api = context.clusters.api_of(cluster).await?;
        let found = api.storage_class(class).await?;
        if found.is_some_and(|found| !is_ours(&found)) {
            return Err(StepError::new(
                "CLASS_TAKEN",
                format!("storage class '{class}' of cluster '{cluster}' was made by someone else meanwhile"),
            )
            .subject(format!("storage class {class}"))
            .hint("take another name with --storage-class-name, or delete that class if nobody needs it"));
        }
        let wanted = classes::on_share(class, NFS, server, path);
        let made = api.put_class(&wanted).await?;
        let row = planned.row();
        let stored = context.store.put_shared_storage(&row).await;
        stored.map_err(database_failed)?;
        let marked = context.store.mark_class_made(cluster, class).await;
        marked.map_err(database_failed)?;
        let mut text = format!("storage class {class} gives volumes on {}", planned.share());
        let is_same = before.as_ref().is_some_and(|before| {
            let one = (&before.host, &before.server, &before.path, &before.clients);
            before.made && one == (&row.host, &row.server, &row.path, &row.clients)
        });
        let left = before.filter(|before| (&before.host, &before.path) != (&row.host, &row.path));
        if let Some((host, path)) = left.and_then(|left| left.host.zip(Some(left.path))) {
            text.push_str(&format!(
                "; {path} of {host} is exported still: `canasta storage remove nfs --host {host} --share {path}` ends that"
            ));
        }
        Ok(match made {
            Made::Unchanged if is_same => Done::unchanged(text),
            Made::Unchanged | Made::Created => Done::changed(text),
            Made::Replaced => Done::changed(format!("{text}; it was made anew for that")),
        })
    }
}

/// Has instances get the class.
struct MakeDefault(Arc<Shared>);

#[async_trait]
impl Step for MakeDefault {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let Planned { cluster, class, .. } = planned;
        let before = context.store.set_instance_default(cluster, class).await;
        let text = format!("instances of cluster {cluster} get their volumes from class {class}");
        Ok(match before.map_err(database_failed)? {
            Some(before) if before == *class => Done::unchanged(text),
            Some(before) => Done::changed(format!("{text}; before, from {before}")),
            None => Done::changed(text),
        })
    }
}
