//! The step model and its runner.
//!
//! The controller runs an operation as a list of steps; the agent runs a task as one step. Both give the runner a
//! [`Journal`] that stores each change of state before anyone hears of it. A step may be run again at any time, after a
//! crash or by a second command, so every step looks at what is really there and does only what is missing.

mod error;
mod journal;
mod plan;
mod probe;
mod reporter;
mod runner;

pub use error::StepError;
pub use journal::Journal;
pub use journal::JournalError;
pub use journal::StepEvent;
pub use plan::Done;
pub use plan::Plan;
pub use plan::PlanError;
pub use plan::Step;
pub use plan::StepInfo;
pub use probe::NoProbe;
pub use probe::Probe;
pub use reporter::Reporter;
pub use runner::End;
pub use runner::Resume;
pub use runner::Runner;
