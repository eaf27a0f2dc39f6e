//! What ssh says on its standard error: shown at once while somebody may have to act on it, and kept for the error that may
//! come of it. Called by the session.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

use crate::output;

/// The most lines that are kept, and the longest of them.
const KEPT: usize = 12;
const LONGEST: usize = 400;
/// How long the last words may take. A connection that ssh shares with others can keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Listens to ssh.
#[derive(Debug)]
pub(super) struct Said {
    heard: Arc<Heard>,
    listening: JoinHandle<()>,
}

#[derive(Debug)]
struct Heard {
    /// Whether a person reads along.
    shown: AtomicBool,
    lines: Mutex<VecDeque<String>>,
}

impl Said {
    /// Listens; `shown` has each line printed as it comes, instead of keeping it.
    pub(super) fn listen(stderr: ChildStderr, shown: bool) -> Self {
        let heard = Arc::new(Heard {
            shown: AtomicBool::new(shown),
            lines: Mutex::default(),
        });
        let listening = tokio::spawn(listen(stderr, Arc::clone(&heard)));
        Self { heard, listening }
    }

    /// Keeps what comes from now on.
    pub(super) fn keep(&self) {
        self.heard.shown.store(false, Ordering::Relaxed);
    }

    /// The last lines that were kept, nearest first.
    pub(super) async fn last(&mut self) -> Vec<String> {
        // Without an end the lines so far are all there is.
        let _ended = tokio::time::timeout(LAST_WORDS, &mut self.listening).await;
        let mut lines = self
            .heard
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lines.drain(..).rev().collect()
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(stderr: ChildStderr, heard: Arc<Heard>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while matches!(stderr.read_until(b'\n', &mut line).await, Ok(1..)) {
        let text: String = String::from_utf8_lossy(&line)
            .trim()
            .chars()
            .take(LONGEST)
            .collect();
        line.clear();
        if text.is_empty() {
            continue;
        }
        if heard.shown.load(Ordering::Relaxed) {
            output::note(&text);
            continue;
        }
        let mut lines = heard.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}
