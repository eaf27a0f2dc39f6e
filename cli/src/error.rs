//! Every way in which a command can end: what is printed of an error, and the exit code, which is chosen here alone.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use canasta_proto::pb::ErrorReport;
use canasta_transport::status::Fault;
use tonic::Code;

use crate::output::plain;

/// How a command ended that met no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All was done.
    Done,
    /// A plan was shown, and something stands in its way.
    Blocked,
    /// Of several things some were refused or failed, and each has been told.
    SomeFailed,
    /// Ctrl-C: the command was left, and the operation goes on.
    Detached,
}

impl End {
    /// The exit code.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Blocked | Self::SomeFailed => 1,
            // What a shell gives for a program that Ctrl-C ended: nobody takes it for the end of the operation.
            Self::Detached => 130,
        })
    }
}

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Something was typed that can't be meant.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// The right form.
        hint: String,
    },
    /// The controller refused.
    #[error("{}", .0.message)]
    Refused(Box<Fault>),
    /// The controller can't be reached.
    #[error("{message}")]
    Unreachable {
        /// What was tried, with the address.
        message: String,
        /// Causes, nearest first.
        causes: Vec<String>,
        /// What to do.
        hint: String,
    },
    /// This user may not do it.
    #[error("{message}")]
    NotAllowed {
        /// What was not allowed.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The operation ended badly.
    #[error("{}", .0.message)]
    Failed(Box<ErrorReport>),
    /// Something else did not work on this machine.
    #[error("{message}")]
    Local {
        /// What.
        message: String,
        /// What to do.
        hint: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A file of this machine could not be read or written.
    #[error("failed to access {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program could not start.
    #[error("failed to start")]
    Runtime(#[source] io::Error),
    /// The reader of the output has gone away.
    #[error("failed to write the output")]
    Output(#[source] io::Error),
}

impl Error {
    /// Wrong usage with the right form.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Something on this machine did not work.
    pub(crate) fn local(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Local {
            message: message.into(),
            hint: hint.into(),
            source: None,
        }
    }

    /// The same error with the host in front, where there are several.
    pub(crate) fn on_host(mut self, host: &str) -> Self {
        let told = match &mut self {
            Self::Usage { message, .. }
            | Self::Unreachable { message, .. }
            | Self::NotAllowed { message, .. }
            | Self::Local { message, .. } => message,
            Self::Refused(fault) => &mut fault.message,
            Self::Failed(report) => &mut report.message,
            Self::File { .. } | Self::Runtime(_) | Self::Output(_) => return self,
        };
        *told = format!("{host}: {told}");
        self
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let code = match self {
            Self::Usage { .. } => 2,
            Self::Refused(fault) => match fault.code {
                // A host that was left out and can't be guessed is wrong usage, too.
                Code::InvalidArgument => 2,
                Code::Unavailable | Code::DeadlineExceeded if fault.reason.is_empty() => 3,
                Code::PermissionDenied | Code::Unauthenticated => 4,
                _ => 1,
            },
            Self::Unreachable { .. } => 3,
            Self::NotAllowed { .. } => 4,
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Failed(_)
            | Self::Local { .. }
            | Self::File { .. }
            | Self::Runtime(_)
            | Self::Output(_) => 1,
        };
        ExitCode::from(code)
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<&str> {
        let hint = match self {
            Self::Usage { hint, .. }
            | Self::Unreachable { hint, .. }
            | Self::NotAllowed { hint, .. }
            | Self::Local { hint, .. } => hint.as_str(),
            Self::Refused(fault) => &fault.hint,
            Self::Failed(report) => &report.hint,
            Self::File { .. } | Self::Runtime(_) | Self::Output(_) => "",
        };
        Some(hint).filter(|hint| !hint.is_empty())
    }

    fn causes(&self) -> Vec<String> {
        match self {
            Self::Refused(fault) => fault.causes.clone(),
            Self::Failed(report) => report.causes.clone(),
            Self::Unreachable { causes, .. } => causes.clone(),
            _ => {
                let mut causes = Vec::new();
                let mut source = std::error::Error::source(self);
                while let Some(cause) = source {
                    causes.push(cause.to_string());
                    source = cause.source();
                }
                causes
            }
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let mut fault = Fault::from_status(&status);
        // The controller sends a reason with each refusal. Without one the library made the status: the connection broke.
        if status.details().is_empty() {
            fault.reason.clear();
        }
        Self::Refused(Box::new(fault))
    }
}

/// Prints an error once: what, why, what next, and the evidence where there is some.
pub(crate) fn print(error: &Error) {
    if matches!(error, Error::Output(source) if source.kind() == io::ErrorKind::BrokenPipe) {
        return;
    }
    let bold = anstyle::Style::new().bold();
    let red = bold.fg_color(Some(anstyle::AnsiColor::Red.into()));
    anstream::eprintln!("{red}error:{red:#} {}", plain(&error.to_string()));
    for cause in error.causes() {
        anstream::eprintln!("  Caused by: {}", plain(&cause));
    }
    if let Error::Failed(report) = error {
        for evidence in &report.evidence {
            let (title, source) = (plain(&evidence.title), plain(&evidence.source));
            anstream::eprintln!("\n{bold}{title}{bold:#} ({source})");
            for line in &evidence.lines {
                anstream::eprintln!("  {}", plain(line));
            }
        }
    }
    if let Some(hint) = error.hint() {
        anstream::eprintln!("\n{bold}hint:{bold:#} {}", plain(hint));
    }
}

#[cfg(test)]
mod tests {
    use canasta_transport::status::Fault;
    use tonic::{Code, Status};

    use super::Error;

    #[test]
    fn a_broken_connection_is_told_from_a_refusal() {
        let exit = |status: Status| format!("{:?}", Error::from(status).exit_code());
        let code = |code: u8| format!("{:?}", std::process::ExitCode::from(code));
        assert_eq!(exit(Status::unavailable("broken pipe")), code(3));
        let refusal = |code, reason| Status::from(Fault::new(code, reason, "no"));
        assert_eq!(
            exit(refusal(Code::Unavailable, "AGENT_UNREACHABLE")),
            code(1)
        );
        assert_eq!(exit(refusal(Code::Unavailable, "UNAVAILABLE")), code(1));
        assert_eq!(exit(refusal(Code::PermissionDenied, "ROLE")), code(4));
        assert_eq!(
            exit(refusal(Code::InvalidArgument, "INVALID_FIELD")),
            code(2)
        );
    }
}
