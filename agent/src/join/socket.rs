//! The socket on which root asks the service: `/run/canasta-agent/join.sock`, 0600, and the caller's user is checked.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::enrol;
use super::message::{Answer, Ask, Failure, JoinRequest, Status};
use crate::agent::{Core, State};
use crate::paths::Paths;

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 16 * 1024;
/// How long a caller may take to ask.
const ASKING: Duration = Duration::from_secs(5);
/// Callers at a time.
const CALLERS: usize = 8;
/// Answers that wait for a slow caller; more progress than that is dropped.
const WAITING: usize = 16;
/// How long to wait when the system can't accept.
const PAUSE: Duration = Duration::from_millis(100);

/// The socket can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Its directory can't be made, or what is left of an earlier one can't be removed.
    #[error(transparent)]
    File(#[from] canasta_durable::Error),
    /// The system refused it.
    #[error("failed to listen on {}", path.display())]
    Bind {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The thread that did the work ended early.
    #[error("failed to open the socket: the agent is shutting down")]
    Interrupted,
}

/// The open socket.
#[derive(Debug)]
pub(crate) struct JoinSocket {
    listener: UnixListener,
}

impl JoinSocket {
    /// Opens the socket, in place of one that an earlier run left.
    pub(crate) async fn open(paths: &Paths) -> Result<Self, SocketError> {
        let (directory, path) = (paths.run.clone(), paths.join_socket.clone());
        let listener = tokio::task::spawn_blocking(move || {
            canasta_durable::create_dir_all(&directory, 0o700)?;
            canasta_durable::remove(&path)?;
            bind(&path).map_err(|source| SocketError::Bind { path, source })
        })
        .await
        .map_err(|_| SocketError::Interrupted)??;
        let path = paths.join_socket.clone();
        let listener = UnixListener::from_std(listener)
            .map_err(|source| SocketError::Bind { path, source })?;
        Ok(Self { listener })
    }

    /// Takes callers until the agent stops.
    pub(crate) async fn serve(self, core: Arc<Core>) {
        let places = Arc::new(Semaphore::new(CALLERS));
        let life = core.life.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = life.stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        continue;
                    };
                    let core = Arc::clone(&core);
                    life.spawn(async move {
                        if let Err(error) = answer(stream, core).await {
                            tracing::debug!(%error, "a caller of the join socket went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a caller of the join socket");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

fn bind(path: &std::path::Path) -> io::Result<std::os::unix::net::UnixListener> {
    // The directory is 0700, so nobody gets in before the mode is set.
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn answer(stream: UnixStream, core: Arc<Core>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (reader, mut writer) = stream.into_split();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        tracing::warn!(uid, "refused a caller of the join socket");
        let refused = failure(
            "NOT_ROOT",
            "only root may ask the agent of this node",
            "run the command with sudo",
        );
        return write(&mut writer, &refused).await;
    }
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_LINE));
    let read = tokio::time::timeout(ASKING, reader.read_line(&mut line)).await;
    match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
        Ok(0) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    match serde_json::from_str(&line) {
        Ok(Ask::Status) => write(&mut writer, &Answer::Status(status(&core))).await,
        Ok(Ask::Join(request)) => {
            let mut answers = begin(core, request);
            while let Some(answer) = answers.recv().await {
                write(&mut writer, &answer).await?;
            }
            Ok(())
        }
        // The error is not told: it could quote a token.
        Err(_) => {
            let refused = failure(
                "NOT_UNDERSTOOD",
                "the agent did not understand what was asked",
                "the program and the service are of different versions: `systemctl restart canasta-agent`",
            );
            write(&mut writer, &refused).await
        }
    }
}

/// Joins whoever listens: a caller that goes away does not cut it off.
fn begin(core: Arc<Core>, request: JoinRequest) -> mpsc::Receiver<Answer> {
    let (sender, answers) = mpsc::channel(WAITING);
    let life = core.life.clone();
    life.spawn_awaited(async move {
        let progress = |message| {
            tracing::info!("join: {message}");
            // Nobody listens any more, or slowly.
            let _ = sender.try_send(Answer::Progress { message });
        };
        let last = match enrol::join(&core, &request, progress).await {
            Ok(done) => Answer::Done(done),
            Err(error) => {
                tracing::warn!(
                    reason = error.reason(),
                    error = &error as &dyn std::error::Error,
                    "the join did not go well"
                );
                Answer::Error(error.to_failure())
            }
        };
        let _ = sender.send(last).await;
    });
    answers
}

fn status(core: &Core) -> Status {
    let state = core.state();
    let mut status = Status {
        state: state.to_string(),
        version: crate::VERSION.to_owned(),
        joined: false,
        fleet_id: None,
        name: None,
        listening: None,
        certificate_expires_at: core
            .identity
            .material()
            .map(|material| material.facts().not_after.to_string()),
        running_task: core.tasks.running().map(|id| id.to_string()),
    };
    if let State::Joined {
        fleet_id,
        name,
        listening,
    } = state
    {
        status.joined = true;
        status.fleet_id = Some(fleet_id);
        status.name = Some(name);
        status.listening = Some(listening.to_string());
    }
    status
}

fn failure(reason: &str, message: &str, hint: &str) -> Answer {
    Answer::Error(Failure {
        reason: reason.to_owned(),
        message: message.to_owned(),
        causes: Vec::new(),
        hint: hint.to_owned(),
    })
}

async fn write(
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
    answer: &Answer,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
