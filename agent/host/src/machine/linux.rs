//! The machine that this program runs on, read from `/proc`, `/sys` and `/etc` below a root, and from timedated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use nix::sys::statvfs::statvfs;
use sysinfo::{MemoryRefreshKind, System};

use super::cgroup::{self, Cgroup};
use super::{
    Arch, DiskSpace, Facts, Listener, Machine, MachineError, Vitals, kernel, release, sockets,
};
use crate::files::Root;
use crate::systemd::bus::Bus;
use crate::{command, mounts};

#[cfg(test)]
mod tests;

/// How long unpacking the kernel's configuration may take, and how large it may be.
const CONFIG_LIMIT: Duration = Duration::from_secs(5);
const CONFIG_CAP: usize = 4 * 1024 * 1024;

/// How long timedated may take to say whether the clock is synchronised.
const CLOCK_LIMIT: Duration = Duration::from_secs(3);

/// The id of this boot, as this process sees it and as the first process does.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_ID_OF_INIT: &str = "/proc/1/root/proc/sys/kernel/random/boot_id";

/// The machine that this program runs on.
#[derive(Debug, Clone)]
pub struct LinuxMachine {
    root: Root,
    bus: Bus,
}

impl LinuxMachine {
    /// Files are read below `root`, memory and load from the running kernel.
    pub fn new(root: Root, bus: Bus) -> Self {
        Self { root, bus }
    }

    /// A file's text with the white space around it cut off; `None` where it can't be read.
    async fn word(&self, path: &str) -> Option<String> {
        let text = self.root.read_text(path).await.ok()??;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The id of this boot as the first process sees it, and with it k3s: in a container it is the container's own, while
    /// the sandbox of the agent's unit shows the machine's.
    async fn boot_id(&self) -> Option<String> {
        match self.word(BOOT_ID_OF_INIT).await {
            None => self.word(BOOT_ID).await,
            found => found,
        }
    }

    async fn is_there(&self, path: &str) -> bool {
        self.root.exists(path).await.unwrap_or(false)
    }

    async fn cgroup(&self) -> Cgroup {
        let controllers = self
            .root
            .read_text("/sys/fs/cgroup/cgroup.controllers")
            .await
            .ok()
            .flatten();
        let table = self.root.read_text("/proc/cgroups").await.ok().flatten();
        cgroup::judge(cgroup::Signs {
            controllers: controllers.as_deref(),
            unified_directory: self.is_there("/sys/fs/cgroup/unified").await,
            legacy_directory: self.is_there("/sys/fs/cgroup/systemd").await
                || self.is_there("/sys/fs/cgroup/cpu").await,
            table: table.as_deref(),
        })
    }

    /// The build configuration of the running kernel, from where distributions keep it.
    async fn kernel_config(&self, release: &str) -> Option<String> {
        for path in [
            format!("/boot/config-{release}"),
            format!("/lib/modules/{release}/config"),
        ] {
            if let Ok(Some(config)) = self.root.read_text(path).await {
                return Some(config);
            }
        }
        let packed = self.root.path("/proc/config.gz");
        let arguments = [Path::new("--decompress"), Path::new("--stdout"), &packed];
        let output = command::run("gzip", arguments, CONFIG_LIMIT, CONFIG_CAP)
            .await
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[async_trait]
impl Machine for LinuxMachine {
    async fn facts(&self) -> Result<Facts, MachineError> {
        let os_release = match self.root.read_text("/etc/os-release").await? {
            Some(text) => Some(text),
            None => self.root.read_text("/usr/lib/os-release").await?,
        };
        let hostname = match self.word("/proc/sys/kernel/hostname").await {
            Some(hostname) => hostname,
            None => System::host_name().unwrap_or_default(),
        };
        let memory = tokio::task::spawn_blocking(memory)
            .await
            .map_err(|_| MachineError::Interrupted)??;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Facts {
            uid: nix::unistd::geteuid().as_raw(),
            hostname,
            os: release::parse(&os_release.unwrap_or_default()),
            kernel: System::kernel_version().unwrap_or_default(),
            arch: Arch::from_name(std::env::consts::ARCH),
            machine_id: self.word("/etc/machine-id").await,
            boot_id: self.boot_id().await,
            init_is_systemd: self.is_there("/run/systemd/system").await,
            cgroup: self.cgroup().await,
            memory_total: memory.total_memory(),
            swap_total: memory.total_swap(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        })
    }

    async fn vitals(&self) -> Result<Vitals, MachineError> {
        tokio::task::spawn_blocking(vitals)
            .await
            .map_err(|_| MachineError::Interrupted)?
    }

    async fn disk_space(&self, path: &Path) -> Result<DiskSpace, MachineError> {
        let table = mounts::read(&self.root).await.unwrap_or_default();
        let (root, path) = (self.root.clone(), path.to_path_buf());
        tokio::task::spawn_blocking(move || disk_space(&root, &path, &table))
            .await
            .map_err(|_| MachineError::Interrupted)?
    }

    async fn listeners(&self) -> Result<Vec<Listener>, MachineError> {
        let proc = self.root.path("/proc");
        tokio::task::spawn_blocking(move || sockets::listeners(&proc))
            .await
            .map_err(|_| MachineError::Interrupted)
    }

    async fn kernel_features(&self) -> BTreeMap<String, Option<bool>> {
        let release = System::kernel_version().unwrap_or_default();
        kernel::judge(&kernel::Signs {
            config: self.kernel_config(&release).await,
            modules: self
                .root
                .read_text(format!("/lib/modules/{release}/modules.dep"))
                .await
                .ok()
                .flatten(),
            filesystems: self
                .root
                .read_text("/proc/filesystems")
                .await
                .ok()
                .flatten(),
            loaded: self.root.list("/sys/module").await.unwrap_or_default(),
        })
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn clock_synchronized(&self) -> Option<bool> {
        tokio::time::timeout(CLOCK_LIMIT, self.bus.ntp_synchronized())
            .await
            .ok()?
    }
}

fn memory() -> Result<System, MachineError> {
    let mut system = System::new().map_err(unreadable("memory"))?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram().with_swap());
    Ok(system)
}

fn vitals() -> Result<Vitals, MachineError> {
    let memory = memory()?;
    let load = System::load_average().map_err(unreadable("load"))?;
    Ok(Vitals {
        load: [load.one, load.five, load.fifteen],
        uptime: Duration::from_secs(System::uptime().map_err(unreadable("uptime"))?),
        memory_available: memory.available_memory(),
        swap_used: memory.used_swap(),
    })
}

fn unreadable(what: &'static str) -> impl FnOnce(sysinfo::Error) -> MachineError {
    move |source| MachineError::Unreadable { what, source }
}

/// Asks at the nearest directory that exists.
fn disk_space(
    root: &Root,
    path: &Path,
    table: &[mounts::Mount],
) -> Result<DiskSpace, MachineError> {
    let asked = path
        .ancestors()
        .find(|directory| root.path(directory).exists())
        .unwrap_or(Path::new("/"))
        .to_path_buf();
    let full = root.path(&asked);
    let found = statvfs(&full).map_err(|errno| MachineError::Space {
        path: path.to_path_buf(),
        source: std::io::Error::from(errno),
    })?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok(DiskSpace {
        mount_point: mounts::holding(table, &without_links(root, &asked))
            .map(|mount| mount.point.clone()),
        free: bytes(found.blocks_available()),
        total: bytes(found.blocks()),
        asked,
    })
}

/// The host's path with symbolic links followed, as the mount table names it.
fn without_links(root: &Root, path: &Path) -> PathBuf {
    let resolved = root.path(path).canonicalize().ok();
    let below = root.path("/").canonicalize().ok();
    match (resolved, below) {
        (Some(resolved), Some(below)) => resolved
            .strip_prefix(below)
            .map_or_else(|_| path.to_path_buf(), |rest| Path::new("/").join(rest)),
        _ => path.to_path_buf(),
    }
}
