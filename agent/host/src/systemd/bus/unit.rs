//! A unit's properties, read over the bus.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use zbus::OwnedVariant;
use zbus::fdo::PropertiesProxy;

use super::super::Unit;
use super::SERVICE;
use super::interface::ManagerProxy;

/// Reads a unit; systemd loads it if it isn't in memory.
pub(super) async fn read(manager: &ManagerProxy<'_>, name: &str) -> Result<Unit, zbus::Error> {
    let path = manager.load_unit(name).await?;
    let proxy = PropertiesProxy::builder(manager.inner().connection())
        .destination(SERVICE)
        .path(path)
        .build()
        .await?;
    let mut properties = Properties(
        proxy
            .get_all("org.freedesktop.systemd1.Unit".try_into()?)
            .await?,
    );
    if name.ends_with(".service") && !properties.is_nothing() {
        properties.0.extend(
            proxy
                .get_all("org.freedesktop.systemd1.Service".try_into()?)
                .await?,
        );
    }
    Ok(properties.into_unit(name))
}

/// Properties by name. One that is missing or of another type counts as empty.
pub(super) struct Properties(pub(super) HashMap<String, OwnedVariant>);

impl Properties {
    pub(super) fn into_unit(mut self, name: &str) -> Unit {
        Unit {
            name: self.take("Id").unwrap_or_else(|| name.to_owned()),
            load_state: self.text("LoadState"),
            active_state: self.text("ActiveState"),
            sub_state: self.text("SubState"),
            result: self.text("Result"),
            unit_file_state: self.text("UnitFileState"),
            type_: self.text("Type"),
            main_pid: self.take("MainPID").filter(|pid| *pid != 0),
            n_restarts: self.take("NRestarts").unwrap_or_default(),
            exec_main_status: self.take("ExecMainStatus").unwrap_or_default(),
            exec_main_start: self
                .take("ExecMainStartTimestamp")
                .filter(|micros: &u64| *micros != 0)
                .map(|micros| UNIX_EPOCH + Duration::from_micros(micros)),
            invocation_id: self
                .take("InvocationID")
                .and_then(|id: Vec<u8>| invocation(&id)),
            fragment_path: Some(PathBuf::from(self.text("FragmentPath")))
                .filter(|path| path.is_absolute()),
        }
    }

    fn take<T: TryFrom<OwnedVariant>>(&mut self, name: &str) -> Option<T> {
        T::try_from(self.0.remove(name)?).ok()
    }

    /// Neither described by a file nor running without one: it has nothing of a service, which is the longer half to ask for.
    pub(super) fn is_nothing(&self) -> bool {
        let is = |name, text: &str| {
            let found = self.0.get(name).and_then(|value| value.downcast_ref().ok());
            found.is_some_and(|found: &str| found == text)
        };
        is("LoadState", "not-found") && is("ActiveState", "inactive")
    }

    fn text(&mut self, name: &str) -> String {
        self.take(name).unwrap_or_default()
    }
}

/// A unit that never ran has sixteen zeros, or nothing.
fn invocation(id: &[u8]) -> Option<String> {
    let is_set = id.iter().any(|byte| *byte != 0);
    is_set.then(|| crate::files::hex(id))
}
