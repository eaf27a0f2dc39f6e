//! The configuration of `k3s server` and `k3s agent`: config.yaml, its drop-ins, flags and environment, merged by
//! k3s's rules. Read once at start.

use std::fs;
use std::path::{Path, PathBuf};

use serde_norway::Value;
use thiserror::Error;

mod flags;

/// Which sub-command is configured; it decides which keys exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `k3s server`.
    Server,
    /// `k3s agent`.
    Agent,
}

/// A configuration that k3s refuses; the text is its fatal line.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No such flag or key.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// A flag at the end of the line lacks its value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A file is not YAML of the expected kind.
    #[error("failed to read config file {path}: {text}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
}

/// The merged configuration: keys in the order of their first appearance, each with its values.
#[derive(Clone, Debug, Default)]
pub struct Config {
    entries: Vec<(String, Vec<String>)>,
}

impl Config {
    /// Reads the files below `root`, then applies `arguments` (without program and sub-command), then the variables
    /// that `environment` knows for keys still unset.
    pub fn load(
        root: &Path,
        command: Command,
        arguments: &[String],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for path in config_files(root)? {
            config.merge_file(&path, command)?;
        }
        config.merge_arguments(command, arguments)?;
        for (variable, key) in flags::ENVIRONMENT {
            if let Some(value) = environment(variable)
                && !value.is_empty()
                && flags::is_known(command, key)
                && config.get(key).is_none()
            {
                config.set(key, vec![value]);
            }
        }
        Ok(config)
    }

    /// The last value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.list(key).last().map(String::as_str)
    }

    /// All values of a key, comma-separated ones split.
    pub fn split(&self, key: &str) -> Vec<String> {
        self.list(key)
            .iter()
            .flat_map(|value| value.split(','))
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// The value of `key`, or the content of the file that `<key>-file` names below `root`.
    pub fn secret(&self, key: &str, root: &Path) -> Option<String> {
        if let Some(value) = self.get(key) {
            return Some(value.to_owned());
        }
        let file = self.get(&format!("{key}-file"))?;
        let text = fs::read_to_string(root.join(file.trim_start_matches('/'))).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The arguments as the Node's annotation `k3s.io/node-args` holds them: JSON, secrets masked.
    pub fn node_arguments(&self, command: &str) -> String {
        let mut arguments = vec![command.to_owned()];
        for (key, values) in &self.entries {
            for value in values {
                arguments.push(format!("--{key}"));
                let secret = key.contains("token") || key.contains("secret");
                arguments.push(if secret {
                    "********".into()
                } else {
                    value.clone()
                });
            }
        }
        serde_json::Value::from(arguments).to_string()
    }

    fn list(&self, key: &str) -> &[String] {
        self.entries
            .iter()
            .find(|(name, _)| name == key)
            .map_or(&[], |(_, values)| values)
    }

    fn set(&mut self, key: &str, values: Vec<String>) {
        match self.entries.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = values,
            None => self.entries.push((key.to_owned(), values)),
        }
    }

    fn append(&mut self, key: &str, values: Vec<String>) {
        match self.entries.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => old.extend(values),
            None => self.entries.push((key.to_owned(), values)),
        }
    }

    fn merge_file(&mut self, path: &Path, command: Command) -> Result<(), ConfigError> {
        let bad = |text: String| ConfigError::File {
            path: path.to_owned(),
            text,
        };
        let text = fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let document: Value =
            serde_norway::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let mapping = match document {
            Value::Null => return Ok(()),
            Value::Mapping(mapping) => mapping,
            _ => return Err(bad("not a mapping".into())),
        };
        for (key, value) in mapping {
            let key = scalar(&key).ok_or_else(|| bad("a key is not text".into()))?;
            let (key, appends) = match key.strip_suffix('+') {
                Some(key) => (key.to_owned(), true),
                None => (key, false),
            };
            let key = flags::long_name(&key).to_owned();
            if !flags::is_known(command, &key) {
                return Err(ConfigError::Unknown(format!("-{key}")));
            }
            let values = match value {
                Value::Sequence(items) => items.iter().filter_map(scalar).collect(),
                other => scalar(&other).into_iter().collect(),
            };
            if appends {
                self.append(&key, values);
            } else {
                self.set(&key, values);
            }
        }
        Ok(())
    }

    fn merge_arguments(
        &mut self,
        command: Command,
        arguments: &[String],
    ) -> Result<(), ConfigError> {
        let mut given = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let stripped = argument.trim_start_matches('-');
            if stripped.len() == argument.len() {
                continue;
            }
            let (name, value) = match stripped.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (stripped, None),
            };
            let key = flags::long_name(name);
            if !flags::is_known(command, key) {
                return Err(ConfigError::Unknown(name.to_owned()));
            }
            let value = match value {
                Some(value) => value,
                None if flags::is_switch(key) => "true".to_owned(),
                None => rest
                    .next()
                    .cloned()
                    .ok_or_else(|| ConfigError::NoValue(name.to_owned()))?,
            };
            given.append(key, vec![value]);
        }
        for (key, values) in given.entries {
            self.set(&key, values);
        }
        Ok(())
    }
}

fn config_files(root: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let main = root.join("etc/rancher/k3s/config.yaml");
    let folder = root.join("etc/rancher/k3s/config.yaml.d");
    let mut files = Vec::new();
    if folder.is_dir() {
        let entries = fs::read_dir(&folder).map_err(|error| ConfigError::File {
            path: folder.clone(),
            text: error.to_string(),
        })?;
        files.extend(
            entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| {
                    path.extension()
                        .is_some_and(|extension| extension == "yaml" || extension == "yml")
                }),
        );
        files.sort();
    }
    if main.exists() {
        files.insert(0, main);
    }
    Ok(files)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)], arguments: &[&str]) -> Result<Config, ConfigError> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join("etc/rancher/k3s").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        Config::load(root.path(), Command::Server, &arguments, |_| None)
    }

    #[test]
    fn drop_ins_replace_or_append_and_flags_win() {
        let config = load(
            &[
                (
                    "config.yaml",
                    "tls-san: [a]\nnode-ip: 10.0.0.1\ndisable: traefik\n",
                ),
                (
                    "config.yaml.d/20-b.yaml",
                    "tls-san+: b\ndisable: [servicelb]\n",
                ),
                ("config.yaml.d/10-a.yaml", "tls-san+: [c]\n"),
            ],
            &["--node-ip", "10.0.0.2", "--https-listen-port=7443"],
        )
        .unwrap();
        assert_eq!(config.split("tls-san"), ["a", "c", "b"]);
        assert_eq!(config.split("disable"), ["servicelb"]);
        assert_eq!(config.get("node-ip"), Some("10.0.0.2"));
        assert_eq!(config.get("https-listen-port"), Some("7443"));
    }

    #[test]
    fn unknown_keys_and_flags_are_refused() {
        let text = load(&[("config.yaml", "tls-sans: a\n")], &[])
            .unwrap_err()
            .to_string();
        assert_eq!(text, "flag provided but not defined: --tls-sans");
        let text = load(&[], &["--nonsense"]).unwrap_err().to_string();
        assert_eq!(text, "flag provided but not defined: -nonsense");
    }

    #[test]
    fn secrets_are_masked_in_the_annotation() {
        let config = load(
            &[("config.yaml", "agent-token: hush\nnode-ip: 10.0.0.1\n")],
            &[],
        )
        .unwrap();
        assert_eq!(
            config.node_arguments("server"),
            r#"["server","--agent-token","********","--node-ip","10.0.0.1"]"#
        );
    }
}
