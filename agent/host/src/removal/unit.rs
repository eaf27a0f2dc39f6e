//! Has the orders done by this same program in a transient unit, whose mount namespace is PID 1's.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Order, Removal, RemovalError, Report, perform, unmount};
use crate::files::Root;
use crate::systemd::bus::{BusSystemd, Rights};
use crate::systemd::errand::{self, Earlier, Ended, Otherwise, Place};

/// What the unit's program is called with; the directory of the request follows.
pub const COMMAND: &str = "remove-for-agent";

pub(super) const PLACE: Place = Place {
    unit: "canasta-agent-removal.service",
    directory: "/run/canasta-agent/removal",
    answer: "answer.jsonl",
    earlier: Earlier::Stopped,
};

/// How much stack a walk through deep directories gets, in bytes.
const STACK: usize = 256 * 1024 * 1024;

/// The least that a program gets to work in, where the wait for its turn took almost all of its time.
const LEAST: Duration = Duration::from_secs(1);

/// Work in a transient unit.
#[derive(Debug, Clone)]
pub struct InUnit {
    root: Root,
    systemd: BusSystemd,
    /// There is one unit and one answer: whoever only looks waits until a task's removal has ended. Held for as long as the unit
    /// may be at work, also where the caller is gone.
    turn: Arc<Mutex<()>>,
}

/// A line of the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// What is begun.
    Begun(String),
    /// The end.
    Report(Report),
}

impl InUnit {
    /// Requests go through files below `root`, which is the machine's own.
    pub fn new(root: Root, systemd: BusSystemd) -> Self {
        Self {
            root,
            systemd,
            turn: Arc::default(),
        }
    }
}

#[async_trait]
impl Removal for InUnit {
    async fn run(&self, orders: &[Order], limit: Duration) -> Result<Report, RemovalError> {
        if orders.is_empty() {
            return Ok(Report::default());
        }
        let begun = Instant::now();
        let (this, orders) = (self.clone(), orders.to_vec());
        let work = async move {
            let left = limit.saturating_sub(begun.elapsed()).max(LEAST);
            this.run_in_unit(&orders, left).await
        };
        in_turn(Arc::clone(&self.turn), limit, Box::pin(work)).await?
    }
}

/// Does work once nobody else's is under way, and to its end whether or not the caller waits for that.
async fn in_turn<T: Send + 'static>(
    turn: Arc<Mutex<()>>,
    limit: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, RemovalError> {
    let held = timeout(limit, turn.lock_owned()).await;
    let held = held.map_err(|_elapsed| RemovalError::Busy { limit })?;
    let work = tokio::spawn(async move {
        let done = work.await;
        drop(held);
        done
    });
    work.await.map_err(|_ended| RemovalError::NoAnswer {
        doing: "the agent's own part of the work was cut off".to_owned(),
    })
}

impl InUnit {
    async fn run_in_unit(&self, orders: &[Order], limit: Duration) -> Result<Report, RemovalError> {
        let request = serde_json::to_vec(orders).expect("orders are paths");
        let program = errand::own_program()?;
        let with = (&self.root, &self.systemd);
        let program = [program.as_str(), COMMAND];
        let sent = PLACE.send(with, &program, request, Rights::Root, limit);
        judge(sent.await?)
    }
}

/// What came of the unit, from what its program wrote and how it ended.
fn judge(ended: Ended) -> Result<Report, RemovalError> {
    let mut doing = "nothing was begun".to_owned();
    let text = String::from_utf8_lossy(&ended.answer);
    for line in text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
    {
        match line {
            Line::Report(report) => return Ok(report),
            Line::Begun(what) => doing = what,
        }
    }
    Err(match ended.otherwise {
        Otherwise::TimedOut(limit) => RemovalError::TimedOut { limit, doing },
        Otherwise::Silent => RemovalError::NoAnswer { doing },
        Otherwise::NotRun(error) => RemovalError::Unit(error),
    })
}

/// What the program in the unit does: reads the request in `directory`, does it, and leaves the answer there.
///
/// # Errors
/// When the request can't be read or the answer can't be written.
pub fn serve(directory: &Path) -> std::io::Result<()> {
    let directory = directory.to_path_buf();
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || serve_here(&directory))?
        .join()
        .map_err(|_panicked| std::io::Error::other("the work ended early"))?
}

fn serve_here(directory: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let orders: Vec<Order> = errand::asked(directory)?;
    let answer = directory.join(PLACE.answer);
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .append(true)
        .open(answer)?;
    let mut broken = None;
    let mut write = |line: &Line| {
        let mut text = serde_json::to_vec(line).expect("a line is text and numbers");
        text.push(b'\n');
        if let Err(error) = file.write_all(&text) {
            broken = Some(error);
        }
    };
    let report = perform(&Root::real(), &orders, &unmount, |what| {
        write(&Line::Begun(what.to_owned()));
    });
    write(&Line::Report(report));
    broken.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_turn_and_to_its_end_also_when_its_caller_is_gone() {
        let turn = Arc::new(Mutex::new(()));
        let (end, ends) = tokio::sync::oneshot::channel::<()>();
        let work = async move { ends.await.is_ok() };
        let limit = Duration::from_millis(50);
        let call = in_turn(Arc::clone(&turn), limit, work);
        timeout(limit, call).await.expect_err("it goes on");
        let busy = in_turn(Arc::clone(&turn), limit, async {}).await;
        let busy = busy.expect_err("the first one is at work").to_string();
        assert!(
            busy.contains("still at work") && busy.contains(PLACE.unit),
            "{busy}"
        );
        end.send(()).expect("the work goes on");
        let next = in_turn(turn, Duration::from_secs(10), async { 2 }).await;
        assert_eq!(next.expect("its turn"), 2);
    }

    #[test]
    fn the_answer_or_what_was_being_done_is_told() {
        let begun = r#"{"begun":"unmounting /a"}"#;
        let whole = format!(
            "{begun}\n{}\n",
            r#"{"report":{"unmounted":1,"removed":0,"left":[]}}"#
        );
        let of = |answer: &str, otherwise| {
            let answer = answer.as_bytes().to_vec();
            judge(Ended { answer, otherwise })
        };
        assert_eq!(of(&whole, Otherwise::Silent).unwrap().unmounted, 1);
        let late = Otherwise::TimedOut(Duration::from_secs(9));
        assert_eq!(
            of(begun, late).unwrap_err().to_string(),
            "failed to finish within 9 s: unmounting /a"
        );
        let killed = of("", Otherwise::Silent).unwrap_err();
        assert!(matches!(killed, RemovalError::NoAnswer { .. }));
    }
}
