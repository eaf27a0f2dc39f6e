//! Has a directory exported to some clients: new, changed in place, or found to be so already.

use canasta_host::Host;
use canasta_host::outside::Place;
use canasta_host::outside::place::What;
use canasta_host::systemd::Unit;
use canasta_steps::{Done, Reporter, StepError};
use tokio::time::{Instant, sleep, timeout_at};

use super::export::{Export, Numbered};
use super::foreign::{self, Look};
use super::record::{Record, Recorded};
use super::server::found::{Found, State};
use super::server::{Backend, Limits, Server};
use super::told::Told;
use super::{packages, prepare, rules};
use crate::k3s::Error;
use crate::k3s::watch::{Follower, with_journal};

/// Exports a directory.
///
/// # Errors
/// Those of [`rules`] and of the choice of a server, before anything is changed; those of the server.
pub(crate) async fn run(
    host: &Host,
    limits: Limits,
    asked: Option<Backend>,
    export: Export,
    reporter: &Reporter,
) -> Result<Done, StepError> {
    let record = Record::load(host).await?;
    let found = Found::look(host).await?;
    let backend = found.decide(asked, &record)?;
    let look = foreign::look(host, &record).await?;
    foreign::none_in(backend.server().exports(&[]).path, &look)?;
    let place = fits(host, limits, &export, &record, &look).await?;
    if !found.of(backend).installed {
        return Err(StepError::new(
            "NFS_SERVER_MISSING",
            format!("{} is not installed on this node", backend.in_words()),
        )
        .subject(backend.unit())
        .hint("have it installed with --install-server"));
    }
    let work = Work {
        host,
        limits,
        backend,
        server: backend.server(),
        look,
        reporter,
    };
    unmoved(&export, &record, &place)?;
    work.ensure(record, export, place, found.of(backend)).await
}

/// A share that was served is where it was: a directory in the place of one whose disk is not mounted would take what is meant for
/// that, and hide it afterwards.
///
/// # Errors
/// `SHARE_GONE` and `SHARE_MOVED`.
fn unmoved(export: &Export, record: &Record, place: &Place) -> Result<(), StepError> {
    let share = export.share.as_str();
    let Some(known) = record.export(share).filter(|known| known.served.is_some()) else {
        return Ok(());
    };
    let refused = |reason, message: String| {
        Err(StepError::new(reason, message).subject(share).hint(format!(
            "mount what holds it, then run the command again; if it was moved on purpose, end the export first: canasta storage remove nfs --host HOST --share {share}"
        )))
    };
    if place.what == What::Nothing {
        return refused(
            "SHARE_GONE",
            format!("{share} was exported and is not there any more"),
        );
    }
    let point = place.mount_point.display().to_string();
    if !known.mount_point.is_empty() && known.mount_point != point {
        return refused(
            "SHARE_MOVED",
            format!(
                "{share} lay on the file system mounted at {}, and lies on the one at {point} now",
                known.mount_point
            ),
        );
    }
    Ok(())
}

/// Whether a directory can be exported beside what is; what lies there.
///
/// # Errors
/// Those of [`rules`].
pub(super) async fn fits(
    host: &Host,
    limits: Limits,
    export: &Export,
    record: &Record,
    look: &Look,
) -> Result<Place, StepError> {
    let ours: Vec<String> = record
        .exports
        .iter()
        .map(|export| export.path.clone())
        .collect();
    rules::beside(&export.share, &ours, &look.exports)?;
    let place = host.outside.look(export.share.as_str(), limits.program);
    let place = place.await.map_err(packages::outside)?;
    rules::place(&export.share, &place)?;
    Ok(place)
}

struct Work<'a> {
    host: &'a Host,
    limits: Limits,
    backend: Backend,
    server: Box<dyn Server>,
    look: Look,
    reporter: &'a Reporter,
}

impl Work<'_> {
    async fn ensure(
        &self,
        mut record: Record,
        export: Export,
        place: Place,
        state: &State,
    ) -> Result<Done, StepError> {
        let (host, record) = (self.host, &mut record);
        prepare::adopt(host, self.limits, record, state, &self.look).await?;
        let number = record.number(host, &export).await?;
        let path = export.share.to_string();
        let before = record.intend(&export);
        record.save(host).await?;
        let mut told = Told::default();
        if place.what == What::Nothing {
            self.make(&export, &mut told).await?;
        }
        let numbered = Numbered { export, number };
        let served = self.serve(record, &numbered, before.as_ref(), &mut told);
        let served = served.await;
        if let Err(error) = served {
            // What the server refuses must not be in its way when it starts next; the error counts, whatever becomes of this.
            let exports = record.numbered(None);
            let mut unsaid = Told::default();
            let _as_before = prepare::write_exports(
                host,
                record,
                self.backend,
                &exports,
                &self.look,
                &mut unsaid,
            )
            .await;
            return Err(error);
        }
        record.fulfil(&path, &place.mount_point.display().to_string());
        record.save(host).await?;
        self.wait_out_grace(&mut told).await?;
        if before.is_some_and(|before| !before.is_complete()) {
            told.repaired("what was begun before is brought to its end");
        }
        Ok(told.done(&format!(
            "{path} is exported by {}",
            self.backend.in_words()
        )))
    }

    async fn make(&self, export: &Export, told: &mut Told) -> Result<(), StepError> {
        let share = export.share.as_str();
        let made = self.host.outside.make(share, self.limits.program).await;
        let made = made.map_err(packages::outside)?;
        // Somebody may have been quick with a link or a mount.
        rules::place(&export.share, &made)?;
        if !made.made.is_empty() {
            told.changed(format!("{share} made"));
        }
        Ok(())
    }

    /// Writes the files and has the server take the export from them.
    async fn serve(
        &self,
        record: &mut Record,
        current: &Numbered,
        before: Option<&Recorded>,
        told: &mut Told,
    ) -> Result<(), StepError> {
        let exports = record.numbered(Some(current.export.share.as_str()));
        let (host, backend) = (self.host, self.backend);
        prepare::write_exports(host, record, backend, &exports, &self.look, told).await?;
        prepare::write_settings(host, record, backend, told).await?;
        self.bring_up(record, told).await?;
        self.tell_server(current, before, told).await
    }

    /// Has the server run, now and after a reboot.
    async fn bring_up(&self, record: &mut Record, told: &mut Told) -> Result<(), StepError> {
        let (systemd, name) = (&self.host.systemd, self.backend.unit());
        let unit = systemd.unit(name).await.map_err(Error::from)?;
        if !unit.is_enabled() {
            let enabled = systemd.enable(name).await.map_err(Error::from)?;
            if enabled.is_changed() {
                systemd.daemon_reload().await.map_err(Error::from)?;
                told.changed(format!("{name} comes up at boot"));
            }
        }
        let restart = record.restart_needed;
        if unit.is_active() && !restart && self.server.is_ready(self.host).await? {
            return Ok(());
        }
        let since = self.host.machine.now();
        if unit.is_failed() {
            systemd.reset_failed(name).await.map_err(Error::from)?;
        }
        let ordered = if restart {
            systemd.restart_no_block(name).await
        } else {
            systemd.start_no_block(name).await
        };
        ordered.map_err(Error::from)?;
        self.reporter
            .message(format!("waiting for {} to start", self.backend.in_words()))
            .await;
        // A unit that was up, and is not started anew, may be on its way still.
        let before = (restart || !unit.is_active()).then_some(unit);
        if let Some(error) = self.started(before.as_ref()).await? {
            return Err(with_journal(self.host, name, since, error).await);
        }
        told.changed(format!("{name} started"));
        record.restart_needed = false;
        record.save(self.host).await
    }

    /// Waits until the server can be asked; what kept it from that. What is told of the run
    /// `before` counts for nothing.
    async fn started(&self, before: Option<&Unit>) -> Result<Option<StepError>, StepError> {
        let name = self.backend.unit();
        let deadline = Instant::now() + self.limits.start;
        let mut follower = Follower::begin(self.host, name)
            .await
            .map_err(Error::from)?;
        let mut is_active = false;
        loop {
            // An active unit says nothing more; whether the program behind it listens has to be asked.
            let until = if is_active {
                Instant::now() + self.limits.pause
            } else {
                deadline
            };
            if let Ok(unit) = timeout_at(until, follower.next()).await {
                let unit = unit.map_err(Error::from)?;
                let is_old = before.is_some_and(|old| old.invocation_id == unit.invocation_id);
                if is_old && Instant::now() < deadline {
                    continue;
                }
                if unit.is_failed() {
                    return Ok(Some(self.failed(&unit)));
                }
                is_active = unit.is_active();
            }
            if is_active && self.server.is_ready(self.host).await? {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Ok(Some(self.late()));
            }
        }
    }

    fn failed(&self, unit: &Unit) -> StepError {
        let (words, name) = (self.backend.in_words(), self.backend.unit());
        StepError::new(
            "NFS_SERVER_FAILED",
            format!("{words} did not start: {name} is failed ({})", unit.result),
        )
        .subject(name)
        .hint(format!(
            "the last lines of its journal are the evidence; all of it: `journalctl -u {name}` on the node"
        ))
    }

    fn late(&self) -> StepError {
        let (words, name) = (self.backend.in_words(), self.backend.unit());
        let seconds = self.limits.start.as_secs();
        StepError::new(
            "NFS_SERVER_START_TIMEOUT",
            format!("{words} did not answer within {seconds} s of its start"),
        )
        .subject(name)
        .hint(format!(
            "look at `systemctl status {name}` on the node; a name server that doesn't answer delays it by 10 s"
        ))
    }

    /// Has the running server take the export, and looks whether it did.
    async fn tell_server(
        &self,
        numbered: &Numbered,
        before: Option<&Recorded>,
        told: &mut Told,
    ) -> Result<(), StepError> {
        let clients = numbered.export.clients();
        let is_new = before.is_none_or(|before| before.served.as_ref() != Some(&clients));
        let shown = clients.join(", ");
        if self.server.is_served(self.host, numbered).await? {
            if is_new {
                // It read the file when it started.
                told.changed(format!("exported to {shown}"));
            }
            return Ok(());
        }
        self.server.serve(self.host, self.limits, numbered).await?;
        let path = numbered.export.share.as_str();
        if !self.server.is_served(self.host, numbered).await? {
            return Err(StepError::new(
                "EXPORT_NOT_SERVED",
                format!("{} was told to export {path} and doesn't, or not to the clients that were named", self.backend.in_words()),
            )
            .subject(path)
            .hint(format!("look at `journalctl -u {}` on the node, then run the command again", self.backend.unit())));
        }
        if is_new {
            told.changed(format!("exported to {shown}"));
        } else {
            told.repaired("exported again");
        }
        Ok(())
    }

    /// Nobody can open files in the grace period, so an export is of no use before its end.
    async fn wait_out_grace(&self, told: &mut Told) -> Result<(), StepError> {
        let begun = Instant::now();
        let mut waited = false;
        while self.server.in_grace(self.host).await == Some(true) {
            if begun.elapsed() >= self.limits.grace {
                return Err(StepError::new(
                    "NFS_IN_GRACE",
                    format!("{} is in its grace period for more than {} s", self.backend.in_words(), self.limits.grace.as_secs()),
                )
                .subject(self.backend.unit())
                .hint("it waits for clients that it knew before its restart; run the command again in a minute or two"));
            }
            if !waited {
                self.reporter
                    .message("waiting for the end of the server's grace period, in which only clients from before its restart may open files")
                    .await;
            }
            waited = true;
            // It tells the end of it to nobody.
            sleep(self.limits.pause).await;
        }
        if waited {
            told.noted("the grace period of the server was waited out");
        }
        Ok(())
    }
}
