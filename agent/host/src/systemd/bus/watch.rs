//! Follows one unit by systemd's signals.

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch::{Receiver, Sender, channel};
use zbus::fdo::PropertiesProxy;

use super::super::{SystemdError, Unit, UnitStream};
use super::interface::ManagerProxy;
use super::{LIMIT, SERVICE, bounded, unit};

/// The states of a unit from now on.
///
/// A task of its own takes the signals off the bus, because a queue that nobody empties would hold up the whole connection. The
/// stream reads the unit again when it is asked for the next state; signals in between become one.
pub(super) async fn watch(
    manager: ManagerProxy<'static>,
    name: String,
) -> Result<UnitStream, zbus::Error> {
    let path = manager.load_unit(&name).await?;
    let connection = manager.inner().connection();
    let properties = PropertiesProxy::builder(connection)
        .destination(SERVICE)
        .path(path)
        .build()
        .await?;
    let changed = properties.receive_properties_changed().await?.map(drop);
    let reloaded = manager.receive_reloading().await?.map(drop);
    let (sender, receiver) = channel(());
    tokio::spawn(forward(stream::select(changed, reloaded), sender));
    let watcher = Watcher {
        manager,
        name,
        receiver,
        last: None,
        ended: false,
    };
    Ok(stream::unfold(watcher, Watcher::next).boxed())
}

/// Passes signals on until nobody listens or the bus is gone.
async fn forward(signals: impl Stream<Item = ()>, sender: Sender<()>) {
    let mut signals = std::pin::pin!(signals);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Some(()) => sender.send_replace(()),
                None => return,
            },
            () = sender.closed() => return,
        }
    }
}

struct Watcher {
    manager: ManagerProxy<'static>,
    name: String,
    receiver: Receiver<()>,
    last: Option<Unit>,
    ended: bool,
}

impl Watcher {
    /// The next state that differs from the last one.
    async fn next(mut self) -> Option<(Result<Unit, SystemdError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            if self.last.is_some() && self.receiver.changed().await.is_err() {
                let gone = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                return Some(self.end_with(SystemdError::Unreachable {
                    source: zbus::Error::from(gone),
                }));
            }
            let read = unit::read(&self.manager, &self.name);
            match bounded("watch", &self.name, LIMIT, read).await {
                Err(error) => return Some(self.end_with(error)),
                Ok(unit) if self.last.as_ref() == Some(&unit) => {}
                Ok(unit) => {
                    self.last = Some(unit.clone());
                    return Some((Ok(unit), self));
                }
            }
        }
    }

    fn end_with(mut self, error: SystemdError) -> (Result<Unit, SystemdError>, Self) {
        self.ended = true;
        (Err(error), self)
    }
}
