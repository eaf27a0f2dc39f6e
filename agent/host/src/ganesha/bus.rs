//! nfs-ganesha over the system bus.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use zbus::{Structure, Variant};

use super::{Ganesha, GaneshaError, Listed, Served};
use crate::systemd::bus::Bus;

/// How long an answer may take. A name among the clients that can't be resolved holds the server up for 10 s.
const LIMIT: Duration = Duration::from_secs(25);

/// Network, version of IP, address, mask, protocol, anonymous user and group, expiry, options, which of them are set.
type Client = (String, i32, u8, u8, i32, u32, u32, u32, u32, u32);

#[zbus::proxy(
    default_service = "org.ganesha.nfsd",
    default_path = "/org/ganesha/nfsd/ExportMgr",
    interface = "org.ganesha.nfsd.exportmgr"
)]
trait ExportManager {
    /// Number, directory, directory again, tag, clients.
    fn display_export(
        &self,
        number: u16,
    ) -> zbus::Result<(u16, String, String, String, Vec<Client>)>;

    /// Takes a block of a file, which an expression names; one that is not served yet is added.
    fn update_export(&self, file: &str, expression: &str) -> zbus::Result<String>;

    /// Ends an export.
    fn remove_export(&self, number: u16) -> zbus::Result<()>;
}

#[zbus::proxy(
    default_service = "org.ganesha.nfsd",
    default_path = "/org/ganesha/nfsd/admin",
    interface = "org.ganesha.nfsd.admin"
)]
trait Admin {
    /// Whether it is in its grace period, whether that is known, and a text.
    #[zbus(name = "get_grace")]
    fn get_grace(&self) -> zbus::Result<(bool, bool, String)>;
}

/// The server that runs on this machine.
#[derive(Debug, Clone)]
pub struct BusGanesha {
    bus: Bus,
}

impl BusGanesha {
    /// Speaks over `bus`.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    async fn manager(&self) -> Result<ExportManagerProxy<'static>, zbus::Error> {
        ExportManagerProxy::new(&self.bus.connection().await?).await
    }

    async fn shown(&self) -> Result<Vec<Listed>, zbus::Error> {
        let manager = self.manager().await?;
        let message = manager.inner().call_method("ShowExports", &()).await?;
        let body = message.body();
        Ok(listed(&body.deserialize()?))
    }
}

/// The exports of an answer: a time, then a list whose entries begin with number and directory. What follows in an entry differs
/// from version to version, so it is not read by its type.
fn listed(answer: &Structure<'_>) -> Vec<Listed> {
    let arrays = answer.fields().iter().filter_map(|field| match field {
        Variant::Array(array) => Some(array.iter()),
        _ => None,
    });
    let entry = |value: &Variant<'_>| match value {
        Variant::Structure(entry) => match entry.fields() {
            [Variant::U16(number), Variant::Str(path), ..] => Some(Listed {
                number: *number,
                path: path.to_string(),
            }),
            _ => None,
        },
        _ => None,
    };
    arrays.flatten().filter_map(entry).collect()
}

#[async_trait]
impl Ganesha for BusGanesha {
    async fn exports(&self) -> Result<Vec<Listed>, GaneshaError> {
        bounded("list", 0, self.shown()).await
    }

    async fn export(&self, number: u16) -> Result<Option<Served>, GaneshaError> {
        let asked = async { self.manager().await?.display_export(number).await };
        match bounded("look at", number, asked).await {
            Ok((_, path, _, _, clients)) => Ok(Some(Served {
                path,
                clients: clients.into_iter().map(|client| client.0).collect(),
            })),
            Err(GaneshaError::NoSuchExport { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn update(&self, file: &str, number: u16) -> Result<(), GaneshaError> {
        let expression = format!("EXPORT(Export_Id={number})");
        let told = async { self.manager().await?.update_export(file, &expression).await };
        let answer = bounded("change", number, told).await?;
        // It says here what it didn't understand, and does the rest.
        tracing::debug!(number, answer, "nfs-ganesha took an export");
        Ok(())
    }

    async fn remove(&self, number: u16) -> Result<(), GaneshaError> {
        let told = async { self.manager().await?.remove_export(number).await };
        match bounded("end", number, told).await {
            Err(GaneshaError::NoSuchExport { .. }) => Ok(()),
            ended => ended,
        }
    }

    async fn in_grace(&self) -> Result<bool, GaneshaError> {
        let asked = async {
            let admin = AdminProxy::new(&self.bus.connection().await?).await?;
            admin.get_grace().await
        };
        bounded("ask for grace of", 0, asked)
            .await
            .map(|(in_grace, ..)| in_grace)
    }
}

/// Waits for an answer, at most [`LIMIT`], and sorts its error.
async fn bounded<T>(
    action: &'static str,
    number: u16,
    answer: impl Future<Output = Result<T, zbus::Error>>,
) -> Result<T, GaneshaError> {
    match timeout(LIMIT, answer).await {
        Ok(answer) => answer.map_err(|source| sorted(action, number, source)),
        Err(_) => Err(GaneshaError::TimedOut {
            action: "reach nfs-ganesha",
            seconds: LIMIT.as_secs(),
        }),
    }
}

fn sorted(action: &'static str, number: u16, source: zbus::Error) -> GaneshaError {
    use zbus::fdo::Error as Fdo;
    let text = match &source {
        zbus::Error::FDO(error) => match &**error {
            Fdo::ServiceUnknown(_) | Fdo::NameHasNoOwner(_) | Fdo::NoReply(_) => {
                return GaneshaError::NotRunning;
            }
            other => other.to_string(),
        },
        zbus::Error::MethodError(name, text, _) => {
            format!(
                "{} ({})",
                text.as_deref().unwrap_or_default(),
                name.as_str()
            )
        }
        _ => return GaneshaError::Bus(source),
    };
    // The one text for it, of 4.3 and of 6.5.
    if text.contains("lookup_export failed with Export id not found") {
        return GaneshaError::NoSuchExport { action, number };
    }
    GaneshaError::Refused {
        action,
        number,
        text,
    }
}

#[cfg(test)]
mod tests {
    use zbus::fdo;

    use super::*;

    fn of(error: fdo::Error) -> GaneshaError {
        sorted("change", 7, zbus::Error::FDO(Box::new(error)))
    }

    #[test]
    fn exports_are_read_whatever_else_is_told_of_them() {
        let time = (1_u64, 2_u64);
        let entries = vec![(0_u16, "/", true, time), (20_000, "/srv/nfs", false, time)];
        let answer = Structure::from((time, entries));
        let read: Vec<_> = listed(&answer)
            .into_iter()
            .map(|one| (one.number, one.path))
            .collect();
        let expected = [(0, "/".to_owned()), (20_000, "/srv/nfs".to_owned())];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_server_that_is_down_and_an_export_that_is_not_there_are_told_from_a_refusal() {
        let down = of(fdo::Error::ServiceUnknown("no".to_owned()));
        assert!(matches!(down, GaneshaError::NotRunning));
        let none = "lookup_export failed with Export id not found";
        let none = of(fdo::Error::InvalidArgs(none.to_owned()));
        assert!(matches!(none, GaneshaError::NoSuchExport { number: 7, .. }));
        let refused = of(fdo::Error::InvalidArgs("Error finding exports".to_owned()));
        let text = refused.to_string();
        assert!(text.starts_with("failed to change export 7: "), "{text}");
    }
}
