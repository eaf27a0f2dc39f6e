//! Follows an operation to its end, over every broken connection: live lines on a terminal, plain lines elsewhere, JSON lines
//! or YAML documents for programs. What starts operations calls it, and `operation watch`.

mod bars;
mod lines;

use std::io::IsTerminal as _;
use std::time::Duration;

use canasta_proto::pb::operation_event::Event;
use canasta_proto::pb::operation_service_client::OperationServiceClient;
use canasta_proto::pb::{OperationEnded, OperationEvent, OperationState, WatchOperationRequest};
use futures_util::future::join_all;
use tonic::Code;
use tonic::transport::Channel;

use crate::args::{Format, Global};
use crate::connect::connect;
use crate::error::{self, End, Error};
use crate::output;
use crate::view::operation::EventLine;

/// The first wait before connecting again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The reason that a controller gives which is stopped and goes on with its operations when it is started again.
const STOPPING: &str = "CONTROLLER_STOPPING";

/// Shows what happens in an operation.
trait Show {
    /// One event.
    fn event(&mut self, event: &OperationEvent) -> Result<(), Error>;
    /// Something about the connection and not about the operation.
    fn note(&mut self, text: &str);
}

/// Follows an operation to its end, or until Ctrl-C, which leaves it running.
///
/// # Errors
/// When the operation ended badly, or the controller refuses.
pub(crate) async fn follow(global: &Global, channel: Channel, id: String) -> Result<End, Error> {
    let mut show = renderer(global.output);
    let interrupted = tokio::signal::ctrl_c();
    let ended = tokio::select! {
        ended = watch(global, channel, &id, show.as_mut()) => ended?,
        _ = interrupted => {
            drop(show);
            output::note(&format!("the operation goes on; watch it with `canasta operation watch {id}`, stop it with `canasta operation cancel {id}`"));
            return Ok(End::Detached);
        }
    };
    drop(show);
    verdict(&id, ended)
}

/// An operation among several, and the host that it is about.
#[derive(Debug, Clone)]
pub(crate) struct OfHost {
    /// The host.
    pub(crate) host: String,
    /// The operation.
    pub(crate) operation_id: String,
}

/// Follows operations at the same time until all have ended, or until Ctrl-C, which leaves them running. How each ended is
/// told once all have, in their order.
///
/// # Errors
/// When the output can't be written.
pub(crate) async fn follow_all(
    global: &Global,
    channel: &Channel,
    operations: &[OfHost],
) -> Result<End, Error> {
    let watches = operations.iter().map(|operation| async {
        let OfHost { host, operation_id } = operation;
        let mut show: Box<dyn Show> = match global.output {
            Format::Table => Box::new(lines::Lines::of_host(host)),
            format => Box::new(Events(format)),
        };
        let ended = watch(global, channel.clone(), operation_id, show.as_mut()).await?;
        verdict(operation_id, ended)
    });
    let ended: Vec<Result<End, Error>> = tokio::select! {
        ended = join_all(watches) => ended,
        _ = tokio::signal::ctrl_c() => {
            for OfHost { host, operation_id } in operations {
                output::note(&format!("{host}: the operation goes on; watch it with `canasta operation watch {operation_id}`"));
            }
            return Ok(End::Detached);
        }
    };
    let mut all = End::Done;
    for (operation, ended) in operations.iter().zip(ended) {
        match ended {
            Ok(_) => {}
            Err(error @ Error::Output(_)) => return Err(error),
            Err(error) => {
                error::print(&error.on_host(&operation.host));
                all = End::SomeFailed;
            }
        }
    }
    Ok(all)
}

/// How the operation is shown: by the format, and by what standard error is.
fn renderer(format: Format) -> Box<dyn Show> {
    if format != Format::Table {
        return Box::new(Events(format));
    }
    // A terminal that can't draw (`TERM=dumb`) gets plain lines, too.
    let bars = std::io::stderr().is_terminal().then(bars::Bars::new);
    match bars.flatten() {
        Some(bars) => Box::new(bars),
        None => Box::new(lines::Lines::default()),
    }
}

fn verdict(id: &str, ended: OperationEnded) -> Result<End, Error> {
    match ended.state() {
        OperationState::Succeeded => Ok(End::Done),
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

/// Whether the connection broke or the controller is being restarted, as against a controller that refused.
fn is_lost(error: &Error) -> bool {
    match error {
        Error::Refused(fault) if fault.reason == STOPPING => true,
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

/// Events as data, each for itself.
struct Events(Format);

impl Show for Events {
    fn event(&mut self, event: &OperationEvent) -> Result<(), Error> {
        output::print_event(self.0, &EventLine::from(event.clone()))
    }

    fn note(&mut self, text: &str) {
        output::note(text);
    }
}
