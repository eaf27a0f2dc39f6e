//! The other end of the socket: `canasta-agent join`, `canasta-agent status`, and tests.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::message::{Answer, Ask};

/// The service can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It does not run.
    #[error("the agent does not run on this node: nothing answers on {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The caller may not ask.
    #[error("failed to open {}: only root may ask the agent", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The socket can't be opened, or the connection broke.
    #[error("failed to ask the agent over {}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The service went away before its last answer.
    #[error("the agent went away before it had answered")]
    Cut,
}

impl ClientError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotRunning { .. } => "start it: `systemctl start canasta-agent`",
            Self::NotAllowed { .. } => "run the command with sudo",
            Self::Broken { .. } | Self::Cut => {
                "look at `journalctl -u canasta-agent`, then repeat the command: the same token on this node is answered again"
            }
        }
    }
}

/// Asks the service behind this socket. `on_answer` hears every answer but the last, which is returned.
///
/// # Errors
/// When the service can't be asked or goes away.
pub async fn ask(
    path: &Path,
    ask: &Ask,
    mut on_answer: impl FnMut(&Answer),
) -> Result<Answer, ClientError> {
    let broken = |source| ClientError::Broken {
        path: path.to_path_buf(),
        source,
    };
    let stream = UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path, source }
            }
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path, source },
            _ => ClientError::Broken { path, source },
        }
    })?;
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(ask)
        .map_err(io::Error::other)
        .map_err(broken)?;
    line.push(b'\n');
    writer.write_all(&line).await.map_err(broken)?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await.map_err(broken)? {
        let answer: Answer = serde_json::from_str(&line)
            .map_err(io::Error::other)
            .map_err(broken)?;
        match answer {
            Answer::Progress { .. } => on_answer(&answer),
            last => return Ok(last),
        }
    }
    Err(ClientError::Cut)
}
