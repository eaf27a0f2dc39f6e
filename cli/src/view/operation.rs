//! Operations and their events as they are printed.

use canasta_proto::pb;
use jiff::Timestamp;
use serde::Serialize;

use super::host::known;
use super::{age, span, time, word};
use crate::output;

/// `canasta operation list`.
#[derive(Debug, Serialize)]
pub(crate) struct OperationList {
    operations: Vec<Operation>,
}

/// `canasta operation show`.
#[derive(Debug, Serialize)]
pub(crate) struct OperationShown {
    operation: Operation,
}

#[derive(Debug, Serialize)]
struct Operation {
    id: String,
    kind: String,
    title: String,
    state: String,
    started_by: String,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    hosts: Vec<String>,
    steps: Vec<Step>,
    error: Option<Report>,
}

#[derive(Debug, Serialize)]
struct Step {
    id: String,
    title: String,
    host: Option<String>,
    state: String,
    outcome: Option<String>,
    detail: Option<String>,
    attempts: u32,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    error: Option<Report>,
}

/// An error as programs read it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    reason: String,
    message: String,
    causes: Vec<String>,
    subject: Option<String>,
    hint: Option<String>,
    evidence: Vec<Evidence>,
}

#[derive(Debug, Serialize)]
struct Evidence {
    title: String,
    source: String,
    at: Option<Timestamp>,
    lines: Vec<String>,
}

impl From<pb::ErrorReport> for Report {
    fn from(report: pb::ErrorReport) -> Self {
        Self {
            reason: report.reason,
            message: report.message,
            causes: report.causes,
            subject: known(report.subject),
            hint: known(report.hint),
            evidence: report
                .evidence
                .into_iter()
                .map(|evidence| Evidence {
                    title: evidence.title,
                    source: evidence.source,
                    at: time(evidence.at),
                    lines: evidence.lines,
                })
                .collect(),
        }
    }
}

/// How a step ended, as a word.
pub(crate) fn outcome_word(outcome: pb::StepOutcome) -> String {
    word(outcome.as_str_name(), "STEP_OUTCOME_")
}

impl From<pb::Step> for Step {
    fn from(step: pb::Step) -> Self {
        Self {
            state: word(step.state().as_str_name(), "STEP_STATE_"),
            outcome: (step.state() == pb::StepState::Finished)
                .then(|| outcome_word(step.outcome())),
            id: step.id,
            title: step.title,
            host: known(step.host),
            detail: known(step.detail),
            attempts: step.attempts,
            started_at: time(step.started_at),
            ended_at: time(step.ended_at),
            error: step.error.map(Into::into),
        }
    }
}

impl From<pb::Operation> for Operation {
    fn from(operation: pb::Operation) -> Self {
        Self {
            state: word(operation.state().as_str_name(), "OPERATION_STATE_"),
            id: operation.id,
            kind: operation.kind,
            title: operation.title,
            started_by: operation.started_by,
            started_at: time(operation.started_at),
            ended_at: time(operation.ended_at),
            hosts: operation.hosts,
            steps: operation.steps.into_iter().map(Into::into).collect(),
            error: operation.error.map(Into::into),
        }
    }
}

impl OperationList {
    pub(crate) fn new(operations: Vec<pb::Operation>) -> Self {
        Self {
            operations: operations.into_iter().map(Into::into).collect(),
        }
    }

    pub(crate) fn table(&self) -> String {
        if self.operations.is_empty() {
            return "no operations yet\n".to_owned();
        }
        output::table(
            ["ID", "STARTED", "STATE", "WHAT", "BY"],
            self.operations.iter().map(|operation| {
                [
                    operation.id.clone(),
                    format!("{} ago", age(operation.started_at)),
                    operation.state.clone(),
                    operation.title.clone(),
                    operation.started_by.clone(),
                ]
            }),
        )
    }
}

impl OperationShown {
    pub(crate) fn new(operation: pb::Operation) -> Self {
        Self {
            operation: operation.into(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let operation = &self.operation;
        let took = match (operation.started_at, operation.ended_at) {
            (Some(from), Some(to)) => span(to.duration_since(from)),
            _ => String::new(),
        };
        let mut text = output::facts([
            ("id", operation.id.clone()),
            ("what", operation.title.clone()),
            ("state", operation.state.clone()),
            (
                "started",
                format!(
                    "{} ago by {}",
                    age(operation.started_at),
                    operation.started_by
                ),
            ),
            ("took", took),
        ]);
        text.push('\n');
        text.push_str(&output::table(
            ["STEP", "HOST", "STATE", "DETAIL"],
            operation.steps.iter().map(|step| {
                [
                    step.title.clone(),
                    step.host.clone().unwrap_or_else(|| "-".to_owned()),
                    step.outcome.clone().unwrap_or_else(|| step.state.clone()),
                    step.detail.clone().unwrap_or_default(),
                ]
            }),
        ));
        if let Some(error) = &operation.error {
            text.push_str(&error.text());
        }
        text
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("\nerror: {}\n", self.message);
        for cause in &self.causes {
            text.push_str(&format!("  Caused by: {cause}\n"));
        }
        for evidence in &self.evidence {
            text.push_str(&format!("\n{} ({})\n", evidence.title, evidence.source));
            for line in &evidence.lines {
                text.push_str(&format!("  {line}\n"));
            }
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\nhint: {hint}\n"));
        }
        text
    }
}

/// One event as a JSON line.
#[derive(Debug, Serialize)]
pub(crate) struct EventLine {
    operation_id: String,
    seq: u64,
    at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(flatten)]
    event: Event,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Planned {
        title: String,
        steps: Vec<Step>,
    },
    Started {
        attempt: u32,
    },
    Progress {
        done: u64,
        total: u64,
        unit: String,
        message: String,
    },
    Retrying {
        error: Option<Report>,
        delay_ms: u64,
    },
    Finished {
        outcome: String,
        detail: String,
    },
    Failed {
        error: Option<Report>,
    },
    Ended {
        state: String,
        error: Option<Report>,
    },
    /// An event that this version does not know.
    Unknown,
}

impl From<pb::OperationEvent> for EventLine {
    fn from(event: pb::OperationEvent) -> Self {
        use pb::operation_event::Event as Wire;
        Self {
            operation_id: event.operation_id,
            seq: event.seq,
            at: time(event.at),
            step: known(event.step_id),
            event: match event.event {
                None => Event::Unknown,
                Some(Wire::Planned(planned)) => Event::Planned {
                    title: planned.title,
                    steps: planned.steps.into_iter().map(Into::into).collect(),
                },
                Some(Wire::Started(started)) => Event::Started {
                    attempt: started.attempt,
                },
                Some(Wire::Progress(progress)) => Event::Progress {
                    done: progress.done,
                    total: progress.total,
                    unit: progress.unit,
                    message: progress.message,
                },
                Some(Wire::Retrying(retrying)) => Event::Retrying {
                    error: retrying.error.map(Into::into),
                    delay_ms: retrying.delay_ms,
                },
                Some(Wire::Finished(finished)) => Event::Finished {
                    outcome: outcome_word(finished.outcome()),
                    detail: finished.detail,
                },
                Some(Wire::Failed(failed)) => Event::Failed {
                    error: failed.error.map(Into::into),
                },
                Some(Wire::Ended(ended)) => Event::Ended {
                    state: word(ended.state().as_str_name(), "OPERATION_STATE_"),
                    error: ended.error.map(Into::into),
                },
            },
        }
    }
}
