//! The daily round that drops what is too old to be of use. Started with the controller.

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::config::Retention;
use crate::logging::line;
use crate::store::{Pruned, Store};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Prunes now and then once a day, until `stop`.
pub(crate) async fn prune_daily(store: Store, keep: Retention, stop: CancellationToken) {
    loop {
        match store.prune(&keep, Timestamp::now()).await {
            Ok(pruned) if pruned == Pruned::default() => {}
            Ok(pruned) => tracing::info!(?pruned, "dropped what is too old"),
            // Nothing depends on it; tomorrow is another day.
            Err(error) => tracing::warn!(error = line(&error), "failed to drop what is too old"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(DAY) => {}
        }
    }
}
