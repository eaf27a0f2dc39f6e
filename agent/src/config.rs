//! Settings of the service: `/etc/canasta/agent.toml`. Every key has a default; a key that is not known is refused with
//! its line, so that a misspelt one is not silently without effect.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use canasta_proto::address::AGENT_PORT;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen for the controller. `None`: `[::]:7443`, or `0.0.0.0:7443` where IPv6 is off.
    pub listen: Option<SocketAddr>,
    /// What is logged.
    pub log_level: LogLevel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            log_level: LogLevel::Info,
        }
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what was done; the default.
    Info,
    /// And how.
    Debug,
    /// And each byte that libraries tell of.
    Trace,
}

/// The settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and can't be read.
    #[error(transparent)]
    Read(#[from] canasta_durable::Error),
    /// The text is not UTF-8.
    #[error("failed to read {}: it is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A line is not understood.
    #[error("failed to read the settings in {}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which line and why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl Config {
    /// Reads the settings; a file that is not there means the defaults.
    ///
    /// # Errors
    /// When the file can't be read, or has a line that is not understood.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let Some(bytes) = canasta_durable::read_optional(path)? else {
            return Ok(Self::default());
        };
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotText {
            path: path.to_path_buf(),
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Invalid {
            path: path.to_path_buf(),
            source: Box::new(source),
        })
    }

    /// The addresses to try, in order, until one can be bound.
    pub fn listen_candidates(&self) -> Vec<SocketAddr> {
        match self.listen {
            Some(address) => vec![address],
            None => vec![
                ([0u16; 8], AGENT_PORT).into(),
                ([0u8; 4], AGENT_PORT).into(),
            ],
        }
    }
}

impl LogLevel {
    /// What of the log is let through.
    pub fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::{Config, LogLevel};

    fn load(text: &str) -> Result<Config, super::ConfigError> {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).expect("write");
        Config::load(&path)
    }

    #[test]
    fn every_key_has_a_default() {
        assert_eq!(load("").expect("empty"), Config::default());
        let missing = tempfile::tempdir().expect("directory").path().join("none");
        let config = Config::load(&missing).expect("missing");
        assert_eq!(
            config
                .listen_candidates()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["[::]:7443", "0.0.0.0:7443"]
        );
    }

    #[test]
    fn keys_are_read() {
        let config = load("listen = \"127.0.0.1:9000\"\nlog_level = \"debug\"\n").expect("config");
        assert_eq!(
            config.listen_candidates(),
            ["127.0.0.1:9000".parse().expect("address")]
        );
        assert_eq!(config.log_level, LogLevel::Debug);
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_with_its_line() {
        let error =
            load("log_level = \"info\"\nlisten_adress = \"[::]:1\"\n").expect_err("unknown key");
        assert!(error.to_string().contains("agent.toml"), "{error}");
        let cause = error.source().expect("source").to_string();
        assert!(
            cause.contains("line 2") && cause.contains("listen_adress"),
            "{cause}"
        );
    }
}
