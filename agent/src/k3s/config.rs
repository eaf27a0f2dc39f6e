//! Reads the configuration of a k3s as k3s itself reads it, and the arguments of its unit. Secrets don't leave this module.

use canasta_host::Host;
use serde_norway::Value;

use super::{Error, paths};

/// What stands in place of a secret.
const REDACTED: &str = "********";

/// What is configured. Values of other keys are not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured {
    /// Names of all keys, sorted.
    pub keys: Vec<String>,
    /// `tls-san`.
    pub tls_sans: Vec<String>,
    /// `node-ip`; of several the first.
    pub node_ip: String,
    /// `node-name`.
    pub node_name: String,
    /// `kubelet-arg`.
    pub kubelet_args: Vec<String>,
    /// `agent-token-file`: where the secret is, not the secret.
    pub agent_token_file: String,
    /// `default-local-storage-path`.
    pub local_storage_path: String,
    /// `cluster-cidr`; two where there are two families.
    pub cluster_cidrs: Vec<String>,
}

/// Reads `config.yaml` and the drop-ins after it.
pub async fn read(host: &Host) -> Result<Configured, Error> {
    let mut files = vec![paths::CONFIG.to_owned()];
    let drop_ins = host.root.list(paths::CONFIG_DROP_INS).await?;
    files.extend(
        drop_ins
            .iter()
            .filter(|name| is_yaml(name))
            .map(|name| format!("{}/{name}", paths::CONFIG_DROP_INS)),
    );
    let mut configured = Configured::default();
    for path in files {
        if let Some(text) = host.root.read_text(&path).await? {
            configured
                .add(&text)
                .map_err(|source| Error::Yaml { path, source })?;
        }
    }
    configured.keys.sort();
    configured.keys.dedup();
    Ok(configured)
}

fn is_yaml(name: &str) -> bool {
    let extension = std::path::Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml"))
}

impl Configured {
    /// Adds a file: a later value wins, `key+:` appends.
    fn add(&mut self, text: &str) -> Result<(), serde_norway::Error> {
        let Value::Mapping(mapping) = serde_norway::from_str(text)? else {
            return Ok(());
        };
        for (key, value) in mapping {
            let Some(key) = key.as_str() else { continue };
            let (name, appends) = match key.strip_suffix('+') {
                Some(name) => (name, true),
                None => (key, false),
            };
            self.keys.push(name.to_owned());
            let first = || texts(&value).into_iter().next().unwrap_or_default();
            let list = match name {
                "tls-san" => &mut self.tls_sans,
                "kubelet-arg" => &mut self.kubelet_args,
                "cluster-cidr" => &mut self.cluster_cidrs,
                "node-ip" => {
                    self.node_ip = first();
                    continue;
                }
                "node-name" => {
                    self.node_name = first();
                    continue;
                }
                "agent-token-file" => {
                    self.agent_token_file = first();
                    continue;
                }
                "default-local-storage-path" => {
                    self.local_storage_path = first();
                    continue;
                }
                _ => continue,
            };
            if !appends {
                list.clear();
            }
            list.extend(texts(&value));
        }
        Ok(())
    }
}

/// A scalar or a list of scalars, as text; commas separate too, as on k3s's command line.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Sequence(items) => items.iter().flat_map(texts).collect(),
        Value::String(text) => text
            .split(',')
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect(),
        Value::Number(number) => vec![number.to_string()],
        Value::Bool(flag) => vec![flag.to_string()],
        _ => Vec::new(),
    }
}

/// Which top-level keys of `config.yaml` differ, in the order of the new one, then those that are gone.
pub fn changed_keys(before: &[u8], after: &[u8]) -> Vec<String> {
    let mapping = |text| match serde_norway::from_slice(text) {
        Ok(Value::Mapping(mapping)) => mapping,
        _ => serde_norway::Mapping::new(),
    };
    let (before, after) = (mapping(before), mapping(after));
    let name = |key: &Value| key.as_str().unwrap_or("?").to_owned();
    let changed = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(*value))
        .map(|(key, _)| name(key));
    let gone = before
        .keys()
        .filter(|key| !after.contains_key(*key))
        .map(name);
    changed.chain(gone).collect()
}

/// The arguments after the binary in the last `ExecStart=` of a unit file, secrets left out.
pub fn arguments(unit_file: &str) -> Vec<String> {
    let joined = unit_file.replace("\\\n", " ");
    let command = joined
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ExecStart="))
        .next_back();
    let words = command.map(words).unwrap_or_default();
    redact(words.into_iter().skip(1))
}

/// The values of an option that may be given more than once, each `--option value` or `--option=value`.
pub fn values(arguments: &[String], option: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let value = match argument.split_once('=') {
            Some((name, value)) if name == option => Some(value),
            None if argument == option => arguments.next().map(String::as_str),
            _ => None,
        };
        values.extend(
            value
                .into_iter()
                .flat_map(|value| value.split(','))
                .map(str::to_owned),
        );
    }
    values
}

/// Splits at white space; single and double quotes hold words together.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// Replaces the values of options that hold a secret.
fn redact(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut hide_next = false;
    let mut shown = Vec::new();
    for argument in arguments {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument.as_str(), None),
        };
        let is_option = name.starts_with('-');
        match (is_option && is_secret(name), value) {
            _ if hide_next && !is_option => shown.push(REDACTED.to_owned()),
            (true, Some(_)) => shown.push(format!("{name}={REDACTED}")),
            _ => shown.push(argument.clone()),
        }
        hide_next = is_option && value.is_none() && is_secret(name);
    }
    shown
}

fn is_secret(option: &str) -> bool {
    let name = option.trim_start_matches('-');
    let telling = [
        "token",
        "secret",
        "password",
        "access-key",
        "datastore-endpoint",
        "vpn-auth",
    ];
    name == "t" || (telling.iter().any(|word| name.contains(word)) && !name.ends_with("-file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_replace_and_append() {
        let mut configured = Configured::default();
        configured.add("node-ip: 10.0.0.1\ntls-san:\n- a\n- b\ntoken: geheim\nwrite-kubeconfig-mode: 0644\n").unwrap();
        configured.add("tls-san+: c\n").unwrap();
        assert_eq!(configured.tls_sans, ["a", "b", "c"]);
        configured
            .add("tls-san: x,y\nnode-ip: 10.0.0.2,fd00::2\nnode-name: n\n")
            .unwrap();
        configured.add("").unwrap();
        assert_eq!(configured.tls_sans, ["x", "y"]);
        assert_eq!(
            (configured.node_ip.as_str(), configured.node_name.as_str()),
            ("10.0.0.2", "n")
        );
        assert!(configured.keys.iter().any(|key| key == "token"));
        assert!(!format!("{configured:?}").contains("geheim"));
        assert!(configured.add("a: [").is_err());
    }

    #[test]
    fn changed_keys_are_named() {
        let before = b"node-ip: a\ntls-san: [x]\nold: 1\n";
        assert_eq!(
            changed_keys(before, b"node-ip: a\ntls-san: [x, y]\nnew: 1\n"),
            ["tls-san", "new", "old"]
        );
        assert_eq!(changed_keys(before, before), [""; 0]);
        assert_eq!(changed_keys(b"broken: [", b"node-ip: a\n"), ["node-ip"]);
    }

    #[test]
    fn secrets_are_left_out_of_arguments() {
        let unit = "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--token' 'geheim' --agent-token=geheim \\\n --token-file /etc/t \
                    --tls-san \"a b\" -t geheim --datastore-endpoint=postgres://u:geheim@h/d --etcd-s3-secret-key geheim --disable traefik\n";
        let shown = arguments(unit);
        assert_eq!(
            shown,
            [
                "server",
                "--token",
                REDACTED,
                "--agent-token=********",
                "--token-file",
                "/etc/t",
                "--tls-san",
                "a b",
                "-t",
                REDACTED,
                "--datastore-endpoint=********",
                "--etcd-s3-secret-key",
                REDACTED,
                "--disable",
                "traefik",
            ]
        );
        assert_eq!(arguments("[Service]\n"), [""; 0]);
    }
}
