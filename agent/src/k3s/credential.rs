//! Credentials with which agents join: made on a server, kept on the node that joins. Called by the rpcs of the same names.
//!
//! The weakest that k3s has is made: a bootstrap token where this version knows them, else the cluster's own agent token. The
//! server's token never leaves its node.

use std::time::Duration;

use canasta_host::{Host, command};
use canasta_proto::pb::JoinCredentialKind;
use canasta_steps::StepError;

use super::install::ours;
use super::join_token::{JoinToken, bootstrap_id};
use super::owned::{self, sha256};
use super::record::{Kind, Owned, Role};
use super::traces::Traces;
use super::{Error, api, config, paths};

/// How long `k3s token create` may take: it unpacks the binary and asks the API server.
const LIMIT: Duration = Duration::from_secs(45);
/// How much of its output is kept.
const CAP: usize = 16 * 1024;
/// How k3s ends when it doesn't know a command.
const UNKNOWN_COMMAND: i32 = 3;
/// What it says then.
const NO_SUCH_TOPIC: &str = "No help topic for 'token'";
const SECRET: u32 = 0o600;

/// A credential that was made.
#[derive(Debug)]
pub struct Created {
    /// The whole token.
    pub token: JoinToken,
    /// What it is.
    pub kind: JoinCredentialKind,
}

/// Makes the weakest credential with which an agent can join the server on this node.
///
/// # Errors
/// `NOT_A_SERVER`, `NO_JOIN_CREDENTIAL`, `TOKEN_CREATE_FAILED`; errors of files and of systemd.
pub async fn create(host: &Host, ttl: Duration, description: &str) -> Result<Created, StepError> {
    let traces = Traces::look(host).await?;
    let (Some(_), Some(binary)) = (&traces.server_unit, &traces.binary) else {
        return Err(StepError::new(
            "NOT_A_SERVER",
            "k3s on this node is no server, so it has no credential for agents",
        )
        .subject(paths::SERVER_UNIT)
        .hint("join through a host that is a control plane; `canasta cluster list` shows them"));
    };
    let Some(ca_hash) = api::ca_hash(host).await.map_err(Error::from)? else {
        return Err(StepError::new(
            "SERVER_NOT_STARTED",
            format!(
                "there is no {}: k3s has not been started on this node",
                paths::SERVER_CA
            ),
        )
        .subject(paths::SERVER_UNIT)
        .hint(
            "start k3s (`systemctl status k3s` tells why it is down), then run the command again",
        ));
    };
    if let Some(token) = bootstrap(host, binary, ttl, description, &ca_hash).await? {
        return Ok(Created {
            token,
            kind: JoinCredentialKind::BootstrapToken,
        });
    }
    match agent_token(host, &ca_hash).await? {
        Some(token) => Ok(Created {
            token,
            kind: JoinCredentialKind::AgentToken,
        }),
        None => Err(StepError::new(
            "NO_JOIN_CREDENTIAL",
            "this cluster has no credential for agents but the server's own token, which would make every node an administrator",
        )
        .subject(paths::SERVER_UNIT)
        .hint(format!(
            "give it an agent token (write a random secret into a file that only root can read, set `agent-token-file: FILE` in {}/agent-token.yaml, restart k3s), or upgrade k3s to a version that knows `k3s token create`",
            paths::CONFIG_DROP_INS
        ))),
    }
}

/// Has k3s make a bootstrap token; `None` where this version knows none.
async fn bootstrap(
    host: &Host,
    binary: &str,
    ttl: Duration,
    description: &str,
    ca_hash: &str,
) -> Result<Option<JoinToken>, StepError> {
    let program = host.root.path(binary);
    let ttl = format!("{}s", ttl.as_secs());
    let arguments = [
        "token",
        "create",
        "--ttl",
        &ttl,
        "--description",
        description,
    ];
    let output = match host.processes.run(&program, &arguments, LIMIT, CAP).await {
        Ok(output) => output,
        Err(command::Error::Failed {
            status,
            stderr_tail,
            ..
        }) if status.code() == Some(UNKNOWN_COMMAND) || stderr_tail.contains(NO_SUCH_TOPIC) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(StepError::from_source("TOKEN_CREATE_FAILED", &error)
                .subject(paths::SERVER_UNIT)
                .hint("k3s asks its own API server for the token: look at `systemctl status k3s` on the control plane, then run the command again"));
        }
    };
    // The secret: it is kept out of errors, so what else was printed is not told.
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or_default();
    let token = if bootstrap_id(last).is_some() {
        JoinToken::of(ca_hash, last)
    } else {
        last.parse()
    };
    match token {
        Ok(token) if token.bootstrap_id().is_some() => Ok(Some(token)),
        _ => Err(StepError::new(
            "TOKEN_CREATE_FAILED",
            format!(
                "{} token create printed no bootstrap token",
                program.display()
            ),
        )
        .subject(paths::SERVER_UNIT)
        .hint("run `k3s token create` on the control plane by hand to see what it prints")),
    }
}

/// The cluster's own agent token; `None` where it is the server's too.
async fn agent_token(host: &Host, ca_hash: &str) -> Result<Option<JoinToken>, StepError> {
    let servers = secret(host, paths::SERVER_TOKEN).await?;
    let configured = config::read(host).await?.agent_token_file;
    // A file that the operator names later in the configuration is the one in effect.
    let own = [&configured, paths::AGENT_TOKEN, paths::SERVER_AGENT_TOKEN];
    for path in own.into_iter().filter(|path| !path.is_empty()) {
        let Some(secret) = secret(host, path).await? else {
            continue;
        };
        if servers.is_none() || servers.as_ref() == Some(&secret) {
            continue;
        }
        let token = JoinToken::of(ca_hash, &format!("node:{secret}"));
        return token.map(Some).map_err(|rule| {
            StepError::from_source("AGENT_TOKEN_UNUSABLE", &rule)
                .subject(path)
                .hint(format!("look at {path} on the control plane: it holds one line, the secret alone or a whole token of k3s"))
        });
    }
    Ok(None)
}

/// The secret in a token's file, which holds it alone or as `K10<hash>::<user>:<secret>`.
async fn secret(host: &Host, path: &str) -> Result<Option<String>, Error> {
    let Some(text) = host.root.read_text(path).await? else {
        return Ok(None);
    };
    let text = text.trim();
    let credential = text.split_once("::").map_or(text, |(_, rest)| rest);
    let secret = credential
        .split_once(':')
        .map_or(credential, |(_, secret)| secret);
    Ok(Some(secret.to_owned()).filter(|secret| !secret.is_empty()))
}

/// Keeps a credential in its file until it is dropped or k3s is uninstalled.
///
/// # Errors
/// Those of a k3s that is not ours or no agent; `FILE_NOT_OURS`; errors of files.
pub async fn store(host: &Host, token: &JoinToken) -> Result<(), StepError> {
    let mut record = ours(host, Role::Agent).await?;
    let root = &host.root;
    let there = root
        .read_optional(paths::JOIN_TOKEN)
        .await
        .map_err(Error::from)?;
    let wanted = token.reveal().as_bytes();
    match (record.entry(paths::JOIN_TOKEN), &there) {
        (None, Some(_)) => {
            return Err(Error::NotOurs {
                path: paths::JOIN_TOKEN.to_owned(),
            }
            .into());
        }
        (None, None) => {
            owned::intend(host, &mut record, paths::JOIN_TOKEN, Kind::Secret, "").await?;
            record.save(host).await?;
        }
        (Some(_), there) => {
            if there.as_deref().map(sha256) != Some(sha256(wanted)) {
                // k3s reads it at its start alone.
                record.restart_needed = true;
                record.save(host).await?;
            }
        }
    }
    root.write(paths::JOIN_TOKEN, wanted, SECRET)
        .await
        .map_err(Error::from)?;
    record.put(Owned {
        path: paths::JOIN_TOKEN.to_owned(),
        kind: Kind::Secret,
        sha256: String::new(),
        created: true,
    });
    owned::mark_directories(&mut record);
    record.save(host).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
