//! `./dev machines`: a lab of systemd nodes from the command line.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use canasta_machines::{
    Cut, DEFAULT_VERSION, Lab, LabError, Payload, Protocol, Releases, Status, UpOptions, exit_code,
};
use clap::{Args, Parser, Subcommand};

/// Systemd nodes in a network of their own.
///
/// The lab is named by CANASTA_LAB (default `canasta`) and kept below CANASTA_LAB_DIR (default
/// /var/tmp/canasta-lab). Example: canasta-machines up ctl cp1 && canasta-machines exec cp1 -- ip a
#[derive(Debug, Parser)]
#[command(name = "canasta-machines")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot nodes that don't run, and install packages on them.
    Up(Up),
    /// Run a program in a node: `exec cp1 -- systemctl status`.
    Exec {
        /// The node.
        name: String,
        /// The program and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Copy a file into a node.
    Push {
        /// The node.
        name: String,
        /// The file on this machine.
        file: PathBuf,
        /// Its path in the node.
        path: String,
    },
    /// Drop traffic between two nodes; the name `lab` stands for this machine.
    Cut(CutArgs),
    /// Take all cuts back.
    Mend,
    /// Stop a node in order and boot it again.
    Reboot {
        /// The node.
        name: String,
    },
    /// Cut a node's power: everything in it ends at once.
    Kill {
        /// The node.
        name: String,
    },
    /// Boot nodes that were killed or stopped.
    Start {
        /// The nodes.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove everything of this lab.
    Down {
        /// The root file systems that nodes start from, and apt repositories for them, as well.
        #[arg(long)]
        all: bool,
    },
    /// Show what there is.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the path of the lab's network namespace.
    Netns,
    /// Print a node's address.
    Address {
        /// The node.
        name: String,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// The nodes; one called `ctl` gets the controller.
    #[arg(required = true)]
    names: Vec<String>,
    /// Install the newest canasta packages of this directory.
    #[arg(long, value_name = "DIR")]
    packages: Option<PathBuf>,
    /// Serve releases of k3s with this program.
    #[arg(long, value_name = "BIN")]
    release_server: Option<PathBuf>,
    /// What is served in k3s's place.
    #[arg(long, value_name = "BIN", requires = "release_server")]
    standin: Option<PathBuf>,
    /// A real k3s to serve.
    #[arg(
        long,
        value_name = "FILE",
        requires = "release_server",
        conflicts_with = "standin"
    )]
    k3s: Option<PathBuf>,
    /// The version that is served and whose checksum the controller pins.
    #[arg(long, value_name = "VERSION", default_value = DEFAULT_VERSION)]
    k3s_version: String,
}

impl Up {
    fn options(self) -> UpOptions {
        let payload = match (self.standin, self.k3s) {
            (Some(file), _) => Some(Payload::Standin(file)),
            (None, file) => file.map(Payload::K3s),
        };
        let releases = match (self.release_server, payload) {
            (Some(server), Some(payload)) => Some(Releases {
                server,
                payload,
                version: self.k3s_version,
            }),
            _ => None,
        };
        UpOptions {
            packages: self.packages,
            releases,
        }
    }
}

#[derive(Debug, Args)]
struct CutArgs {
    /// One node.
    from: String,
    /// The other node.
    to: String,
    /// Only this protocol.
    #[arg(long = "proto", value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Only packets to this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only from the first node to the second.
    #[arg(long)]
    one_way: bool,
    /// Only IP packets of at least so many bytes.
    #[arg(long, value_name = "BYTES")]
    min_size: Option<u16>,
    /// Only so many of a hundred packets, by chance.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<u8>,
}

impl From<CutArgs> for Cut {
    fn from(args: CutArgs) -> Self {
        Self {
            from: args.from,
            to: args.to,
            protocol: args.protocol,
            port: args.port,
            one_way: args.one_way,
            min_size: args.min_size,
            loss: args.loss,
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let mut text = format!("error: {error}\n");
            let mut cause = error.source();
            while let Some(error) = cause {
                let _ = writeln!(text, "  caused by: {error}");
                cause = error.source();
            }
            print_to(&mut io::stderr(), &text);
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode, LabError> {
    let lab = Lab::from_environment()?
        .with_progress(|line| print_to(&mut io::stderr(), &format!("{line}\n")));
    match task {
        Task::Up(up) => {
            let names = up.names.clone();
            lab.up(&as_strs(&names), &up.options())?;
            show(&lab.status()?);
        }
        Task::Exec { name, command } => {
            let mut child = lab.spawn(&name, &as_strs(&command), |_| {})?;
            let status = child.wait().map_err(|source| LabError::File {
                path: "nsenter".into(),
                source,
            })?;
            return Ok(ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(1)));
        }
        Task::Push { name, file, path } => lab.push(&name, &file, &path)?,
        Task::Cut(args) => lab.cut(args.into())?,
        Task::Mend => lab.mend()?,
        Task::Reboot { name } => lab.reboot(&name)?,
        Task::Kill { name } => lab.kill(&name)?,
        Task::Start { names } => lab.start(&as_strs(&names))?,
        Task::Down { all } => lab.down(all)?,
        Task::Status { json: false } => show(&lab.status()?),
        Task::Status { json: true } => {
            let text = serde_json::to_string_pretty(&lab.status()?).unwrap_or_default();
            print_to(&mut io::stdout(), &format!("{text}\n"));
        }
        Task::Netns => print_to(&mut io::stdout(), &format!("{}\n", lab.netns().display())),
        Task::Address { name } => {
            print_to(&mut io::stdout(), &format!("{}\n", lab.address(&name)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn show(status: &Status) {
    let mut text = format!("lab {} at {}\n", status.lab, status.netns.display());
    for node in &status.nodes {
        let running = if node.running { "running" } else { "stopped" };
        let _ = writeln!(
            text,
            "  {:<12} {:<12} {running}  {}",
            node.name,
            node.address,
            node.packages.join(" ")
        );
    }
    if let Some(address) = &status.release_server {
        let _ = writeln!(text, "  releases at http://{address}/");
    }
    for cut in &status.cuts {
        let arrow = if cut.one_way { "->" } else { "<->" };
        let _ = write!(text, "  cut {} {arrow} {}", cut.from, cut.to);
        if let Some(protocol) = cut.protocol {
            let _ = write!(text, " {protocol}");
        }
        if let Some(port) = cut.port {
            let _ = write!(text, " port {port}");
        }
        if let Some(size) = cut.min_size {
            let _ = write!(text, " from {size} bytes");
        }
        if let Some(loss) = cut.loss {
            let _ = write!(text, " {loss}% lost");
        }
        text.push('\n');
    }
    print_to(&mut io::stdout(), &text);
}

/// Prints; a reader that went away is no reason to stop working.
fn print_to(stream: &mut impl io::Write, text: &str) {
    let _ = stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.flush());
}
