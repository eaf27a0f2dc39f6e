//! Follows an operation to its end, over every broken connection: live lines on a terminal, plain lines elsewhere, JSON lines
//! for programs. `install` and `operation watch` call it.

mod bars;
mod lines;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use canasta_proto::pb::operation_event::Event;
use canasta_proto::pb::operation_service_client::OperationServiceClient;
use canasta_proto::pb::{OperationEnded, OperationEvent, OperationState, WatchOperationRequest};
use tonic::Code;
use tonic::transport::Channel;

use crate::args::{Format, Global};
use crate::connect::connect;
use crate::error::Error;
use crate::output;
use crate::view::operation::EventLine;

/// The first wait before connecting again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What Ctrl-C means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// The command started the operation: say that it goes on.
    Detach,
    /// The command only watched.
    Stop,
}

/// Shows what happens in an operation.
trait Show {
    /// One event.
    fn event(&mut self, event: &OperationEvent) -> Result<(), Error>;
    /// Something about the connection and not about the operation.
    fn note(&mut self, text: &str);
}

/// Follows an operation to its end; the exit code is how it ended.
pub(crate) async fn follow(
    global: &Global,
    channel: Channel,
    id: String,
    on_interrupt: OnInterrupt,
) -> Result<ExitCode, Error> {
    let mut show: Box<dyn Show> = match global.output {
        Format::Json | Format::Yaml => Box::new(JsonLines),
        Format::Table if std::io::stderr().is_terminal() => Box::new(bars::Bars::new()),
        Format::Table => Box::new(lines::Lines::default()),
    };
    let interrupted = tokio::signal::ctrl_c();
    let ended = tokio::select! {
        ended = watch(global, channel, &id, show.as_mut()) => ended?,
        _ = interrupted => {
            drop(show);
            if on_interrupt == OnInterrupt::Detach {
                output::note(&format!("the operation goes on; watch it with `canasta operation watch {id}`, stop it with `canasta operation cancel {id}`"));
            }
            // What a shell gives for a program that Ctrl-C ended.
            return Ok(ExitCode::from(130));
        }
    };
    drop(show);
    verdict(&id, ended)
}

fn verdict(id: &str, ended: OperationEnded) -> Result<ExitCode, Error> {
    match ended.state() {
        OperationState::Succeeded => Ok(ExitCode::SUCCESS),
        OperationState::Cancelled => Err(Error::local(
            "the operation was cancelled",
            "run the command again to go on from what is done",
        )),
        _ => {
            let mut report = ended.error.unwrap_or_default();
            if report.message.is_empty() {
                report.message = "the operation did not end well".to_owned();
            }
            if report.hint.is_empty() {
                report.hint =
                    format!("see `canasta operation show {id}`; running the command again is safe");
            }
            Err(Error::Failed(Box::new(report)))
        }
    }
}

async fn watch(
    global: &Global,
    mut channel: Channel,
    id: &str,
    show: &mut dyn Show,
) -> Result<OperationEnded, Error> {
    let mut after_seq = 0;
    let mut pause = FIRST_PAUSE;
    loop {
        let lost = match watch_once(channel, id, &mut after_seq, &mut pause, show).await {
            Ok(ended) => return Ok(ended),
            Err(error) => error,
        };
        if !is_lost(&lost) {
            return Err(lost);
        }
        if pause == FIRST_PAUSE {
            show.note(
                "the connection to the controller broke; the operation goes on, connecting again",
            );
        }
        channel = loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match connect(global).await {
                Ok(channel) => break channel,
                Err(Error::Unreachable { .. }) => {}
                Err(error) => return Err(error),
            }
        };
    }
}

/// Whether the connection broke, as against a controller that refused.
fn is_lost(error: &Error) -> bool {
    match error {
        Error::Refused(fault) => {
            matches!(
                fault.code,
                Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal
            ) && fault.reason.is_empty()
        }
        _ => false,
    }
}

async fn watch_once(
    channel: Channel,
    id: &str,
    after_seq: &mut u64,
    pause: &mut Duration,
    show: &mut dyn Show,
) -> Result<OperationEnded, Error> {
    let request = WatchOperationRequest {
        id: id.to_owned(),
        after_seq: *after_seq,
    };
    let mut events = OperationServiceClient::new(channel)
        .watch_operation(request)
        .await?
        .into_inner();
    while let Some(answer) = events.message().await? {
        *pause = FIRST_PAUSE;
        let Some(event) = answer.event else { continue };
        *after_seq = event.seq.max(*after_seq);
        show.event(&event)?;
        if let Some(Event::Ended(ended)) = event.event {
            return Ok(ended);
        }
    }
    // The stream ended before the operation did: the controller stops.
    Err(tonic::Status::unavailable("the controller ended the stream").into())
}

/// JSON objects, one a line.
struct JsonLines;

impl Show for JsonLines {
    fn event(&mut self, event: &OperationEvent) -> Result<(), Error> {
        output::print_line(&EventLine::from(event.clone()))
    }

    fn note(&mut self, text: &str) {
        output::note(text);
    }
}
