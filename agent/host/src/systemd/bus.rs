//! systemd over the system bus. The connection is made at the first question and made anew after it was lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zbus::fdo::PropertiesProxy;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::{ListedUnit, Systemd, SystemdError, Unit, UnitStream};
use crate::files::Change;

mod interface;
mod unit;
mod watch;

use interface::ManagerProxy;

const SERVICE: &str = "org.freedesktop.systemd1";

/// How long connecting, or one ordinary question, may take.
const LIMIT: Duration = Duration::from_secs(25);

/// How many files a program in a unit of its own may have open.
const DESCRIPTORS: u64 = 65536;
/// The capability as a bit of a set (`linux/capability.h`).
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;
/// What a program that only speaks with the network may take: bytes, and threads.
const MEMORY: u64 = 128 << 20;
const TASKS: u64 = 32;

/// How long reading all unit files again may take: generators run, and slow machines have many units.
const RELOAD_LIMIT: Duration = Duration::from_secs(90);

/// The system bus. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone, Default)]
pub struct Bus(Arc<Mutex<Option<Connection>>>);

impl Bus {
    /// A bus that isn't connected yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The connection, made if there is none or the old one was lost. systemd sends its signals over it.
    pub(crate) async fn connection(&self) -> Result<Connection, zbus::Error> {
        let mut slot = self.0.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = zbus::connection::Builder::system()
            .method_timeout(RELOAD_LIMIT)
            .build()
            .await?;
        ManagerProxy::new(&connection).await?.subscribe().await?;
        tracing::debug!("connected to the system bus");
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// Whether timedated says that the clock is synchronised; `None` where it can't be asked.
    pub(crate) async fn ntp_synchronized(&self) -> Option<bool> {
        let connection = self.connection().await.ok()?;
        let properties = PropertiesProxy::builder(&connection)
            .destination("org.freedesktop.timedate1")
            .path("/org/freedesktop/timedate1")
            .build()
            .await
            .ok()?;
        let interface = "org.freedesktop.timedate1".try_into().ok()?;
        bool::try_from(properties.get(interface, "NTPSynchronized").await.ok()?).ok()
    }
}

/// The systemd that runs this machine.
#[derive(Debug, Clone)]
pub struct BusSystemd {
    bus: Bus,
}

impl BusSystemd {
    /// Speaks over `bus`.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    async fn connection(&self) -> Result<Connection, SystemdError> {
        let connected = timeout(LIMIT, self.bus.connection()).await;
        match connected {
            Ok(answer) => answer.map_err(|source| SystemdError::Unreachable { source }),
            Err(_) => Err(timed_out("connect to", "systemd", LIMIT)),
        }
    }

    /// Runs a program in a unit made for it, outside of this program's sandbox, and waits for its end. systemd kills it after
    /// `limit`; `patience` is how long systemd's word is waited for.
    pub(crate) async fn run_once(
        &self,
        unit: &str,
        argv: &[String],
        rights: Rights,
        limit: Duration,
        patience: Duration,
    ) -> Result<(), SystemdError> {
        let manager = self.manager().await?;
        let properties = once(argv, rights, limit);
        let ended = run_and_wait(&manager, unit, &properties);
        match bounded("run", unit, patience, ended).await? {
            result if result == "done" => Ok(()),
            result => Err(SystemdError::JobFailed {
                action: "run",
                unit: unit.to_owned(),
                result,
            }),
        }
    }

    async fn manager(&self) -> Result<ManagerProxy<'static>, SystemdError> {
        let connection = self.connection().await?;
        ManagerProxy::new(&connection)
            .await
            .map_err(|source| SystemdError::Unreachable { source })
    }
}

#[async_trait]
impl Systemd for BusSystemd {
    async fn system_state(&self) -> Result<String, SystemdError> {
        let connection = self.connection().await?;
        let ask = async {
            let properties = PropertiesProxy::builder(&connection)
                .destination(SERVICE)
                .path("/org/freedesktop/systemd1")
                .build()
                .await?;
            let interface = "org.freedesktop.systemd1.Manager".try_into()?;
            let state: OwnedVariant = properties.get(interface, "SystemState").await?;
            String::try_from(state)
        };
        bounded("read the state of", "systemd", LIMIT, ask).await
    }

    async fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
        let manager = self.manager().await?;
        bounded("read the state of", name, LIMIT, unit::read(&manager, name)).await
    }

    async fn list_units(&self, patterns: &[&str]) -> Result<Vec<ListedUnit>, SystemdError> {
        let manager = self.manager().await?;
        let listed = bounded(
            "list units of",
            "systemd",
            LIMIT,
            manager.list_units_by_patterns(&[], patterns),
        )
        .await?;
        let mut units: Vec<ListedUnit> = listed
            .into_iter()
            .map(|line| ListedUnit {
                name: line.0,
                load_state: line.2,
                active_state: line.3,
                sub_state: line.4,
            })
            .collect();
        units.sort();
        Ok(units)
    }

    async fn daemon_reload(&self) -> Result<(), SystemdError> {
        let manager = self.manager().await?;
        bounded("reload", "systemd", RELOAD_LIMIT, manager.reload()).await
    }

    async fn enable(&self, name: &str) -> Result<Change, SystemdError> {
        let manager = self.manager().await?;
        let (_, changes) = bounded(
            "enable",
            name,
            LIMIT,
            manager.enable_unit_files(&[name], false, false),
        )
        .await?;
        Ok(Change::from_bool(!changes.is_empty()))
    }

    async fn disable(&self, name: &str) -> Result<Change, SystemdError> {
        let manager = self.manager().await?;
        match bounded(
            "disable",
            name,
            LIMIT,
            manager.disable_unit_files(&[name], false),
        )
        .await
        {
            Ok(changes) => Ok(Change::from_bool(!changes.is_empty())),
            Err(SystemdError::NoSuchUnit { .. }) => Ok(Change::Unchanged),
            Err(error) => Err(error),
        }
    }

    async fn start_no_block(&self, name: &str) -> Result<(), SystemdError> {
        let manager = self.manager().await?;
        bounded("start", name, LIMIT, manager.start_unit(name, "replace"))
            .await
            .map(drop)
    }

    async fn restart_no_block(&self, name: &str) -> Result<(), SystemdError> {
        let manager = self.manager().await?;
        bounded(
            "restart",
            name,
            LIMIT,
            manager.restart_unit(name, "replace"),
        )
        .await
        .map(drop)
    }

    async fn stop(&self, name: &str, limit: Duration) -> Result<(), SystemdError> {
        let manager = self.manager().await?;
        match bounded("stop", name, limit, stop_and_wait(&manager, name)).await {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => Err(SystemdError::JobFailed {
                action: "stop",
                unit: name.to_owned(),
                result,
            }),
            Err(SystemdError::NoSuchUnit { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn reset_failed(&self, name: &str) -> Result<(), SystemdError> {
        let manager = self.manager().await?;
        match bounded("reset", name, LIMIT, manager.reset_failed_unit(name)).await {
            // A unit that isn't in memory has no failure to forget.
            Err(SystemdError::NoSuchUnit { .. }) => Ok(()),
            answer => answer,
        }
    }

    async fn watch(&self, name: &str) -> Result<UnitStream, SystemdError> {
        let manager = self.manager().await?;
        bounded("watch", name, LIMIT, watch::watch(manager, name.to_owned())).await
    }
}

/// Makes the unit, starts it and waits for systemd's word that the start is over, which for this kind is the program's end.
async fn run_and_wait(
    manager: &ManagerProxy<'_>,
    unit: &str,
    properties: &[(&'static str, Variant<'static>)],
) -> Result<String, zbus::Error> {
    let mut removed = manager.receive_job_removed().await?;
    let job = manager
        .start_transient_unit(unit, "fail", properties, &[])
        .await?;
    job_ended(&mut removed, &job).await
}

/// What a program in a transient unit may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rights {
    /// All that root may.
    Root,
    /// Speak with the network, from ports below 1024 too, and write to one directory.
    NetworkOnly {
        /// That directory.
        writes: String,
    },
}

impl Rights {
    fn properties(self) -> Vec<(&'static str, Variant<'static>)> {
        let Self::NetworkOnly { writes } = self else {
            return Vec::new();
        };
        let flags = [
            "NoNewPrivileges",
            "PrivateDevices",
            "PrivateTmp",
            "ProtectControlGroups",
            "ProtectKernelModules",
            "ProtectKernelTunables",
            "RestrictSUIDSGID",
        ];
        let families = ["AF_INET", "AF_INET6", "AF_UNIX"].map(str::to_owned);
        let mut properties = vec![
            ("CapabilityBoundingSet", Variant::from(CAP_NET_BIND_SERVICE)),
            ("ProtectSystem", Variant::from("strict")),
            ("ProtectHome", Variant::from("yes")),
            ("ReadWritePaths", Variant::from(vec![writes])),
            (
                "RestrictAddressFamilies",
                Variant::from((true, families.to_vec())),
            ),
            ("MemoryMax", Variant::from(MEMORY)),
            ("TasksMax", Variant::from(TASKS)),
        ];
        properties.extend(flags.map(|flag| (flag, Variant::from(true))));
        properties
    }
}

/// The properties of a unit that runs a program once.
fn once(argv: &[String], rights: Rights, limit: Duration) -> Vec<(&'static str, Variant<'static>)> {
    let microseconds = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    let program = argv.first().cloned().unwrap_or_default();
    let command = vec![(program, argv.to_vec(), false)];
    let mut properties = vec![
        ("Description", Variant::from("Work for canasta-agent")),
        ("Type", Variant::from("oneshot")),
        ("ExecStart", Variant::from(command)),
        ("TimeoutStartUSec", Variant::from(microseconds)),
        // Nothing is left of it, however it ends.
        ("CollectMode", Variant::from("inactive-or-failed")),
        // A directory is open for each level of a tree.
        ("LimitNOFILE", Variant::from(DESCRIPTORS)),
    ];
    properties.extend(rights.properties());
    properties
}

/// Queues a stop and waits for systemd's word that the job is gone; answers with the job's result.
async fn stop_and_wait(manager: &ManagerProxy<'_>, name: &str) -> Result<String, zbus::Error> {
    // Listening begins before the order, or a quick job would be over unheard.
    let mut removed = manager.receive_job_removed().await?;
    let job: OwnedObjectPath = manager.stop_unit(name, "replace").await?;
    job_ended(&mut removed, &job).await
}

/// Waits for the signal that this job is gone; answers with its result.
async fn job_ended(
    removed: &mut interface::JobRemovedStream,
    job: &OwnedObjectPath,
) -> Result<String, zbus::Error> {
    while let Some(signal) = removed.next().await {
        let ended = signal.args()?;
        if ended.job == *job {
            return Ok(ended.result);
        }
    }
    Err(zbus::Error::InputOutput(Arc::new(std::io::Error::from(
        std::io::ErrorKind::ConnectionAborted,
    ))))
}

/// Waits for an answer, at most `limit`, and sorts its error.
async fn bounded<T>(
    action: &'static str,
    unit: &str,
    limit: Duration,
    answer: impl Future<Output = Result<T, zbus::Error>>,
) -> Result<T, SystemdError> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|source| sorted(action, unit, source)),
        Err(_) => Err(timed_out(action, unit, limit)),
    }
}

fn timed_out(action: &'static str, unit: &str, limit: Duration) -> SystemdError {
    SystemdError::TimedOut {
        action,
        unit: unit.to_owned(),
        limit,
    }
}

/// Tells a lost bus and a missing unit from a refusal.
fn sorted(action: &'static str, unit: &str, source: zbus::Error) -> SystemdError {
    use zbus::fdo::Error as Fdo;
    let unit = unit.to_owned();
    match &source {
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) => {
            SystemdError::Unreachable { source }
        }
        zbus::Error::FDO(error) => match **error {
            Fdo::ServiceUnknown(_)
            | Fdo::NameHasNoOwner(_)
            | Fdo::NoReply(_)
            | Fdo::Disconnected(_) => SystemdError::Unreachable { source },
            Fdo::FileNotFound(_) => SystemdError::NoSuchUnit { action, unit },
            _ => SystemdError::Refused {
                action,
                unit,
                source,
            },
        },
        zbus::Error::MethodError(name, ..)
            if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" =>
        {
            SystemdError::NoSuchUnit { action, unit }
        }
        _ => SystemdError::Refused {
            action,
            unit,
            source,
        },
    }
}

#[cfg(test)]
mod tests;
