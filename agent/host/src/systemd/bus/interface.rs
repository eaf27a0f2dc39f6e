//! The part of systemd's manager interface that is used, as a typed proxy.

use zbus::{OwnedObjectPath, Variant};

/// Unit name, description, load state, active state, sub state, unit followed, path, job number, job type, job path.
pub(super) type ListedLine = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// Kind of change, file, and what it points to.
pub(super) type FileChange = (String, String, String);

#[zbus::proxy(
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    interface = "org.freedesktop.systemd1.Manager"
)]
pub(super) trait Manager {
    /// Have systemd send signals.
    fn subscribe(&self) -> zbus::Result<()>;

    /// The object of a unit, loaded if need be.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;

    /// Units in memory whose names match; no states means all.
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<ListedLine>>;

    /// Reads unit files again; answers when done.
    fn reload(&self) -> zbus::Result<()>;

    /// Makes the links of unit files' `[Install]` sections.
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<FileChange>)>;

    /// Removes those links.
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<FileChange>>;

    /// Queues a job.
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Queues a job.
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Queues a job.
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Makes a unit of these properties and queues its start.
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        aux: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;

    /// Forgets a failure.
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;

    /// A job has ended.
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;

    /// Reading the unit files begins (true) or has ended (false).
    #[zbus(signal)]
    fn reloading(&self, active: bool) -> zbus::Result<()>;
}
