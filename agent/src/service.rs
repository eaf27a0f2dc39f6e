//! The agent as a systemd service: readiness, the status line, the watchdog, the log, and the signals that end it.

use std::io::IsTerminal as _;
use std::path::Path;

use canasta_host::Host;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::agent::{Agent, AgentError, AgentOptions, State};
use crate::config::{Config, ConfigError, LogLevel};

/// The service can't run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Its settings can't be used.
    #[error("failed to read the settings")]
    Config(#[from] ConfigError),
    /// It can't wait for signals.
    #[error("failed to wait for signals")]
    Signals(#[source] std::io::Error),
    /// The agent can't start.
    #[error("failed to start the agent")]
    Agent(#[from] AgentError),
}

impl ServiceError {
    /// What to do next; may be empty.
    pub fn hint(&self) -> String {
        match self {
            Self::Agent(AgentError::Listen(error)) => error.hint(),
            Self::Config(_) => "mend the line, or remove it: every key has a default".to_owned(),
            _ => String::new(),
        }
    }
}

/// Runs the agent on this machine until SIGTERM or SIGINT.
///
/// # Errors
/// When it can't start.
pub async fn run() -> Result<(), ServiceError> {
    let config = Config::load(Path::new(crate::paths::CONFIG))?;
    log_to_journal_or_stderr(config.log_level);
    let mut terminate = signal(SignalKind::terminate()).map_err(ServiceError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServiceError::Signals)?;
    let options = AgentOptions {
        config,
        ..AgentOptions::new(Host::real())
    };
    let (state, seen) = watch::channel(State::Starting);
    let telling = tokio::spawn(tell_systemd(seen));
    let watchdog = tokio::spawn(ping_watchdog());
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    };
    let ended = Agent::run(options, state, stop).await;
    telling.abort();
    watchdog.abort();
    Ok(ended?)
}

/// Says READY with the first state and keeps the status line current.
async fn tell_systemd(mut state: watch::Receiver<State>) {
    let mut ready = false;
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().to_string();
        if std::mem::replace(&mut ready, true) {
            notify(&[NotifyState::Status(&now)]);
        } else {
            notify(&[NotifyState::Ready, NotifyState::Status(&now)]);
        }
    }
}

/// Pings from the runtime that does the work, so that a runtime that hangs is noticed.
async fn ping_watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Logs to the journal with its fields when systemd started this, else to stderr.
fn log_to_journal_or_stderr(level: LogLevel) {
    let filter = || {
        let own = [
            "canasta_agent",
            "canasta_host",
            "canasta_steps",
            "canasta_transport",
        ];
        Targets::new()
            .with_default(LevelFilter::WARN)
            .with_targets(own.map(|name| (name, level.filter())))
    };
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(filter())
    });
    let journal = journal.map(|journal| {
        journal
            .with_syslog_identifier("canasta-agent".to_owned())
            .with_filter(filter())
    });
    tracing_subscriber::registry()
        .with(journal)
        .with(stderr)
        .init();
}
