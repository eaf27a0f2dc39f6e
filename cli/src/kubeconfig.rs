//! Kubeconfig files: one cluster's entry, alone or among those of others. `canasta kubeconfig` calls it.
//!
//! A file is changed as plain YAML, not as types of its own, so that everything that others wrote stays: entries, fields that
//! this program does not know, their order.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use canasta_proto::pb::GetKubeconfigResponse;
use serde_norway::{Mapping, Value};

use crate::error::Error;

/// One cluster, its administrator, and the context of both, all by one name. Secret.
pub(crate) struct Entry {
    name: String,
    server: String,
    cluster: Value,
    context: Value,
    user: Value,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Entry")
            .field("name", &self.name)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Why a file is no kubeconfig. Never quotes it: there are keys in it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// It is not YAML.
    #[error("it is not valid YAML{}", .0.map(|line| format!(", line {line}")).unwrap_or_default())]
    Yaml(Option<usize>),
    /// It is YAML of another shape.
    #[error("it is not a kubeconfig: {0}")]
    Shape(&'static str),
}

impl Entry {
    /// What the controller answered, reached at `server`.
    pub(crate) fn new(answer: &GetKubeconfigResponse, server: &str) -> Self {
        let name = format!("canasta-{}", answer.cluster);
        let data = |bytes: &[u8]| STANDARD.encode(bytes);
        let cluster = mapping([
            (
                "certificate-authority-data",
                data(&answer.ca_certificate).into(),
            ),
            ("server", server.into()),
        ]);
        let context = mapping([
            ("cluster", name.as_str().into()),
            ("user", name.as_str().into()),
        ]);
        let user = mapping([
            (
                "client-certificate-data",
                data(&answer.client_certificate).into(),
            ),
            ("client-key-data", data(&answer.client_key).into()),
        ]);
        Self {
            cluster: named(&name, "cluster", cluster),
            context: named(&name, "context", context),
            user: named(&name, "user", user),
            server: server.to_owned(),
            name,
        }
    }

    /// The name of cluster, user and context.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the API is reached.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// A kubeconfig of this entry alone.
    pub(crate) fn alone(&self) -> Value {
        let mut config = Mapping::new();
        self.put_into(&mut config)
            .expect("an empty kubeconfig has the right shape");
        Value::Mapping(config)
    }

    /// Puts the entry in, in place of what has its name; true when it is the current context.
    fn put_into(&self, config: &mut Mapping) -> Result<bool, Unfit> {
        for (field, value) in [("apiVersion", "v1"), ("kind", "Config")] {
            if !config.contains_key(field) {
                config.insert(field.into(), value.into());
            }
        }
        let lists = [
            ("clusters", &self.cluster, "`clusters` is not a list"),
            ("contexts", &self.context, "`contexts` is not a list"),
            ("users", &self.user, "`users` is not a list"),
        ];
        // Nothing is changed by halves, as the caller writes only what came out well.
        for (field, own, wrong) in lists {
            let list = config.entry(field.into()).or_insert(Value::Null);
            if list.is_null() {
                *list = Value::Sequence(Vec::new());
            }
            let list = list.as_sequence_mut().ok_or(Unfit::Shape(wrong))?;
            self.put_first(list, own);
        }
        let current = config.get("current-context").and_then(Value::as_str);
        if current.is_none_or(str::is_empty) {
            config.insert("current-context".into(), self.name.as_str().into());
            return Ok(true);
        }
        Ok(current == Some(self.name.as_str()))
    }

    /// Replaces the first of this name and drops the others, or adds it at the end.
    fn put_first(&self, list: &mut Vec<Value>, own: &Value) {
        let is_own = |value: &Value| value.get("name").and_then(Value::as_str) == Some(&self.name);
        let at = list.iter().position(is_own).unwrap_or(list.len());
        list.retain(|value| !is_own(value));
        list.insert(at, own.clone());
    }
}

fn mapping<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter().map(|(name, value)| (name.into(), value));
    Value::Mapping(fields.collect())
}

fn named(name: &str, kind: &str, value: Value) -> Value {
    mapping([("name", name.into()), (kind, value)])
}

/// The text of a kubeconfig with the entry in it, and whether it is the current context.
fn merge(text: &str, entry: &Entry) -> Result<(String, bool), Unfit> {
    let value: Value = serde_norway::from_str(text)
        .map_err(|error| Unfit::Yaml(error.location().map(|location| location.line())))?;
    let mut config = match value {
        Value::Null => Mapping::new(),
        Value::Mapping(config) => config,
        _ => return Err(Unfit::Shape("it has no fields")),
    };
    let current = entry.put_into(&mut config)?;
    let text = serde_norway::to_string(&config).expect("what was read can be written");
    Ok((text, current))
}

/// Puts the entry into the file, which is made where there is none, readable by its owner alone. True when it is the current
/// context.
///
/// # Errors
/// When the file is no kubeconfig, another program changes it, or it can't be written; then it is as it was.
pub(crate) fn merge_into(path: &Path, entry: &Entry) -> Result<bool, Error> {
    // A link stays one, and what it points to is changed.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(directory) = target.parent().filter(|path| !path.as_os_str().is_empty()) {
        canasta_durable::create_dir_all(directory, 0o700)
            .map_err(|error| unwritten(path, error))?;
    }
    let _alone = Lock::take(&target)?;
    let text = match fs::read(&target) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| unfit(path, &Unfit::Yaml(None)))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(Error::File {
                path: path.to_owned(),
                source,
            });
        }
    };
    let (text, current) = merge(&text, entry).map_err(|error| unfit(path, &error))?;
    canasta_durable::write(&target, text.as_bytes(), 0o600)
        .map_err(|error| unwritten(path, error))?;
    Ok(current)
}

/// The lock that kubectl takes, too: a file beside the kubeconfig, there for as long as it is being changed.
struct Lock(PathBuf);

impl Lock {
    fn take(kubeconfig: &Path) -> Result<Self, Error> {
        let mut name = kubeconfig.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(_) => Ok(Self(path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::local(
                format!(
                    "{} is being changed by another program: {} is there",
                    kubeconfig.display(),
                    path.display()
                ),
                "run the command again; if no kubectl or canasta is running, remove that file",
            )),
            Err(error) => Err(unwritten(&path, error)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever comes next says that it is still there.
        let _ = fs::remove_file(&self.0);
    }
}

fn unfit(path: &Path, error: &Unfit) -> Error {
    Error::local(
        format!("{} was not changed: {error}", path.display()),
        "mend it or move it away; or name another file: --file PATH",
    )
}

fn unwritten(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Local {
        message: format!("failed to write {}", path.display()),
        hint: "check the space and the owner of the directory; or name another file: --file PATH"
            .to_owned(),
        source: Some(Box::new(source)),
    }
}

#[cfg(test)]
mod tests;
