//! The configuration of the controller: `/etc/canasta/controller.toml`, read once by `main`.
//!
//! Every key has a default, so that an empty file and a missing one are both good. A key that is not known is refused with
//! its line, since a typing mistake would otherwise be a setting that silently does not apply.

mod pins;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use canasta_proto::address::{Address, CONTROLLER_PORT};
use canasta_proto::version::K3sVersion;
use canasta_transport::authority::LEAF_LIFETIME;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

pub use self::pins::Pins;
use crate::paths;

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not as it should be.
    #[error("failed to use {} line {line}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, with the keys that are known.
        message: String,
    },
}

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen for CLIs and joining agents. Where IPv6 is off, `[::]` falls back to `0.0.0.0`.
    pub listen: SocketAddr,
    /// The socket for callers on this machine.
    pub socket: PathBuf,
    /// The group that may open the socket. Its members are root on every node.
    pub socket_group: String,
    /// Database, CA and artefacts.
    pub state_dir: PathBuf,
    /// Packages of the agent that the controller's own package brings.
    pub agent_packages: PathBuf,
    /// The address that join commands tell; unset: the machine's own.
    #[serde(deserialize_with = "optional_address")]
    pub advertise: Option<Address>,
    /// Releases of k3s.
    pub k3s: K3s,
    /// How long and how much is kept.
    pub retention: Retention,
    /// Times and limits.
    pub timings: Timings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), CONTROLLER_PORT),
            socket: paths::SOCKET.into(),
            socket_group: "canasta".to_owned(),
            state_dir: paths::STATE_DIR.into(),
            agent_packages: paths::AGENT_PACKAGES.into(),
            advertise: None,
            k3s: K3s::default(),
            retention: Retention::default(),
            timings: Timings::default(),
        }
    }
}

/// Where k3s comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct K3s {
    /// A URL or path with `{version}` and `{asset}`. The default could not be tried where this project is built.
    #[serde(deserialize_with = "source")]
    pub release_url: String,
    /// What a first install takes when no version is asked for.
    #[serde(deserialize_with = "parsed")]
    pub version: K3sVersion,
    /// SHA-256 that releases must have; needed where the source has no TLS.
    pub sha256: Pins,
    /// Certificates (PEM) of authorities that may vouch for the source, besides those that the system knows.
    pub ca_file: Option<PathBuf>,
}

impl Default for K3s {
    fn default() -> Self {
        Self {
            release_url: "https://github.com/k3s-io/k3s/releases/download/{version}/{asset}"
                .to_owned(),
            version: "v1.34.8+k3s1".parse().expect("a version"),
            sha256: Pins::default(),
            ca_file: None,
        }
    }
}

/// How long and how much is kept of what has ended. What is beyond it is dropped once a day.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Days that rows of the audit trail are kept.
    pub audit_days: u32,
    /// The most rows of the audit trail.
    pub audit_rows: u32,
    /// Days that operations are kept after their start, once they have ended.
    pub operation_days: u32,
    /// The most operations.
    pub operations: u32,
    /// Days that certificates are kept after their end.
    pub certificate_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            audit_days: 400,
            audit_rows: 200_000,
            operation_days: 180,
            operations: 5_000,
            certificate_days: 30,
        }
    }
}

/// Times and limits; fractions of a second are allowed.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timings {
    /// How long a join token or user token is good.
    #[serde(rename = "token_seconds", deserialize_with = "seconds")]
    pub token: Duration,
    /// How long certificates of agents and users live, and the controller's own.
    #[serde(rename = "leaf_seconds", deserialize_with = "seconds")]
    pub leaf: Duration,
    /// The longest that dialling one address of a host may take.
    #[serde(rename = "dial_seconds", deserialize_with = "seconds")]
    pub dial: Duration,
    /// The longest that the dialling back in an enrolment may take.
    #[serde(rename = "dial_back_seconds", deserialize_with = "seconds")]
    pub dial_back: Duration,
    /// The first pause before a host is dialled again.
    #[serde(rename = "backoff_first_seconds", deserialize_with = "seconds")]
    pub backoff_first: Duration,
    /// The longest pause before a host is dialled again.
    #[serde(rename = "backoff_most_seconds", deserialize_with = "seconds")]
    pub backoff_most: Duration,
    /// How often an idle connection to an agent is probed, and how long it may take to answer.
    #[serde(rename = "keepalive_seconds", deserialize_with = "seconds")]
    pub keepalive: Duration,
    /// The longest that an agent may take for a small request.
    #[serde(rename = "request_seconds", deserialize_with = "seconds")]
    pub request: Duration,
    /// The longest that the end of running calls is waited for when the controller stops.
    #[serde(rename = "drain_seconds", deserialize_with = "seconds")]
    pub drain: Duration,
    /// The longest that a step of an operation waits for an agent that can't be reached.
    #[serde(rename = "agent_wait_seconds", deserialize_with = "seconds")]
    pub agent_wait: Duration,
    /// The longest that a node may take to become Ready.
    #[serde(rename = "node_ready_seconds", deserialize_with = "seconds")]
    pub node_ready: Duration,
    /// How long evictions that a disruption budget refuses are tried again, unless a drain is asked for another time.
    #[serde(rename = "evict_seconds", deserialize_with = "seconds")]
    pub evict: Duration,
    /// The pause before an eviction that was refused is tried again.
    #[serde(rename = "evict_again_seconds", deserialize_with = "seconds")]
    pub evict_again: Duration,
    /// The pause before what is owed to a cluster is tried again.
    #[serde(rename = "pay_again_seconds", deserialize_with = "seconds")]
    pub pay_again: Duration,
    /// The longest that nothing may come of a download.
    #[serde(rename = "download_stall_seconds", deserialize_with = "seconds")]
    pub download_stall: Duration,
    /// How long a download may bring less than 10 KiB a second.
    #[serde(rename = "download_slow_seconds", deserialize_with = "seconds")]
    pub download_slow: Duration,
    /// The longest that a download may take, all tries together.
    #[serde(rename = "download_seconds", deserialize_with = "seconds")]
    pub download: Duration,
    /// The longest that an agent may take nothing of what is sent to it.
    #[serde(rename = "push_stall_seconds", deserialize_with = "seconds")]
    pub push_stall: Duration,
    /// The first pause before a download is tried again; it doubles with each try.
    #[serde(rename = "download_pause_seconds", deserialize_with = "seconds")]
    pub download_pause: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            token: Duration::from_secs(60 * 60),
            leaf: LEAF_LIFETIME,
            dial: Duration::from_secs(3),
            dial_back: Duration::from_secs(10),
            backoff_first: Duration::from_millis(500),
            backoff_most: Duration::from_secs(30),
            keepalive: Duration::from_secs(10),
            request: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            agent_wait: Duration::from_mins(10),
            node_ready: Duration::from_mins(5),
            evict: Duration::from_mins(5),
            evict_again: Duration::from_secs(5),
            pay_again: Duration::from_mins(1),
            download_stall: Duration::from_secs(30),
            download_slow: Duration::from_mins(1),
            download: Duration::from_hours(1),
            push_stall: Duration::from_secs(60),
            download_pause: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// Reads a configuration file. One that is not there is the same as an empty one.
    ///
    /// # Errors
    /// When it can't be read, or holds something that is not a setting; the message names file and line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            ConfigError::Invalid {
                path: path.to_owned(),
                line: text[..before].matches('\n').count() + 1,
                message: error.message().to_owned(),
            }
        })
    }
}

fn parsed<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(D::Error::custom)
}

fn optional_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Address>, D::Error> {
    parsed(deserializer).map(Some)
}

/// A source of releases. It is shown to whoever may look at artefacts and operations, so it can't hold a secret.
fn source<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let rest = text.split_once("://").map_or("", |(_scheme, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err(D::Error::custom(
            "release_url holds a user or password, which everybody who lists artefacts would see; let the mirror serve the releases without one",
        ));
    }
    Ok(text)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| D::Error::custom("a time is a number of seconds above 0"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::{Config, ConfigError, Pins};

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("controller.toml"), text)
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = parse("").expect("defaults");
        assert_eq!(config.listen.to_string(), "[::]:7440");
        assert_eq!(config.k3s.version.to_string(), "v1.34.8+k3s1");
        assert_eq!(config.timings.token, Duration::from_secs(3600));
        let missing = Config::read(Path::new("/nonexistent/controller.toml")).expect("defaults");
        assert_eq!(missing.state_dir, config.state_dir);
    }

    #[test]
    fn what_is_set_applies() {
        let config = parse(
            "listen = '127.0.0.1:0'\nadvertise = 'ctl'\n[k3s]\nrelease_url = '/srv/{version}/{asset}'\n[timings]\ndial_seconds = 0.5\nrequest_seconds = 2\n",
        )
        .expect("settings");
        assert_eq!(config.listen.port(), 0);
        assert_eq!(config.advertise.expect("set").to_string(), "ctl");
        assert_eq!(config.k3s.release_url, "/srv/{version}/{asset}");
        assert_eq!(config.timings.dial, Duration::from_millis(500));
        assert_eq!(config.timings.request, Duration::from_secs(2));
    }

    #[test]
    fn a_source_holds_no_password_and_the_refusal_does_not_show_it() {
        let error = parse("[k3s]\nrelease_url = 'https://anna:geheim@mirror/{version}/{asset}'\n");
        let error = error.expect_err("refused").to_string();
        assert!(
            error.contains("release_url") && !error.contains("geheim"),
            "{error}"
        );
    }

    #[test]
    fn each_version_and_architecture_has_a_pin_of_its_own() {
        let (one, two) = ("A1".repeat(32), "b2".repeat(32));
        let lines = [
            Pins::line("v1.34.8+k3s1", "amd64", &one),
            Pins::line("v1.34.8+k3s1", "aarch64", &two),
            Pins::line("v1.34.9+k3s1", "amd64", &two),
        ];
        let dotted = parse(&format!("[k3s]\n{}\n", lines.join("\n"))).expect("lines");
        let pins = dotted.k3s.sha256;
        let of = |version: &str, arch| pins.get(&version.parse().expect("version"), arch);
        assert_eq!(of("v1.34.8+k3s1", "amd64"), Some(&*"a1".repeat(32)));
        assert_eq!(of("v1.34.8+k3s1", "arm64"), Some(&*two));
        assert_eq!(of("v1.34.9+k3s1", "amd64"), Some(&*two));
        assert_eq!(of("v1.34.9+k3s1", "arm64"), None);
        let table = parse(&format!(
            "[k3s.sha256]\n'v1.34.8+k3s1' = {{ amd64 = '{one}', arm64 = '{two}' }}\n'v1.34.9+k3s1' = {{ amd64 = '{two}' }}\n"
        ));
        assert_eq!(table.expect("a table").k3s.sha256, pins);
    }

    #[test]
    fn the_packaged_file_and_what_it_suggests_are_good() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/etc/controller.toml");
        let text = std::fs::read_to_string(path).expect("the packaged file");
        parse(&text).expect("as it is packaged");
        let suggested: String = text
            .replace('…', &"0".repeat(64))
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = parse(&suggested).expect("with all that it suggests");
        let pinned = config.k3s.sha256.get(&config.k3s.version, "amd64");
        assert!(pinned.is_some(), "{suggested}");
    }

    #[test]
    fn mistakes_are_told_with_file_and_line() {
        let cases = [
            ("listen = '[::]:7440'\nlistten = 1\n", 2, "listten"),
            (
                "\n\n[k3s]\nversion = 'latest'\n",
                4,
                "looks like v1.34.8+k3s1",
            ),
            (
                "[k3s]\nsha256.'v1.34.8+k3s1'.amd64 = 'abc'\n",
                2,
                "64 hexadecimal digits",
            ),
            (
                "[k3s]\nsha256 = 'abc'\n",
                2,
                "sha256.\"v1.34.8+k3s1\".amd64 = ",
            ),
            (
                "[k3s]\n[k3s.sha256]\n'1.34' = {}\n",
                3,
                "looks like v1.34.8+k3s1",
            ),
            (
                "[k3s.sha256]\n'v1.34.8+k3s1' = { mips = 'abc' }\n",
                2,
                "amd64, arm64, arm or s390x",
            ),
            ("[timings]\ndial_seconds = -1\n", 2, "above 0"),
            ("advertise = 'a b'\n", 1, "an address is"),
            ("[k3s\n", 1, ""),
        ];
        for (text, line, part) in cases {
            let message = parse(text).expect_err(text).to_string();
            let place = format!("failed to use controller.toml line {line}:");
            assert!(message.starts_with(&place), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}
