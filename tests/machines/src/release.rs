//! The server of k3s releases in the lab's network, and what the controller is told of it. The lab's apt repository is
//! served by it too.
//! Called by [`crate::Lab::up`] and [`crate::Lab::start`].

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use crate::network;
use crate::packages::architecture;
use crate::place::Layout;
use crate::process::{Process, locked_within};
use crate::program::{ProgramError, command};
use crate::state::ReleaseServer;

/// The port on the bridge's address.
pub(crate) const PORT: u16 = 8099;

/// The version that is asked for where none is named: the one that the product pins.
pub const DEFAULT_VERSION: &str = "v1.34.8+k3s1";
/// A higher patch of [`DEFAULT_VERSION`] that the stand-in is served as, and the controller pins.
pub const NEXT_PATCH: &str = "v1.34.9+k3s1";
/// A version of the minor after it, served and pinned too.
pub const NEXT_MINOR: &str = "v1.35.2+k3s1";

const START_LIMIT: Duration = Duration::from_secs(10);
/// The longest that a killed server may take to be gone.
const GONE: Duration = Duration::from_secs(5);
const READ_LIMIT: Duration = Duration::from_mins(1);
/// A list of checksums has a few lines.
const ANSWER_LIMIT: u64 = 64 * 1024;

/// What is served in the place of k3s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// The stand-in, for every version that is asked for.
    Standin(PathBuf),
    /// A real k3s, for its own version.
    K3s(PathBuf),
}

/// How releases are served to the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Releases {
    /// The program `canasta-release-server`.
    pub server: PathBuf,
    /// What it serves.
    pub payload: Payload,
    /// The version that the controller installs where none is asked for.
    pub version: String,
}

/// Why releases can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A file that is to be served or run can't be used.
    #[error("failed to use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The server can't be started.
    #[error("failed to start the release server")]
    Start(#[source] ProgramError),
    /// The server does not answer.
    #[error("failed to reach the release server at {address}: see {}", log.display())]
    Silent {
        /// Where it should listen.
        address: SocketAddrV4,
        /// What it printed.
        log: PathBuf,
        /// What the last attempt said.
        #[source]
        source: io::Error,
    },
    /// The server answers something else than a list of checksums.
    #[error("failed to find the checksum of {asset} at http://{address}{path}: {answer}")]
    Checksum {
        /// The file that should be in the list.
        asset: String,
        /// The server.
        address: SocketAddrV4,
        /// The list's path.
        path: String,
        /// The beginning of the answer.
        answer: String,
    },
}

impl Releases {
    /// The server's arguments, with absolute paths.
    pub fn argv(&self, layout: &Layout) -> Result<Vec<String>, ReleaseError> {
        let absolute = |path: &Path| {
            path.canonicalize()
                .map(|path| path.to_string_lossy().into_owned())
                .map_err(|source| ReleaseError::File {
                    path: path.to_owned(),
                    source,
                })
        };
        let mut argv = vec![
            absolute(&self.server)?,
            "--listen".to_owned(),
            address(layout).to_string(),
            "--repository".to_owned(),
            layout.repository().to_string_lossy().into_owned(),
        ];
        match &self.payload {
            Payload::Standin(file) => argv.extend(["--standin".to_owned(), absolute(file)?]),
            Payload::K3s(file) => {
                let version = self.version.clone();
                argv.extend([
                    "--k3s".to_owned(),
                    absolute(file)?,
                    "--version".to_owned(),
                    version,
                ]);
            }
        }
        Ok(argv)
    }

    /// The versions that the controller pins: all that are served, or, where any is, those that tests upgrade to.
    pub fn versions(&self) -> Vec<&str> {
        let mut versions = vec![self.version.as_str()];
        if matches!(self.payload, Payload::Standin(_)) {
            versions.extend([NEXT_PATCH, NEXT_MINOR]);
        }
        versions.sort_unstable();
        versions.dedup();
        versions
    }

    /// Whether nodes run a real kubelet, for which the machine needs settings of its own.
    pub(crate) fn is_real(&self) -> bool {
        matches!(self.payload, Payload::K3s(_))
    }
}

/// Where the release server of a lab listens.
pub(crate) fn address(layout: &Layout) -> SocketAddrV4 {
    SocketAddrV4::new(layout.gateway(), PORT)
}

/// Starts the server and waits until it says that it listens. An older one must have been killed.
pub(crate) fn start(layout: &Layout, argv: Vec<String>) -> Result<ReleaseServer, ReleaseError> {
    let address = address(layout);
    let log = layout.release_log();
    let silent = |source| ReleaseError::Silent {
        address,
        log: log.clone(),
        source,
    };
    let errors = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|source| ReleaseError::File {
            path: log.clone(),
            source,
        })?;
    // Each server has the lock with its log as standard error: until the old one is gone it holds the port.
    if !locked_within(&errors, GONE) {
        return Err(silent(io::Error::other(
            "the one before it has not ended yet",
        )));
    }
    let mut line = vec!["setsid"];
    line.extend(argv.iter().map(String::as_str));
    let mut command = command(&line);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .current_dir("/");
    let place = network::place(layout);
    let mut child = place.spawn(&mut command).map_err(ReleaseError::Start)?;
    let process = i32::try_from(child.id()).ok().and_then(Process::find);
    let said = child.stdout.take().map_or_else(String::new, first_line);
    std::thread::spawn(move || drop(child.wait()));
    if !said.starts_with("listening on ") {
        return Err(silent(io::Error::other("it did not say that it listens")));
    }
    let process = process.ok_or_else(|| silent(io::Error::other("it ended at once")))?;
    Ok(ReleaseServer {
        process,
        argv,
        address,
    })
}

/// The first line that a program prints; empty if it ends or too much time passes before.
fn first_line(stream: impl io::Read + Send + 'static) -> String {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if BufReader::new(stream).read_line(&mut line).is_ok() {
            // The one who waited may have given up.
            let _ = sender.send(line);
        }
    });
    receiver.recv_timeout(START_LIMIT).unwrap_or_default()
}

/// Servers of this lab that run, recorded or not: those in its network with its address.
pub(crate) fn running(layout: &Layout) -> Vec<Process> {
    let Ok(own) = fs::metadata(layout.netns()) else {
        return Vec::new();
    };
    let address = address(layout).to_string();
    Process::all()
        .into_iter()
        .filter(|process| {
            // A namespace is told by the number of its file.
            fs::metadata(format!("/proc/{}/ns/net", process.pid))
                .is_ok_and(|netns| netns.ino() == own.ino() && netns.dev() == own.dev())
        })
        .filter(|process| {
            let arguments = process.arguments();
            let mut after = arguments
                .iter()
                .skip_while(|argument| *argument != "--listen");
            after.nth(1) == Some(&address)
        })
        .collect()
}

/// The name of k3s's file in a release.
fn asset() -> &'static str {
    match architecture() {
        "arm64" => "k3s-arm64",
        _ => "k3s",
    }
}

/// The address of k3s in `version`, for a program in the lab.
pub(crate) fn url(layout: &Layout, version: &str) -> String {
    let version = version.replace('+', "%2B");
    format!("http://{}/{version}/{}", address(layout), asset())
}

/// The line of a node's `sources.list` for the apt repository that is served.
pub(crate) fn apt_source(layout: &Layout) -> String {
    // Nothing in a lab has a key to sign with.
    format!("deb [trusted=yes] http://{}/apt /", address(layout))
}

/// Fetches the published SHA-256 of k3s in `version`.
pub(crate) fn checksum(layout: &Layout, version: &str) -> Result<String, ReleaseError> {
    let address = address(layout);
    let path = format!(
        "/{}/sha256sum-{}.txt",
        version.replace('+', "%2B"),
        architecture()
    );
    let answer = network::place(layout)
        .with(|| fetch(address, &path))
        .map_err(|source| ReleaseError::Silent {
            address,
            log: layout.release_log(),
            source,
        })?;
    parse_checksum(&answer, asset()).ok_or_else(|| ReleaseError::Checksum {
        asset: asset().to_owned(),
        address,
        path,
        answer: answer.lines().take(3).collect::<Vec<_>>().join(" / "),
    })
}

fn fetch(address: SocketAddrV4, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), START_LIMIT)?;
    stream.set_read_timeout(Some(READ_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_LIMIT).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of `asset` in a successful answer: lines of a sum, spaces (and perhaps `*`), a name.
fn parse_checksum(answer: &str, asset: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    body.lines().find_map(|line| {
        let (sum, name) = line.split_once(char::is_whitespace)?;
        let hex = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        (hex && name.trim_start().trim_start_matches('*') == asset).then(|| sum.to_owned())
    })
}

/// The controller's settings in a lab: a source without TLS needs a pinned checksum for each version.
pub(crate) fn controller_settings(
    layout: &Layout,
    version: &str,
    pins: &[(&str, String)],
) -> String {
    let mut text = format!(
        "# Written by ./dev machines: releases come from the lab's own server.\n[k3s]\n\
         release_url = \"http://{}/{{version}}/{{asset}}\"\nversion = \"{version}\"\n",
        address(layout)
    );
    for (version, sha256) in pins {
        text += &format!("sha256.\"{version}\".{} = \"{sha256}\"\n", architecture());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_the_asset_itself_is_taken() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let answer = format!("HTTP/1.0 200 OK\r\nx: y\r\n\r\n{a}  k3s-airgap.tar\n{b}  k3s\n");
        assert_eq!(parse_checksum(&answer, "k3s"), Some(b));
        assert_eq!(parse_checksum(&answer, "k3s-arm64"), None);
        let missing = answer.replace("200 OK", "404 Not Found");
        assert_eq!(parse_checksum(&missing, "k3s"), None);
    }

    #[test]
    fn a_real_k3s_is_pinned_alone_and_the_stand_in_with_what_it_is_upgraded_to() {
        let mut releases = Releases {
            server: "server".into(),
            payload: Payload::K3s("k3s".into()),
            version: DEFAULT_VERSION.to_owned(),
        };
        assert_eq!(releases.versions(), [DEFAULT_VERSION]);
        releases.payload = Payload::Standin("k3s".into());
        assert_eq!(
            releases.versions(),
            [DEFAULT_VERSION, NEXT_PATCH, NEXT_MINOR]
        );
    }

    #[test]
    fn the_controller_is_told_the_source_and_the_pin() {
        let layout = Layout::new(Path::new("/x"), "canasta");
        let pins = [
            ("v1.2.3+k3s4", "abc".to_owned()),
            (NEXT_PATCH, "def".to_owned()),
        ];
        let text = controller_settings(&layout, "v1.2.3+k3s4", &pins);
        assert!(
            text.contains("release_url = \"http://10.80.0.1:8099/{version}/{asset}\""),
            "{text}"
        );
        for (version, sha256) in pins {
            let line = format!("sha256.\"{version}\".{} = \"{sha256}\"\n", architecture());
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("version = \"v1.2.3+k3s4\""));
    }
}
