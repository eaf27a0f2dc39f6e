//! An operation as plain lines, for logs and pipes: a line when a step begins, one when it ends, and what it tries again.
//! Where several are followed at the same time, each line begins with the host that the operation is about.

use std::collections::HashMap;

use canasta_proto::pb::operation_event::Event;
use canasta_proto::pb::{OperationEvent, OperationPlanned, OperationState, StepOutcome};
use jiff::Timestamp;

use super::Show;
use crate::error::Error;
use crate::output;
use crate::view::operation::outcome_word;
use crate::view::{span, time};

/// What is known of the steps so far.
#[derive(Default)]
pub(super) struct Lines {
    /// `w1: `; empty where one operation is followed alone.
    prefix: String,
    steps: Steps,
}

impl Lines {
    /// Lines of one operation among several.
    pub(super) fn of_host(host: &str) -> Self {
        Self {
            prefix: format!("{host}: "),
            steps: Steps {
                told_host: host.to_owned(),
                ..Steps::default()
            },
        }
    }

    fn print(&self, text: &str) {
        output::note(&format!("{}{text}", self.prefix));
    }
}

/// Titles and times of the steps; both renderers need them.
#[derive(Default)]
pub(super) struct Steps {
    /// The host that is told anyway and needs no place in a title.
    told_host: String,
    titles: HashMap<String, String>,
    started: HashMap<String, Timestamp>,
}

impl Steps {
    /// Takes the plan.
    pub(super) fn plan(&mut self, planned: &OperationPlanned) {
        for step in &planned.steps {
            let title = if step.host.is_empty() || step.host == self.told_host {
                step.title.clone()
            } else {
                format!("{}: {}", step.host, step.title)
            };
            self.titles.insert(step.id.clone(), title);
        }
    }

    /// The title of a step, with its host.
    pub(super) fn title(&self, id: &str) -> String {
        self.titles
            .get(id)
            .cloned()
            .unwrap_or_else(|| id.to_owned())
    }

    /// Remembers when a step began, or with its plan the operation.
    pub(super) fn start(&mut self, event: &OperationEvent) {
        if let Some(at) = time(event.at) {
            self.started.insert(event.step_id.clone(), at);
        }
    }

    /// How long the step of this event has taken, or at its end the operation, ` (3 s)`.
    pub(super) fn took(&self, event: &OperationEvent) -> String {
        match (self.started.get(&event.step_id), time(event.at)) {
            (Some(from), Some(to)) => format!(" ({})", span(to.duration_since(*from))),
            _ => String::new(),
        }
    }
}

/// `changed: 3 files`: how a step ended, in words.
pub(super) fn ending(outcome: StepOutcome, detail: &str) -> String {
    let word = outcome_word(outcome);
    if detail.is_empty() {
        word
    } else {
        format!("{word}: {detail}")
    }
}

impl Show for Lines {
    fn event(&mut self, event: &OperationEvent) -> Result<(), Error> {
        let title = self.steps.title(&event.step_id);
        match &event.event {
            Some(Event::Planned(planned)) => {
                self.steps.plan(planned);
                self.steps.start(event);
                self.print(&format!(
                    "operation {}: {}",
                    event.operation_id, planned.title
                ));
            }
            Some(Event::Started(started)) => {
                self.steps.start(event);
                let again = if started.attempt > 1 {
                    format!(" (attempt {})", started.attempt)
                } else {
                    String::new()
                };
                self.print(&format!("{title} …{again}"));
            }
            Some(Event::Retrying(retrying)) => {
                let why = retrying
                    .error
                    .as_ref()
                    .map_or("", |error| error.message.as_str());
                self.print(&format!(
                    "{title}: {why}; trying again in {:.1} s",
                    seconds(retrying.delay_ms)
                ));
            }
            Some(Event::Finished(finished)) => {
                let took = self.steps.took(event);
                self.print(&format!(
                    "{title}: {}{took}",
                    ending(finished.outcome(), &finished.detail)
                ));
            }
            Some(Event::Failed(_)) => {
                self.print(&format!("{title}: FAILED{}", self.steps.took(event)));
            }
            Some(Event::Ended(ended)) if ended.state() == OperationState::Succeeded => {
                self.print(&format!("done{}", self.steps.took(event)));
            }
            // How others ended is told as an error.
            Some(Event::Progress(_) | Event::Ended(_)) | None => {}
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.print(text);
    }
}

/// Milliseconds as seconds, for people.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::Lines;

    #[test]
    fn the_host_of_a_line_is_told_once() {
        let step = |id: &str, host: &str| pb::Step {
            id: id.to_owned(),
            title: "write the token".to_owned(),
            host: host.to_owned(),
            ..pb::Step::default()
        };
        let planned = pb::OperationPlanned {
            title: String::new(),
            steps: vec![step("a", "w1"), step("b", "cp1"), step("c", "")],
        };
        let titles = |mut lines: Lines| {
            lines.steps.plan(&planned);
            let title = |id| format!("{}{}", lines.prefix, lines.steps.title(id));
            ["a", "b", "c"].map(title)
        };
        assert_eq!(
            titles(Lines::of_host("w1")),
            [
                "w1: write the token",
                "w1: cp1: write the token",
                "w1: write the token"
            ]
        );
        assert_eq!(
            titles(Lines::default()),
            [
                "w1: write the token",
                "cp1: write the token",
                "write the token"
            ]
        );
    }
}
