//! Users, the audit trail and artefacts as they are printed.

use canasta_proto::pb;
use jiff::Timestamp;
use serde::Serialize;

use super::host::known;
use super::{age, size, time, word};
use crate::output;

/// `canasta user list`.
#[derive(Debug, Serialize)]
pub(crate) struct UserList {
    users: Vec<User>,
}

#[derive(Debug, Serialize)]
struct User {
    name: String,
    role: String,
    added_at: Option<Timestamp>,
    certificate_expires_at: Option<Timestamp>,
}

/// `canasta user add`.
#[derive(Debug, Serialize)]
pub(crate) struct UserAdded {
    user: User,
    token: String,
    token_expires_at: Option<Timestamp>,
}

/// A role as a word.
pub(crate) fn role_word(role: pb::Role) -> String {
    word(role.as_str_name(), "ROLE_")
}

impl From<pb::User> for User {
    fn from(user: pb::User) -> Self {
        Self {
            role: role_word(user.role()),
            added_at: time(user.added_at),
            certificate_expires_at: time(user.certificate_expires_at),
            name: user.name,
        }
    }
}

impl UserList {
    pub(crate) fn new(users: Vec<pb::User>) -> Self {
        Self {
            users: users.into_iter().map(Into::into).collect(),
        }
    }

    pub(crate) fn table(&self) -> String {
        if self.users.is_empty() {
            return "no users yet; on the controller itself none is needed\n".to_owned();
        }
        output::table(
            ["NAME", "ROLE", "ADDED", "CERTIFICATE"],
            self.users.iter().map(|user| {
                [
                    user.name.clone(),
                    user.role.clone(),
                    format!("{} ago", age(user.added_at)),
                    user.certificate_expires_at.map_or_else(
                        || "token not redeemed yet".to_owned(),
                        |at| format!("ends {}", at.strftime("%Y-%m-%d")),
                    ),
                ]
            }),
        )
    }
}

impl UserAdded {
    pub(crate) fn new(added: pb::AddUserResponse) -> Self {
        Self {
            user: added.user.unwrap_or_default().into(),
            token: added.token,
            token_expires_at: time(added.token_expires_at),
        }
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "user '{}' is {}; run this on the user's machine:\n\n  canasta context add NAME --controller ADDRESS --token-file -\n\n\
             and paste this token (good for one use and one hour):\n\n  {}\n",
            self.user.name, self.user.role, self.token
        )
    }
}

/// `canasta audit`.
#[derive(Debug, Serialize)]
pub(crate) struct Audit {
    rows: Vec<AuditRow>,
}

#[derive(Debug, Serialize)]
struct AuditRow {
    id: u64,
    at: Option<Timestamp>,
    who: String,
    from: String,
    what: String,
    subject: String,
    operation_id: Option<String>,
    outcome: String,
}

impl Audit {
    pub(crate) fn new(rows: Vec<pb::AuditRow>) -> Self {
        Self {
            rows: rows
                .into_iter()
                .map(|row| AuditRow {
                    id: row.id,
                    at: time(row.at),
                    who: row.who,
                    from: row.from,
                    what: row.what,
                    subject: row.subject,
                    operation_id: known(row.operation_id),
                    outcome: row.outcome,
                })
                .collect(),
        }
    }

    pub(crate) fn table(&self) -> String {
        output::table(
            ["WHEN", "WHO", "FROM", "WHAT", "ABOUT", "OUTCOME"],
            self.rows.iter().map(|row| {
                [
                    row.at.map_or_else(
                        || "-".to_owned(),
                        |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
                    ),
                    row.who.clone(),
                    row.from.clone(),
                    row.what.rsplit('/').next().unwrap_or_default().to_owned(),
                    row.subject.clone(),
                    row.outcome.clone(),
                ]
            }),
        )
    }
}

/// `canasta artefact list`.
#[derive(Debug, Serialize)]
pub(crate) struct ArtefactList {
    artefacts: Vec<Artefact>,
}

#[derive(Debug, Serialize)]
struct Artefact {
    name: String,
    version: String,
    arch: String,
    sha256: String,
    size: u64,
    source: String,
    stored_at: Option<Timestamp>,
}

impl ArtefactList {
    pub(crate) fn new(artefacts: Vec<pb::Artefact>) -> Self {
        Self {
            artefacts: artefacts
                .into_iter()
                .map(|artefact| Artefact {
                    name: artefact.name,
                    version: artefact.version,
                    arch: artefact.arch,
                    sha256: artefact.sha256,
                    size: artefact.size,
                    source: artefact.source,
                    stored_at: time(artefact.stored_at),
                })
                .collect(),
        }
    }

    pub(crate) fn table(&self) -> String {
        if self.artefacts.is_empty() {
            return "no artefacts yet; a release is fetched when it is first installed\n"
                .to_owned();
        }
        output::table(
            ["NAME", "VERSION", "ARCH", "SIZE", "SHA-256", "FROM"],
            self.artefacts.iter().map(|artefact| {
                [
                    artefact.name.clone(),
                    artefact.version.clone(),
                    artefact.arch.clone(),
                    size(artefact.size),
                    artefact.sha256.chars().take(16).collect(),
                    artefact.source.clone(),
                ]
            }),
        )
    }
}
