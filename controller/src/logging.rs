//! The log: journald under systemd, stderr otherwise. And errors in one line, for logs and states.

use std::io::IsTerminal as _;

use canasta_transport::status::chain;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to log. `RUST_LOG` chooses what; without it, all from INFO on.
pub fn start() {
    let chosen = std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok());
    let filter = chosen.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd tells so when stderr goes to the journal; then fields are kept apart.
    let journald = std::env::var_os("JOURNAL_STREAM")
        .and_then(|_| tracing_journald::layer().ok())
        .map(|layer| layer.with_syslog_identifier("canasta-controller".to_owned()));
    match journald {
        Some(layer) => registry.with(layer).init(),
        None => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(std::io::stderr().is_terminal()),
            )
            .init(),
    }
}

/// An error with its causes in one line.
pub fn line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    for cause in chain(error) {
        line.push_str(": ");
        line.push_str(&cause);
    }
    line
}
