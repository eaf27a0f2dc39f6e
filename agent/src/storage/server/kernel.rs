//! The kernel's server, by its files and `exportfs`.
//!
//! `exportfs` is told of our own exports alone (`-i -o`, `-u`): with `-ra` it would also bring in what others wrote into their files
//! and did not mean to be served yet, and drop what they had it export by hand.

use async_trait::async_trait;
use canasta_host::Host;
use canasta_host::outside::Program;
use canasta_steps::StepError;

use super::{Backend, Limits, Server};
use crate::k3s::Error;
use crate::storage::export::{Foreign, Numbered};
use crate::storage::files::Wanted;
use crate::storage::kernel::{self, Entry};
use crate::storage::{foreign, packages};

/// Has the server take and end exports.
const EXPORTFS: &str = "/usr/sbin/exportfs";
/// The module and file system of the server.
const FEATURE: &str = "nfsd";
/// Where it is spoken to.
const NFSD: &str = "/proc/fs/nfsd";
/// How many clients `exportfs` is told of at once.
const AT_ONCE: usize = 64;

/// The server of the kernel.
pub(super) struct Kernel;

#[async_trait]
impl Server for Kernel {
    fn settings(&self) -> Vec<Wanted> {
        vec![
            Wanted {
                path: kernel::OUR_SETTINGS,
                content: kernel::SETTINGS.to_owned(),
            },
            Wanted {
                path: kernel::MOUNT_DAEMON,
                content: kernel::MOUNT_DAEMON_SETTINGS.to_owned(),
            },
        ]
    }

    fn shared_settings(&self) -> Option<&'static str> {
        // Others have files of their own beside ours.
        None
    }

    fn exports(&self, exports: &[Numbered]) -> Wanted {
        Wanted {
            path: kernel::OUR_EXPORTS,
            content: kernel::render(exports),
        }
    }

    async fn may_own_settings(&self, host: &Host, running: bool) -> Result<bool, StepError> {
        let others = foreign::in_kernel_files(host).await?;
        if running || others.is_empty() {
            // Who serves others already may do so over version 3.
            return Ok(!running);
        }
        Err(StepError::new(
            "EXPORTS_DORMANT",
            format!(
                "the kernel's NFS server does not run, and starting it would export {} for someone else too",
                others.join(", ")
            ),
        )
        .subject(others.join(", "))
        .hint("take it out of /etc/exports and /etc/exports.d on the node if nobody needs it; else start the server there first: `systemctl start nfs-server`; then run the command again"))
    }

    fn needless_units(&self) -> &'static [&'static str] {
        &["rpcbind.service", "rpcbind.socket", "rpc-statd.service"]
    }

    async fn hindrance(&self, host: &Host) -> Result<Option<String>, StepError> {
        // The directory alone says nothing: kernels have it for a module that nobody installed.
        let control = format!("{NFSD}/threads");
        if host.root.exists(control).await.map_err(Error::from)? {
            return Ok(None);
        }
        let features = host.machine.kernel_features().await;
        Ok(match features.get(FEATURE).copied().flatten() {
            Some(true) => None,
            Some(false) => Some(format!(
                "its kernel has no NFS server ({NFSD} can't be had)"
            )),
            None => Some(format!(
                "whether its kernel has an NFS server can't be told (nothing is in {NFSD})"
            )),
        })
    }

    async fn is_installed(&self, host: &Host) -> Result<bool, StepError> {
        let unit = Backend::Kernel.unit();
        let unit = host.systemd.unit(unit).await.map_err(Error::from)?;
        let program = host.root.exists(EXPORTFS).await.map_err(Error::from)?;
        Ok(unit.is_loaded() && program)
    }

    async fn is_ready(&self, _host: &Host) -> Result<bool, StepError> {
        Ok(true)
    }

    async fn running(&self, host: &Host) -> Result<Vec<Foreign>, StepError> {
        let unit = Backend::Kernel.unit();
        let unit = host.systemd.unit(unit).await.map_err(Error::from)?;
        if !unit.is_active() {
            return Ok(Vec::new());
        }
        let entries = table(host).await?.into_iter();
        let exports = entries.map(|entry| Foreign {
            path: entry.path,
            source: format!("the table of exportfs ({})", kernel::TABLE),
            running: true,
            backend: Backend::Kernel,
        });
        Ok(exports.collect())
    }

    async fn is_served(&self, host: &Host, export: &Numbered) -> Result<bool, StepError> {
        let change = kernel::difference(&table(host).await?, &export.export);
        Ok(change == kernel::Difference::default())
    }

    async fn serve(&self, host: &Host, limits: Limits, export: &Numbered) -> Result<(), StepError> {
        let change = kernel::difference(&table(host).await?, &export.export);
        let options = kernel::options(&export.export);
        for some in change.add.chunks(AT_ONCE) {
            exportfs(host, limits, &["-i", "-o", &options], some).await?;
        }
        end(host, limits, &change.end).await
    }

    async fn end(&self, host: &Host, limits: Limits, export: &Numbered) -> Result<(), StepError> {
        let all = kernel::all_of(&table(host).await?, export.export.share.as_str());
        end(host, limits, &all).await
    }

    async fn in_grace(&self, host: &Host) -> Option<bool> {
        let file = format!("{NFSD}/v4_end_grace");
        let text = host.root.read_text(file).await.ok()??;
        match text.trim() {
            "Y" => Some(false),
            "N" => Some(true),
            _ => None,
        }
    }
}

async fn table(host: &Host) -> Result<Vec<Entry>, StepError> {
    let text = host.root.read_text(kernel::TABLE).await;
    let text = text.map_err(Error::from)?.unwrap_or_default();
    Ok(kernel::entries(&text))
}

async fn end(host: &Host, limits: Limits, entries: &[String]) -> Result<(), StepError> {
    for some in entries.chunks(AT_ONCE) {
        exportfs(host, limits, &["-u"], some).await?;
    }
    Ok(())
}

async fn exportfs(
    host: &Host,
    limits: Limits,
    options: &[&str],
    entries: &[String],
) -> Result<(), StepError> {
    let options = options.iter().map(|&option| option.to_owned());
    let program = Program {
        path: EXPORTFS.to_owned(),
        arguments: options.chain(entries.iter().cloned()).collect(),
        environment: Vec::new(),
    };
    let words = program.in_words();
    let ran = host
        .outside
        .run(program, limits.program)
        .await
        .map_err(packages::outside)?;
    if ran.status == 0 {
        return Ok(());
    }
    let error = StepError::new(
        "EXPORTFS_FAILED",
        format!("`{words}` ended with status {}", ran.status),
    )
    .subject(kernel::OUR_EXPORTS)
    .hint("mend what it says on the node, then run the command again");
    Err(packages::with_output(host, error, &words, ran.tail).await)
}
