//! The controller's program: reads the configuration, starts the controller, tells systemd, and waits for a signal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use canasta_controller::config::Config;
use canasta_controller::controller::{Controller, ControllerOptions, RunningController};
use canasta_controller::{logging, paths};
use clap::Parser;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, interval};

/// How often systemd is told how the fleet stands, when it keeps no watchdog.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The daemon that knows the fleet. Run by systemd; people use `canasta`.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  canasta-controller --config /etc/canasta/controller.toml"
)]
struct Arguments {
    /// The configuration; every key has a default, and so has the file.
    #[arg(long, value_name = "FILE", default_value = paths::CONFIG)]
    config: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", logging::line(&*error));
            tell(&NotifyState::Status(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(&arguments.config)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let controller = Controller::start(ControllerOptions::bind(config)?).await?;
    tell(&NotifyState::Ready);
    let mut alive = alive();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = alive.tick() => report(&controller).await,
        }
    }
    tell(&NotifyState::Stopping);
    tracing::info!("stopping");
    controller.shutdown().await;
    Ok(())
}

/// Twice in the time that the watchdog of systemd allows.
fn alive() -> Interval {
    interval(sd_notify::watchdog_enabled().map_or(STATUS_EVERY, |limit| limit / 2))
}

/// Tells systemd that the controller is alive and how the fleet stands.
async fn report(controller: &RunningController) {
    controller.pulse().await;
    let (hosts, connected) = controller.fleet().count();
    let status = format!(
        "serving on {}; {connected} of {hosts} hosts connected",
        controller.address()
    );
    tell(&NotifyState::Status(&status));
    tell(&NotifyState::Watchdog);
}

fn tell(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::debug!(%error, "failed to tell systemd");
    }
}
