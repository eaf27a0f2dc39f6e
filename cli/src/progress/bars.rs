//! An operation on a terminal: a line a step, with the time it takes and the bytes it has moved.

use std::collections::HashMap;
use std::time::Duration;

use canasta_proto::pb::operation_event::Event;
use canasta_proto::pb::{OperationEvent, OperationState, StepProgress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Show;
use super::lines::{Steps, ending, seconds};
use crate::error::Error;
use crate::output::plain;
use crate::view::size;

/// How often the elapsed time of a running step moves.
const TICK: Duration = Duration::from_millis(200);

/// One line a running step; ended steps stay above as plain lines.
pub(super) struct Bars {
    all: MultiProgress,
    running: HashMap<String, ProgressBar>,
    steps: Steps,
}

impl Bars {
    /// None where standard error can't be drawn on: nothing at all would be shown.
    pub(super) fn new() -> Option<Self> {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        (!all.is_hidden()).then(|| Self {
            all,
            running: HashMap::new(),
            steps: Steps::default(),
        })
    }

    fn print(&self, text: &str) {
        // Fails only when the terminal is gone, and then nobody reads.
        let _ = self.all.println(plain(text));
    }

    fn end(&mut self, event: &OperationEvent, mark: &str, words: &str) {
        if let Some(bar) = self.running.remove(&event.step_id) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        let title = self.steps.title(&event.step_id);
        let took = self.steps.took(event);
        self.print(&format!("{mark} {title}: {words}{took}"));
    }
}

/// `12.0 MiB of 70.0 MiB`, or what the step says.
fn progress_words(progress: &StepProgress) -> String {
    let counts = match (progress.unit.as_str(), progress.total) {
        ("bytes", 0) => size(progress.done),
        ("bytes", total) => format!("{} of {}", size(progress.done), size(total)),
        (_, 0) => String::new(),
        (_, total) => format!("{} of {total}", progress.done),
    };
    match (counts.is_empty(), progress.message.is_empty()) {
        (false, false) => format!("{counts}, {}", progress.message),
        (true, _) => progress.message.clone(),
        (false, true) => counts,
    }
}

impl Show for Bars {
    fn event(&mut self, event: &OperationEvent) -> Result<(), Error> {
        match &event.event {
            Some(Event::Planned(planned)) => {
                self.steps.plan(planned);
                self.steps.start(event);
                self.print(&format!(
                    "operation {}: {}",
                    event.operation_id, planned.title
                ));
            }
            Some(Event::Started(_)) => {
                self.steps.start(event);
                let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {msg}")
                    .expect("the template is fixed");
                let bar = self.all.add(ProgressBar::new_spinner().with_style(style));
                bar.set_prefix(plain(&self.steps.title(&event.step_id)));
                bar.enable_steady_tick(TICK);
                if let Some(before) = self.running.insert(event.step_id.clone(), bar) {
                    before.finish_and_clear();
                }
            }
            Some(Event::Progress(progress)) => {
                if let Some(bar) = self.running.get(&event.step_id) {
                    bar.set_message(plain(&progress_words(progress)));
                }
            }
            Some(Event::Retrying(retrying)) => {
                let why = retrying
                    .error
                    .as_ref()
                    .map_or("", |error| error.message.as_str());
                let title = self.steps.title(&event.step_id);
                self.print(&format!(
                    "! {title}: {why}; trying again in {:.1} s",
                    seconds(retrying.delay_ms)
                ));
            }
            Some(Event::Finished(finished)) => {
                let words = ending(finished.outcome(), &finished.detail);
                self.end(event, "✓", &words);
            }
            Some(Event::Failed(_)) => self.end(event, "✗", "FAILED"),
            Some(Event::Ended(ended)) if ended.state() == OperationState::Succeeded => {
                self.print(&format!("done{}", self.steps.took(event)));
            }
            // How others ended is told as an error.
            Some(Event::Ended(_)) | None => {}
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.print(text);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.running.values() {
            bar.finish_and_clear();
        }
    }
}
