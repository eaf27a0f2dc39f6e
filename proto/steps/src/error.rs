//! Why a step failed, as an operator reads it. Made by the steps of both daemons.

use std::error::Error;
use std::fmt;

use canasta_proto::pb::{ErrorReport, Evidence};

/// Why a step failed: a report with a stable reason, a hint and the evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct StepError {
    report: Box<ErrorReport>,
}

impl StepError {
    /// An error with a stable reason (`PORT_TAKEN`) and a message: lower case, no full stop, naming what it is about.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            report: Box::new(ErrorReport {
                reason: reason.to_owned(),
                message: message.into(),
                ..ErrorReport::default()
            }),
        }
    }

    /// An error whose message and causes are those of `source`, printed once from the outside in.
    pub fn from_source(reason: &str, source: &dyn Error) -> Self {
        let mut error = Self::new(reason, source.to_string());
        let mut cause = source.source();
        while let Some(inner) = cause {
            error.report.causes.push(inner.to_string());
            cause = inner.source();
        }
        error
    }

    /// What it is about: a host, a path, an address, a unit.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.report.subject = subject.into();
        self
    }

    /// What to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.report.hint = hint.into();
        self
    }

    /// Adds a cause behind the ones that are there.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.report.causes.push(cause.into());
        self
    }

    /// Adds what was seen when it failed.
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.report.evidence.push(evidence);
        self
    }

    /// The stable reason.
    pub fn reason(&self) -> &str {
        &self.report.reason
    }

    /// The report as it goes over the wire and into the journal.
    pub fn report(&self) -> &ErrorReport {
        &self.report
    }
}

impl From<ErrorReport> for StepError {
    fn from(report: ErrorReport) -> Self {
        Self {
            report: Box::new(report),
        }
    }
}

impl From<StepError> for ErrorReport {
    fn from(error: StepError) -> Self {
        *error.report
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.report.message)
    }
}

impl Error for StepError {}
