//! nfs-ganesha, by its files and over D-Bus.

use async_trait::async_trait;
use canasta_host::Host;
use canasta_host::ganesha::GaneshaError;
use canasta_proto::share::ClientRange;
use canasta_steps::StepError;

use super::{Backend, Limits, Server};
use crate::k3s::Error;
use crate::storage::export::{Foreign, Numbered};
use crate::storage::files::Wanted;
use crate::storage::ganesha::{INCLUDE, MAIN, OUR_EXPORTS, SETTINGS, includes_ours, render};

/// The program.
const PROGRAM: &str = "/usr/bin/ganesha.nfsd";
/// Where distributions put the part that reads directories; a package of its own.
const FSAL_DIRECTORIES: [&str; 5] = [
    "/usr/lib/ganesha",
    "/usr/lib64/ganesha",
    "/usr/lib/x86_64-linux-gnu/ganesha",
    "/usr/lib/aarch64-linux-gnu/ganesha",
    "/usr/lib/arm-linux-gnueabihf/ganesha",
];
/// A unit that its own one can't be up with.
const EXCLUDED: &str = "nfs.target";
/// That part.
const FSAL: &str = "libfsalvfs.so";

/// The server that is a program.
pub(super) struct Ganesha;

#[async_trait]
impl Server for Ganesha {
    fn settings(&self) -> Vec<Wanted> {
        vec![Wanted {
            path: MAIN,
            content: SETTINGS.to_owned(),
        }]
    }

    fn shared_settings(&self) -> Option<&'static str> {
        Some(MAIN)
    }

    fn exports(&self, exports: &[Numbered]) -> Wanted {
        Wanted {
            path: OUR_EXPORTS,
            content: render(exports),
        }
    }

    async fn may_own_settings(&self, host: &Host, _running: bool) -> Result<bool, StepError> {
        match host.root.read_text(MAIN).await.map_err(Error::from)? {
            None => Ok(true),
            Some(text) if includes_ours(&text) => Ok(false),
            Some(_) => Err(StepError::new(
                "GANESHA_NOT_OURS",
                format!("nfs-ganesha on this node is configured by someone else in {MAIN}, and that is not changed"),
            )
            .subject(MAIN)
            .hint(format!(
                "if nobody needs it, move it away; else add the line `{INCLUDE}` to it; or name a share that it exports already with --server. Then run the command again"
            ))),
        }
    }

    fn needless_units(&self) -> &'static [&'static str] {
        &[
            "rpcbind.service",
            "rpcbind.socket",
            "rpc-statd.service",
            "nfs-ganesha-lock.service",
        ]
    }

    async fn hindrance(&self, host: &Host) -> Result<Option<String>, StepError> {
        let excluded = host.systemd.unit(EXCLUDED).await.map_err(Error::from)?;
        Ok(excluded.is_active().then(|| {
            format!(
                "its unit would stop {EXCLUDED}, which is up for NFS clients or another server of this node; \
                 `systemctl stop {EXCLUDED}` if nobody needs that"
            )
        }))
    }

    async fn is_installed(&self, host: &Host) -> Result<bool, StepError> {
        if !host.root.exists(PROGRAM).await.map_err(Error::from)? {
            return Ok(false);
        }
        for directory in FSAL_DIRECTORIES {
            let part = format!("{directory}/{FSAL}");
            if host.root.exists(part).await.map_err(Error::from)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_ready(&self, host: &Host) -> Result<bool, StepError> {
        match host.ganesha.in_grace().await {
            Ok(_) => Ok(true),
            Err(GaneshaError::NotRunning) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn running(&self, host: &Host) -> Result<Vec<Foreign>, StepError> {
        let exports = match host.ganesha.exports().await {
            Ok(exports) => exports,
            Err(GaneshaError::NotRunning) => return Ok(Vec::new()),
            Err(error) => return Err(failed(&error)),
        };
        // Number 0 is the root that it makes by itself.
        let exports = exports.into_iter().filter(|export| export.number != 0);
        let exports = exports.map(|export| Foreign {
            path: export.path,
            source: format!("{} as it runs", Backend::Ganesha.in_words()),
            running: true,
            backend: Backend::Ganesha,
        });
        Ok(exports.collect())
    }

    async fn is_served(&self, host: &Host, export: &Numbered) -> Result<bool, StepError> {
        let served = host.ganesha.export(export.number).await;
        let Some(served) = served.map_err(|error| failed(&error))? else {
            return Ok(false);
        };
        let clients = served.clients.iter().map(|client| client.parse());
        // One that can't be understood is none of ours.
        let Ok(mut clients) = clients.collect::<Result<Vec<ClientRange>, _>>() else {
            return Ok(false);
        };
        clients.sort_unstable();
        let Numbered { export, .. } = export;
        Ok(served.path == export.share.as_str() && clients == export.clients)
    }

    async fn serve(
        &self,
        host: &Host,
        _limits: Limits,
        export: &Numbered,
    ) -> Result<(), StepError> {
        let told = host.ganesha.update(OUR_EXPORTS, export.number).await;
        told.map_err(|error| failed(&error).subject(export.export.share.as_str()))
    }

    async fn end(&self, host: &Host, _limits: Limits, export: &Numbered) -> Result<(), StepError> {
        let told = host.ganesha.remove(export.number).await;
        told.map_err(|error| failed(&error).subject(export.export.share.as_str()))
    }

    async fn in_grace(&self, host: &Host) -> Option<bool> {
        host.ganesha.in_grace().await.ok()
    }
}

fn failed(error: &GaneshaError) -> StepError {
    let report = |reason| StepError::from_source(reason, error);
    match error {
        GaneshaError::Refused { .. } => report("GANESHA_REFUSED").hint(
            "look at /var/log/ganesha/ganesha.log on the node: a file system that can't be exported is told only there",
        ),
        _ => report("GANESHA_UNREACHABLE")
            .hint("look at `systemctl status nfs-ganesha dbus` on the node, then run the command again"),
    }
}
