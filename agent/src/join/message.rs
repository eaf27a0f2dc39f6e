//! What goes over the socket: one line of JSON with what is asked, then a line of JSON for each answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A token in transit. Shows nothing of itself but to the serialiser.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenText(String);

impl TokenText {
    /// Wraps a token as a person gave it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The token.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenText(redacted)")
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// Join a fleet.
    Join(JoinRequest),
    /// Tell what the agent is doing.
    Status,
}

/// A join. Also the form of `/etc/canasta/join.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The controller: `ADDR` or `ADDR:PORT`.
    pub controller: String,
    /// The join token.
    pub token: TokenText,
    /// Where the controller should dial this node, if not at the address that it comes from: `ADDR` or `ADDR:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// The name that this machine expects to be known by, if the token's should be checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An answer. The last one is `done`, `error` or `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Answer {
    /// What is going on.
    Progress {
        /// In words.
        message: String,
    },
    /// The node is a member.
    Done(Done),
    /// It is not, and this is why.
    Error(Failure),
    /// What the agent is doing.
    Status(Status),
}

/// The end of a join that went well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The name of this host in the fleet.
    pub name: String,
    /// The fleet.
    pub fleet_id: String,
    /// Where the agent listens.
    pub listening: String,
    /// Whether the controller reached the agent there; absent when it did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<bool>,
    /// Each address that the controller dialled.
    pub attempts: Vec<Attempt>,
    /// What to do when it was not reached; empty otherwise.
    pub hint: String,
}

/// An address that the controller dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// `HOST:PORT`.
    pub address: String,
    /// Why it failed; empty when it worked.
    pub error: String,
}

/// Why a join did not go well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, upper case: `CLOCK_SKEW`.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// The chain of causes, nearest first.
    pub causes: Vec<String>,
    /// What to do next; may be empty.
    pub hint: String,
}

/// What the agent is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// In words, as systemd shows it: `waiting for join`.
    pub state: String,
    /// The agent's version.
    pub version: String,
    /// True when the node is a member of a fleet.
    pub joined: bool,
    /// The fleet; absent before the first join, as the next ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet_id: Option<String>,
    /// The name of this host in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the agent listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<String>,
    /// When its certificate ends, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<String>,
    /// The task that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_task: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{Ask, JoinRequest, TokenText};

    #[test]
    fn asks_are_read_and_tokens_are_not_shown() {
        let text = r#"{"ask":"join","controller":"ctl:7440","token":"canasta-join.a.b"}"#;
        let ask: Ask = serde_json::from_str(text).expect("ask");
        let expected = JoinRequest {
            controller: "ctl:7440".to_owned(),
            token: TokenText::new("canasta-join.a.b"),
            advertise: None,
            name: None,
        };
        assert_eq!(ask, Ask::Join(expected));
        assert!(!format!("{ask:?}").contains("canasta-join"));
        assert_eq!(serde_json::to_string(&ask).expect("json"), text);
        assert_eq!(
            serde_json::from_str::<Ask>(r#"{"ask":"status"}"#).expect("ask"),
            Ask::Status
        );
        assert!(serde_json::from_str::<Ask>(r#"{"ask":"shell","command":"x"}"#).is_err());
    }
}
