//! Has the orders done by this same program in a transient unit, whose mount namespace is PID 1's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Order, Removal, RemovalError, Report, perform, unmount};
use crate::files::{FileError, Root};
use crate::systemd::bus::{BusSystemd, Rights};
use crate::systemd::{Systemd as _, SystemdError};

/// What the unit's program is called with; the directory of the request follows.
pub const COMMAND: &str = "remove-for-agent";

/// Where requests and answers lie. Only root may enter it.
const DIRECTORY: &str = "/run/canasta-agent/removal";
/// The unit.
pub(super) const UNIT: &str = "canasta-agent-removal.service";
const REQUEST: &str = "request.json";
const ANSWER: &str = "answer.jsonl";

/// How much stack a walk through deep directories gets, in bytes.
const STACK: usize = 256 * 1024 * 1024;

/// The least that a program gets to work in, where the wait for its turn took almost all of its time.
const LEAST: Duration = Duration::from_secs(1);

/// How long systemd may take beyond the limit to say that it killed the program.
const GRACE: Duration = Duration::from_secs(15);

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
        // An agent that was killed may have left one at work: it must end before there is another request for it to read.
        self.systemd
            .stop(UNIT, GRACE)
            .await
            .map_err(RemovalError::Unit)?;
        let request = serde_json::to_vec(orders).expect("orders are paths");
        self.root.create_dir_all(DIRECTORY, 0o700).await?;
        let answer = format!("{DIRECTORY}/{ANSWER}");
        self.root.remove_file(&answer).await?;
        self.root
            .write(format!("{DIRECTORY}/{REQUEST}"), request, 0o600)
            .await?;
        let program = std::env::current_exe().map_err(|source| {
            FileError::from(canasta_durable::Error::new(
                "find",
                Path::new("/proc/self/exe"),
                source,
            ))
        })?;
        // An upgrade of the package has put a newer program in the place of this one.
        let program = program.display().to_string();
        let program = program.strip_suffix(" (deleted)").unwrap_or(&program);
        let argv = [program, COMMAND, DIRECTORY].map(str::to_owned);
        let begun = Instant::now();
        let ended = self
            .systemd
            .run_once(UNIT, &argv, Rights::Root, limit, limit + GRACE)
            .await;
        // systemd says of a program that it killed only that it failed.
        let timed_out = begun.elapsed() >= limit;
        let lines = self.root.read_text(&answer).await?.unwrap_or_default();
        self.root.remove_file(&answer).await?;
        judge(&lines, ended, timed_out.then_some(limit))
    }
}

/// What came of the unit, from what its program wrote and how the job ended.
fn judge(
    lines: &str,
    ended: Result<(), SystemdError>,
    timed_out: Option<Duration>,
) -> Result<Report, RemovalError> {
    let mut doing = "nothing was begun".to_owned();
    for line in lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
    {
        match line {
            Line::Report(report) => return Ok(report),
            Line::Begun(what) => doing = what,
        }
    }
    match (ended, timed_out) {
        (_, Some(limit)) => Err(RemovalError::TimedOut { limit, doing }),
        (Err(SystemdError::JobFailed { .. }) | Ok(()), None) => {
            Err(RemovalError::NoAnswer { doing })
        }
        (Err(error), None) => Err(RemovalError::Unit(error)),
    }
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
    let request = std::fs::read(directory.join(REQUEST))?;
    let orders: Vec<Order> = serde_json::from_slice(&request)?;
    let answer: PathBuf = directory.join(ANSWER);
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

    fn failed() -> Result<(), SystemdError> {
        Err(SystemdError::JobFailed {
            action: "run",
            unit: "u".to_owned(),
            result: "failed".to_owned(),
        })
    }

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
            busy.contains("still at work") && busy.contains(UNIT),
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
        assert_eq!(judge(&whole, Ok(()), None).unwrap().unmounted, 1);
        let timed_out = judge(begun, failed(), Some(Duration::from_secs(9))).unwrap_err();
        assert_eq!(
            timed_out.to_string(),
            "failed to finish within 9 s: unmounting /a"
        );
        let killed = judge("", failed(), None).unwrap_err();
        assert!(matches!(killed, RemovalError::NoAnswer { .. }));
    }
}
