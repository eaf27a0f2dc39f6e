//! Has an errand done by this same program in a transient unit, as PID 1 sees the machine.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::{Answer, Errand, Outside, OutsideError, Program, Ran, place};
use crate::command;
use crate::files::Root;
use crate::systemd::bus::{BusSystemd, Rights};
use crate::systemd::errand::{self, Earlier, Ended, Otherwise, Place};

/// What the unit's program is called with; the directory of the request follows.
pub const COMMAND: &str = "work-for-agent";

/// Where most is done.
const PLACE: Place = Place {
    unit: "canasta-agent-errand.service",
    directory: "/run/canasta-agent/errand",
    answer: "answer.json",
    earlier: Earlier::Stopped,
};
/// Where programs run that are not to be cut short.
const TO_ITS_END: Place = Place {
    unit: "canasta-agent-packages.service",
    directory: "/run/canasta-agent/packages",
    answer: "answer.json",
    earlier: Earlier::Awaited,
};

/// How long a program of the system may run; the unit's limit is shorter.
const LONGEST: Duration = Duration::from_hours(1);
/// How much of what a program writes is held.
const OUTPUT: usize = 4 * 1024 * 1024;
/// How many lines of it are told, and how many characters of each.
const TAIL: usize = 40;
const LINE: usize = 300;

/// Work in transient units.
#[derive(Debug)]
pub struct InUnit {
    root: Root,
    systemd: BusSystemd,
    /// One piece of work at a time in each unit.
    busy: tokio::sync::Mutex<()>,
    finishing: tokio::sync::Mutex<()>,
}

impl InUnit {
    /// Requests go through files below `root`, which is the machine's own.
    pub fn new(root: Root, systemd: BusSystemd) -> Self {
        Self {
            root,
            systemd,
            busy: tokio::sync::Mutex::default(),
            finishing: tokio::sync::Mutex::default(),
        }
    }
}

#[async_trait]
impl Outside for InUnit {
    async fn perform(&self, errand: &Errand, limit: Duration) -> Result<Answer, OutsideError> {
        let (place, turn) = match errand {
            Errand::Finish(_) => (TO_ITS_END, &self.finishing),
            _ => (PLACE, &self.busy),
        };
        let _turn = turn.lock().await;
        let request = serde_json::to_vec(errand).expect("an errand is text and numbers");
        let program = errand::own_program()?;
        let (with, program) = ((&self.root, &self.systemd), [program.as_str(), COMMAND]);
        let sent = place.send(with, &program, request, Rights::Root, limit);
        judge(errand, sent.await?)
    }
}

/// What came of the unit, from what its program wrote and how it ended.
fn judge(errand: &Errand, ended: Ended) -> Result<Answer, OutsideError> {
    if let Ok(answer) = serde_json::from_slice(&ended.answer) {
        return Ok(answer);
    }
    let doing = errand.in_words();
    Err(match ended.otherwise {
        Otherwise::TimedOut(limit) => OutsideError::TimedOut { limit, doing },
        Otherwise::Silent => OutsideError::NoAnswer { doing },
        Otherwise::NotRun(error) => OutsideError::Unit(error),
    })
}

/// What the program in the unit does: reads the request in `directory`, does it, and leaves the answer there.
///
/// # Errors
/// When the request can't be read or the answer can't be written.
pub async fn serve(directory: &Path) -> std::io::Result<()> {
    let errand: Errand = errand::asked(directory)?;
    let answer = perform(&Root::real(), &errand).await;
    errand::answer(PLACE, directory, &answer)
}

/// Does the errand here.
async fn perform(root: &Root, errand: &Errand) -> Answer {
    match errand {
        Errand::Run(program) | Errand::Finish(program) => run(program).await,
        Errand::Look(path) => place::look(root, path),
        Errand::Make(path) => place::make(root, path),
    }
}

async fn run(program: &Program) -> Answer {
    let arguments: Vec<OsString> = program.arguments.iter().map(OsString::from).collect();
    let ended = command::run_to_end(
        &program.path,
        &arguments,
        &program.environment,
        &[],
        LONGEST,
        OUTPUT,
    );
    match ended.await {
        Ok(ended) => Answer::Ran(Ran {
            status: ended.status.code().unwrap_or(-1),
            tail: tail(&ended.output.stdout, &ended.output.stderr),
        }),
        Err(error) => Answer::NotStarted {
            program: program.path.clone(),
            why: match std::error::Error::source(&error) {
                Some(source) => source.to_string(),
                None => error.to_string(),
            },
        },
    }
}

/// The last lines of both, without empty ones.
fn tail(stdout: &[u8], stderr: &[u8]) -> Vec<String> {
    let lines = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().map(str::trim_end);
        lines
            .filter(|line| !line.is_empty())
            .map(|line| line.chars().take(LINE).collect())
            .collect()
    };
    let (mut told, mut errors) = (lines(stdout), lines(stderr));
    // What went wrong is on stderr with some, on stdout with others: each gets its half.
    errors.drain(..errors.len().saturating_sub(TAIL / 2));
    let room = TAIL - errors.len();
    told.drain(..told.len().saturating_sub(room));
    told.append(&mut errors);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Errand {
        Errand::Look("/srv/nfs".to_owned())
    }

    #[test]
    fn the_answer_or_what_was_to_be_done_is_told() {
        let of = |answer: &[u8], otherwise| {
            let answer = answer.to_vec();
            judge(&look(), Ended { answer, otherwise })
        };
        let ran = br#"{"ran":{"status":100,"tail":["E: x"]}}"#;
        let answer = of(ran, Otherwise::Silent).unwrap();
        assert!(matches!(answer, Answer::Ran(Ran { status: 100, .. })));
        let killed = of(b"", Otherwise::TimedOut(Duration::from_secs(9))).unwrap_err();
        assert_eq!(
            killed.to_string(),
            "failed to look at /srv/nfs within 9 s, it was killed"
        );
        let silent = of(b"{", Otherwise::Silent).unwrap_err();
        assert!(matches!(silent, OutsideError::NoAnswer { .. }));
    }

    #[tokio::test]
    async fn a_program_is_run_with_its_environment_and_its_last_words_are_told() {
        let env = Program {
            path: "/usr/bin/env".to_owned(),
            environment: vec![("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())],
            ..Program::default()
        };
        let Answer::Ran(ran) = run(&env).await else {
            panic!("not run");
        };
        assert_eq!(ran.status, 0);
        assert!(
            ran.tail
                .contains(&"DEBIAN_FRONTEND=noninteractive".to_owned())
        );
        let none = Program {
            path: "/no/such/program".to_owned(),
            ..Program::default()
        };
        let answer = run(&none).await;
        assert!(
            matches!(&answer, Answer::NotStarted { why, .. } if why.contains("No such file")),
            "{answer:?}"
        );
    }

    #[test]
    fn errors_are_not_pushed_out_by_other_lines() {
        let many = "a line\n".repeat(100);
        let tail = tail(many.as_bytes(), b"E: Unable to locate package\n\n");
        assert_eq!(tail.len(), TAIL);
        assert_eq!(tail.last().unwrap(), "E: Unable to locate package");
    }
}
