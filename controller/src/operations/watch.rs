//! Following an operation: replays what is stored, then reads on whenever there is more. Nothing is queued for a
//! watcher, so a slow one costs nothing and misses nothing but progress that was overtaken.

use std::collections::VecDeque;
use std::sync::Arc;

use canasta_proto::pb;
use canasta_proto::pb::operation_event::Event;
use futures_util::Stream;
use futures_util::stream;
use tokio::sync::watch;

use super::Error;
use super::live::{Live, Told};
use crate::store::Store;

/// How many events are read from the database at once.
const BATCH: u32 = 128;

struct Watch {
    store: Store,
    id: String,
    /// The number of the last event that was handed out.
    after: u64,
    /// Which progress was handed out.
    progress: u64,
    ready: VecDeque<pb::OperationEvent>,
    live: Option<(Arc<Live>, watch::Receiver<Told>)>,
    over: bool,
}

/// The events after `after`, to the end of the operation. `live` is looked up before this is called, so that an
/// operation that is not live has its last event stored.
pub(super) fn watch(
    store: Store,
    live: Option<Arc<Live>>,
    id: String,
    after: u64,
) -> impl Stream<Item = Result<pb::OperationEvent, Error>> + Send {
    let live = live.map(|live| {
        let told = live.subscribe();
        (live, told)
    });
    let watch = Watch {
        store,
        id,
        after,
        progress: 0,
        ready: VecDeque::new(),
        live,
        over: false,
    };
    stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Some((item, watch))
    })
}

impl Watch {
    async fn next(&mut self) -> Option<Result<pb::OperationEvent, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.over = matches!(event.event, Some(Event::Ended(_)));
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            match self.fill().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Waits for something to hand out; false when there is nothing more to come.
    async fn fill(&mut self) -> Result<bool, Error> {
        loop {
            // Read before the database is, so that what is told in between wakes the wait below.
            let told = self
                .live
                .as_mut()
                .map(|(_, told)| *told.borrow_and_update());
            let mut events = self
                .store
                .operation_events(&self.id, self.after, BATCH)
                .await
                .map_err(Error::Store)?;
            // The end is stored before the hosts are given back and told after: who hears of it can start the next at once.
            let untold = told.is_some_and(|told| !told.ended);
            let ends = |event: &pb::OperationEvent| matches!(event.event, Some(Event::Ended(_)));
            if untold && events.last().is_some_and(ends) {
                events.pop();
            }
            if let Some(last) = events.last() {
                self.after = last.seq;
                self.ready.extend(events);
                return Ok(true);
            }
            let (Some((live, receiver)), Some(told)) = (self.live.as_mut(), told) else {
                return Ok(false);
            };
            if told.ended {
                return Ok(false);
            }
            let progress = live.progress_after(self.progress, self.after);
            if told.progress > self.progress {
                self.progress = told.progress;
                self.ready.extend(progress);
                if !self.ready.is_empty() {
                    return Ok(true);
                }
            }
            if told.stopped {
                return Err(Error::Stopping);
            }
            if receiver.changed().await.is_err() {
                return Err(Error::Stopping);
            }
        }
    }
}
