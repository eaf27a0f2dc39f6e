//! Writes the configuration, the agent token, the settings of traefik and the file for udev.

use canasta_proto::pb::K3sRole;
use canasta_steps::{Done, StepError};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::Work;
use crate::k3s::config::changed_keys;
use crate::k3s::owned::{self, Applied, Reader, Summary, Verdict, Wanted};
use crate::k3s::record::{Kind, Owned, Record};
use crate::k3s::render::Credential;
use crate::k3s::{Error, paths, render};

/// Random bytes in the agent token.
const TOKEN_BYTES: usize = 32;
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;
/// k3s keeps others out of its server directory.
const SERVER_DIRECTORY: u32 = 0o700;

impl Work<'_> {
    pub(super) async fn config(&self, record: &mut Record) -> Result<Done, StepError> {
        let config = self.rendered(self.credential())?;
        let mut wanted = vec![Wanted::new(paths::CONFIG, config, SECRET).read_by(Reader::K3s)];
        let is_server = self.spec.role() == K3sRole::Server;
        if is_server {
            wanted.push(Wanted {
                directory_mode: SERVER_DIRECTORY,
                ..Wanted::new(paths::TRAEFIK_MANIFEST, render::traefik(), SECRET)
            });
        }
        wanted.push(Wanted::new(paths::LINK_FILE, render::link_file(), PUBLIC));
        // k3s makes this directory 0755; only the ones of the server are closed.
        owned::prepare_directory(self.host, record, paths::DATA_DIR, 0o755).await?;
        let applied = owned::apply(self.host, record, &wanted).await?;
        let mut summary = Summary::default();
        for (file, wanted) in applied.iter().zip(&wanted) {
            summary.add(
                name(&file.path),
                file.verdict,
                &what_changed(file, &wanted.content),
            );
        }
        record.node_name.clone_from(&self.spec.node_name);
        record.add_local_paths(&self.spec.local_paths);
        if is_server {
            summary.add("agent-token", self.agent_token(record).await?, "");
        }
        record.save(self.host).await?;
        Ok(summary.done())
    }

    /// The content of `config.yaml`.
    pub(super) fn rendered(&self, credential: Credential) -> Result<String, Error> {
        render::config(self.spec, credential).map_err(|source| Error::Yaml {
            path: paths::CONFIG.to_owned(),
            source,
        })
    }

    /// Makes the agent token once. One that is there is kept, whatever it holds: the nodes that joined with it need it.
    async fn agent_token(&self, record: &mut Record) -> Result<Verdict, Error> {
        let root = &self.host.root;
        let there = root.read_optional(paths::AGENT_TOKEN).await?;
        let is_whole = there.as_ref().is_some_and(|token| !token.is_empty());
        let mode_is_right = root.mode(paths::AGENT_TOKEN).await? == Some(SECRET);
        let known = record.entry(paths::AGENT_TOKEN).cloned();
        match (&known, &there) {
            (None, Some(_)) => {
                return Err(Error::NotOurs {
                    path: paths::AGENT_TOKEN.to_owned(),
                });
            }
            (Some(entry), Some(_)) if entry.created && is_whole && mode_is_right => {
                return Ok(Verdict::Same);
            }
            _ => {}
        }
        if known.is_none() {
            owned::intend(self.host, record, paths::AGENT_TOKEN, Kind::Secret, "").await?;
            record.save(self.host).await?;
        } else if !is_whole {
            // A k3s that runs goes on with the old token, and no node could join with the new one.
            record.restart_needed = true;
            record.save(self.host).await?;
        }
        let token = match there {
            Some(token) if is_whole => token,
            _ => new_token()?.into_bytes(),
        };
        root.write(paths::AGENT_TOKEN, token, SECRET).await?;
        record.put(Owned {
            path: paths::AGENT_TOKEN.to_owned(),
            kind: Kind::Secret,
            sha256: String::new(),
            created: true,
        });
        Ok(if known.is_some() {
            Verdict::Repaired
        } else {
            Verdict::Created
        })
    }
}

fn new_token() -> Result<String, Error> {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| Error::Random)?;
    Ok(owned::hex(&bytes))
}

/// The last part of a path.
fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// For the configuration, which keys; for others nothing.
fn what_changed(file: &Applied, after: &[u8]) -> String {
    let Some(before) = file
        .before
        .as_deref()
        .filter(|_| file.path == paths::CONFIG)
    else {
        return String::new();
    };
    let keys = changed_keys(before, after).join(", ");
    match file.verdict {
        Verdict::Updated if !keys.is_empty() => format!("{keys} changed"),
        Verdict::Repaired if !keys.is_empty() => format!("{keys} repaired"),
        _ => String::new(),
    }
}
