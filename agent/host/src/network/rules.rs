//! The packet rules of the machine as text, as its tools print them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command;

/// How long a tool may take, and how much of its text is kept.
const LIMIT: Duration = Duration::from_secs(10);
const CAP: usize = 4 * 1024 * 1024;

/// What one tool printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruleset {
    /// The rules. Counters and comments are part of it, so two of them are compared rule by rule.
    Text(String),
    /// Why there is no text: the tool isn't installed, or said no.
    Missing(String),
}

impl Ruleset {
    /// The text, if there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing(_) => None,
        }
    }
}

/// The packet rules by tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRules {
    /// `iptables-save`.
    pub iptables: Ruleset,
    /// `ip6tables-save`.
    pub ip6tables: Ruleset,
    /// `nft list ruleset`.
    pub nft: Ruleset,
}

/// Asks the three tools.
pub(super) async fn read() -> PacketRules {
    let (iptables, ip6tables, nft) = tokio::join!(
        ask("iptables-save", &[]),
        ask("ip6tables-save", &[]),
        ask("nft", &["list", "ruleset"])
    );
    PacketRules {
        iptables,
        ip6tables,
        nft,
    }
}

async fn ask(tool: &str, arguments: &[&str]) -> Ruleset {
    match command::run(tool, arguments, LIMIT, CAP).await {
        Ok(output) if output.truncated => {
            Ruleset::Missing(format!("{tool} printed more than {CAP} bytes"))
        }
        Ok(output) => Ruleset::Text(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) if error.is_missing_program() => {
            Ruleset::Missing(format!("{tool} is not installed"))
        }
        Err(error) => Ruleset::Missing(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_that_is_missing_or_says_no_is_told_from_empty_rules() {
        assert_eq!(
            ask("canasta-no-such-tool", &[]).await,
            Ruleset::Missing("canasta-no-such-tool is not installed".to_owned())
        );
        assert_eq!(ask("true", &[]).await.text(), Some(""));
        assert!(
            matches!(ask("false", &[]).await, Ruleset::Missing(reason) if reason.contains("exit status: 1"))
        );
    }
}
