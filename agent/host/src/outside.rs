//! Work outside of the agent's sandbox: programs of the system, and a look at a directory as PID 1 sees it.
//!
//! The agent's unit can write to few places and has few capabilities, so this is done by this same program in a transient unit
//! ([`unit::InUnit`]), as removals are: it sees what PID 1 sees, systemd kills it when its time is over, and what it used goes with it.
//! Called by the verbs that export directories. [`unit::serve`] is what that program does. With the feature `fake`,
//! `fake::FakeOutside` does the same below the fake host's directory, and programs are what a test makes of them.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::files::FileError;
use crate::systemd::SystemdError;

pub mod place;
pub mod unit;

pub use place::Place;

/// The work couldn't be had done, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutsideError {
    /// The request or the answer couldn't be written or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// systemd didn't run the program.
    #[error("failed to work outside of the agent's sandbox")]
    Unit(#[source] SystemdError),
    /// It took too long and was killed.
    #[error("failed to {doing} within {} s, it was killed", limit.as_secs())]
    TimedOut {
        /// The time that it had.
        limit: Duration,
        /// What was to be done.
        doing: String,
    },
    /// The program ended without an answer.
    #[error("failed to {doing}: the program ended without an answer")]
    NoAnswer {
        /// What was to be done.
        doing: String,
    },
    /// A program that isn't there, or can't be started.
    #[error("failed to start {program}: {why}")]
    NotStarted {
        /// The program.
        program: String,
        /// Why not.
        why: String,
    },
    /// A directory that can't be looked at or made.
    #[error("failed to {action} {path}: {why}")]
    Place {
        /// What was tried, as a verb.
        action: String,
        /// The directory.
        path: String,
        /// Why not.
        why: String,
    },
}

/// A program of the system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its absolute path.
    pub path: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What its environment has beside `PATH` and `LANG`.
    pub environment: Vec<(String, String)>,
}

impl Program {
    /// As a person would type it.
    pub fn in_words(&self) -> String {
        let words = std::iter::once(&self.path).chain(&self.arguments);
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

/// A program that ran to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// Its exit status; -1 where a signal ended it.
    pub status: i32,
    /// The last lines of what it wrote, stdout before stderr.
    pub tail: Vec<String>,
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Errand {
    /// Run a program, which is killed with the agent's interest in it.
    Run(Program),
    /// Run a program that must not be cut short, as package managers: where an agent that is gone left one at work, its end is
    /// awaited first.
    Finish(Program),
    /// Look at a directory.
    Look(String),
    /// Make a directory and those above it that are missing, for root, and for others to enter and read.
    Make(String),
}

impl Errand {
    /// What is to be done, as a verb with its object.
    pub fn in_words(&self) -> String {
        match self {
            Self::Run(program) | Self::Finish(program) => format!("run {}", program.in_words()),
            Self::Look(path) => format!("look at {path}"),
            Self::Make(path) => format!("make {path}"),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A program ended.
    Ran(Ran),
    /// A program didn't start.
    NotStarted {
        /// The program.
        program: String,
        /// Why not.
        why: String,
    },
    /// A directory, as it is now.
    Place(Place),
    /// The directory couldn't be looked at or made.
    NoPlace {
        /// What was tried, as a verb.
        action: String,
        /// The directory.
        path: String,
        /// Why not.
        why: String,
    },
}

/// Does work outside of the sandbox, one piece at a time.
#[async_trait]
pub trait Outside: Send + Sync + Debug {
    /// Does it, and kills it after `limit`.
    async fn perform(&self, errand: &Errand, limit: Duration) -> Result<Answer, OutsideError>;
}

impl dyn Outside {
    /// Runs a program.
    pub async fn run(&self, program: Program, limit: Duration) -> Result<Ran, OutsideError> {
        self.ran(&Errand::Run(program), limit).await
    }

    /// Runs a program that must not be cut short, after an earlier one.
    pub async fn finish(&self, program: Program, limit: Duration) -> Result<Ran, OutsideError> {
        self.ran(&Errand::Finish(program), limit).await
    }

    async fn ran(&self, errand: &Errand, limit: Duration) -> Result<Ran, OutsideError> {
        match self.perform(errand, limit).await? {
            Answer::Ran(ran) => Ok(ran),
            other => Err(other.into_error(errand)),
        }
    }

    /// Looks at a directory.
    pub async fn look(&self, path: &str, limit: Duration) -> Result<Place, OutsideError> {
        self.place(&Errand::Look(path.to_owned()), limit).await
    }

    /// Makes a directory.
    pub async fn make(&self, path: &str, limit: Duration) -> Result<Place, OutsideError> {
        self.place(&Errand::Make(path.to_owned()), limit).await
    }

    async fn place(&self, errand: &Errand, limit: Duration) -> Result<Place, OutsideError> {
        match self.perform(errand, limit).await? {
            Answer::Place(place) => Ok(place),
            other => Err(other.into_error(errand)),
        }
    }
}

impl Answer {
    /// An answer that is none to what was asked.
    fn into_error(self, errand: &Errand) -> OutsideError {
        match self {
            Self::NotStarted { program, why } => OutsideError::NotStarted { program, why },
            Self::NoPlace { action, path, why } => OutsideError::Place { action, path, why },
            _ => OutsideError::NoAnswer {
                doing: errand.in_words(),
            },
        }
    }
}
