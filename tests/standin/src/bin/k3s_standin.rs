//! The program that is installed as `/usr/local/bin/k3s` on machines under test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use canasta_standin::agent::{self, Agent};
use canasta_standin::host::shim;
use canasta_standin::kubelet::HEALTH;
use canasta_standin::log::Log;
use canasta_standin::server::{self, Server, StartError};
use canasta_standin::trailer::{Profile, Trailer};
use canasta_standin::{bootstrap, clock, kubectl};
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "NAME:\n   k3s - a stand-in for k3s, for tests\n\nUSAGE:\n   k3s [global options] command \
    [command options] [arguments...]\n\nCOMMANDS:\n   server         Run management server\n   agent          Run node \
    agent\n   kubectl        Run kubectl (nodes and raw requests)\n   help, h        Shows a list of commands or help for \
    one command\n";

fn main() -> ExitCode {
    if let Some(code) = shim::role() {
        return code;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(command()),
        Err(error) => fatal(&error.to_string()),
    }
}

async fn command() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    let called = Path::new(arguments.first().map_or("k3s", String::as_str))
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    arguments.drain(..arguments.len().min(1));
    if let Some(link @ ("kubectl" | "crictl" | "ctr")) = called.as_deref() {
        arguments.insert(0, link.to_owned());
    }
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest.to_vec()),
        None => ("help", Vec::new()),
    };
    match command {
        "server" | "agent" => match own_trailer() {
            Ok(trailer) if command == "server" => serve(trailer, rest).await,
            Ok(trailer) => join(trailer, rest).await,
            Err(error) => fatal(&error.to_string()),
        },
        "kubectl" => show(&kubectl::run(&kubeconfig(), &rest).await),
        "token" if own_trailer().is_ok_and(|own| own.profile == Profile::Documented) => {
            show(&bootstrap::command::run(&kubeconfig(), &rest).await)
        }
        "--version" | "-v" => {
            let version = own_trailer().unwrap_or_default().version;
            print(&format!(
                "k3s version {version} (standin)\ngo version none: stand-in for k3s, not a real release\n"
            ));
            ExitCode::SUCCESS
        }
        "help" | "h" | "--help" | "-h" => {
            print(HELP);
            ExitCode::SUCCESS
        }
        "crictl" | "ctr" | "check-config" | "etcd-snapshot" => {
            complain(&format!(
                "k3s {command}: this is a stand-in for k3s and runs no containers\n"
            ));
            ExitCode::FAILURE
        }
        other => {
            complain(&format!("No help topic for '{other}'\n"));
            ExitCode::from(3)
        }
    }
}

// Tests of the program itself keep it below a directory of theirs.
fn root() -> PathBuf {
    std::env::var_os("STANDIN_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

// Below a directory of a test's own the machine is left alone.
fn works_on_the_node() -> bool {
    std::env::var_os("STANDIN_ROOT").is_none()
}

fn kubeconfig() -> PathBuf {
    let configured = std::env::var("KUBECONFIG")
        .ok()
        .filter(|path| !path.is_empty());
    configured.map_or_else(|| root().join("etc/rancher/k3s/k3s.yaml"), PathBuf::from)
}

fn show(output: &kubectl::Output) -> ExitCode {
    print(&output.stdout);
    complain(&output.stderr);
    ExitCode::from(output.code)
}

fn own_trailer() -> std::io::Result<Trailer> {
    Trailer::read(&std::env::current_exe()?)?.overridden(&root())
}

async fn serve(trailer: Trailer, arguments: Vec<String>) -> ExitCode {
    let mut options = server::Options::new(root());
    options.kubelet_health = Some(HEALTH);
    options.kernel = works_on_the_node();
    options.version = trailer.version;
    options.profile = trailer.profile;
    options.scale = trailer.scale.unwrap_or(clock::DEFAULT_SCALE);
    options.faults = trailer.faults;
    options.on_ready_notify = Arc::new(notify_ready);
    options.arguments = arguments;
    options.log = Log::stderr();
    let ended = run_server(options).await;
    match ended {
        Ok(exit) | Err(StartError::Exit(exit)) => {
            fatal(&exit.message);
            ExitCode::from(exit.code)
        }
        Err(error) => fatal(&error.to_string()),
    }
}

async fn run_server(options: server::Options) -> Result<server::Exit, StartError> {
    let canceled = server::Exit {
        code: 1,
        message: "context canceled".into(),
    };
    let mut running = tokio::select! {
        started = Server::start(options) => started?,
        () = terminated() => return Ok(canceled),
    };
    tokio::select! {
        exit = running.exited() => return Ok(exit),
        () = terminated() => {}
    }
    running.shutdown().await;
    Ok(canceled)
}

async fn join(trailer: Trailer, arguments: Vec<String>) -> ExitCode {
    let mut options = agent::Options::new(root());
    options.balancer_port = 6444;
    options.kubelet_health = Some(HEALTH);
    options.kernel = works_on_the_node();
    options.version = trailer.version;
    options.profile = trailer.profile;
    options.scale = trailer.scale.unwrap_or(clock::DEFAULT_SCALE);
    options.faults = trailer.faults;
    options.on_ready_notify = Arc::new(notify_ready);
    options.arguments = arguments;
    options.log = Log::stderr();
    match Agent::start(options).await {
        Ok(running) => {
            terminated().await;
            running.shutdown().await;
            fatal("flannel exited: <nil>")
        }
        Err(error) => fatal(&error.to_string()),
    }
}

fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        Log::stderr().error(format!("failed to notify systemd: {error}"));
    }
}

async fn terminated() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn fatal(message: &str) -> ExitCode {
    Log::stderr().fatal(message);
    ExitCode::FAILURE
}

fn print(text: &str) {
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    // As above.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
