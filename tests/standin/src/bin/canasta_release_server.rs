//! The testbed's release server:
//! `canasta-release-server --listen ADDR:PORT (--k3s FILE --version V | --standin FILE [--profile P])
//! [--repository DIR] [--faults]`.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use canasta_standin::release::{ReleaseServer, Source};
use canasta_standin::trailer::{Faults, Profile};

const USAGE: &str = "usage: canasta-release-server --listen ADDR:PORT (--k3s FILE --version V | --standin FILE \
    [--profile recorded|documented]) [--repository DIR] [--faults]\n";

#[tokio::main]
async fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let _ = std::io::stderr().write_all(USAGE.as_bytes());
        return ExitCode::from(2);
    };
    match ReleaseServer::start(options.address, options.source, options.faults).await {
        Ok(server) => {
            if let Some(directory) = options.repository {
                server.serve_repository(directory);
            }
            let _ = writeln!(std::io::stdout(), "listening on {}", server.local_addr());
            server.wait().await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let _ = writeln!(
                std::io::stderr(),
                "error: {error}: {}",
                cause.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

struct Options {
    address: SocketAddr,
    source: Source,
    repository: Option<PathBuf>,
    faults: bool,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut given = HashMap::new();
    let mut faults = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--faults" => faults = true,
            "--listen" | "--k3s" | "--version" | "--standin" | "--profile" | "--repository" => {
                given.insert(argument, arguments.next()?);
            }
            _ => return None,
        }
    }
    let profile = match given.get("--profile").map(String::as_str) {
        None | Some("recorded") => Profile::Recorded,
        Some("documented") => Profile::Documented,
        Some(_) => return None,
    };
    let source = match (
        given.get("--k3s"),
        given.get("--version"),
        given.get("--standin"),
    ) {
        (Some(file), Some(version), None) => Source::Real {
            file: file.into(),
            version: version.clone(),
        },
        (None, None, Some(file)) => Source::Standin {
            file: file.into(),
            profile,
            faults: Faults::default(),
        },
        _ => return None,
    };
    Some(Options {
        address: given.get("--listen")?.parse().ok()?,
        source,
        repository: given.get("--repository").map(PathBuf::from),
        faults,
    })
}
