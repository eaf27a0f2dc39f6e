//! The life of one agent: all that it has going on is spawned here, so that it ends with it, in order or as by a crash.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The life of one agent. All clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Life {
    /// Cancelled when the agent is to end: nothing new is begun, and streams without an end of their own are ended.
    pub stopping: CancellationToken,
    /// Cancelled when all that is left is dropped where it stands.
    over: CancellationToken,
    tracker: TaskTracker,
    /// Work that an orderly end waits for.
    awaited: TaskTracker,
}

impl Life {
    /// Runs `work` until it ends by itself or the life is over.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled_owned() => {}
                () = work => {}
            }
        });
    }

    /// As [`Life::spawn`], for work that an orderly end waits for. It ends by itself soon after `stopping`.
    pub fn spawn_awaited(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn(self.awaited.track_future(work));
    }

    /// Runs `work` to its end, also when whoever waits for the answer goes away: a call that is dropped half way must not
    /// leave half of a change. `None` when the life is over before.
    pub async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.spawn(async move {
            // Nobody may be left to hear it.
            let _ = sender.send(work.await);
        });
        answer.await.ok()
    }

    /// Resolves when no work is left that an orderly end waits for; cancel `stopping` before.
    pub async fn drained(&self) {
        self.awaited.close();
        self.awaited.wait().await;
    }

    /// Runs `work` on a thread that may block. It is finished even where the life ends meanwhile.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking(work)
    }

    /// Drops all that still runs.
    pub fn end(&self) {
        self.stopping.cancel();
        self.over.cancel();
        self.tracker.close();
    }

    /// Resolves when nothing runs any more; call [`Life::end`] before.
    pub async fn ended(&self) {
        self.tracker.wait().await;
    }
}
