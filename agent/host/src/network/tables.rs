//! The tables of iptables and ip6tables: read by chain and rule, and changed rule by rule.
//!
//! A kernel may hold two sets of them at once, those of nftables and the old ones, each with tools of its own. Whole tables are
//! never written back: between reading and writing another program may have added a rule.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rules::Ruleset;
use super::{Family, NetworkError};
use crate::command;

#[cfg(test)]
mod tests;

/// How long a tool may take, and how much of its text is kept.
const LIMIT: Duration = Duration::from_secs(30);
const CAP: usize = 16 * 1024 * 1024;

/// How long a tool waits for another program that holds the tables, in seconds.
const LOCK_SECONDS: &str = "10";

/// The kinds of tables that have tools of their own, and what the machine calls its choice of them.
const KINDS: [&str; 2] = ["-nft", "-legacy"];
const CHOICE: &str = "";

/// A tool for one set of tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// For people: `iptables-nft`.
    pub name: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The program that changes them.
    pub restore: String,
}

/// What a tool printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// The tool.
    pub tool: Tool,
    /// All of its tables as text.
    pub rules: Ruleset,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// `filter`, `nat`, `mangle`, `raw`.
    pub name: String,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Whether the kernel has it anyway.
    pub is_built_in: bool,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The chain that it stands in.
    pub chain: String,
    /// The rest of its line, as the tool printed it and takes it.
    pub spec: String,
    /// The same as words, quotes taken off.
    pub words: Vec<String>,
}

impl Rule {
    /// Where it leads: a chain, or a verdict as `ACCEPT`.
    pub fn target(&self) -> Option<&str> {
        let at = self
            .words
            .iter()
            .position(|word| matches!(word.as_str(), "-j" | "-g"))?;
        self.words.get(at + 1).map(String::as_str)
    }
}

/// Reads what `iptables-save` prints; lines in another form are left out.
pub fn parse(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table {
                name: name.trim().to_owned(),
                ..Table::default()
            });
            continue;
        }
        let Some(table) = tables.last_mut() else {
            continue;
        };
        if let Some(rest) = line.strip_prefix(':') {
            let mut parts = rest.split_whitespace();
            if let (Some(name), Some(policy)) = (parts.next(), parts.next()) {
                table.chains.push(Chain {
                    name: name.to_owned(),
                    is_built_in: policy != "-",
                });
            }
        } else if let Some((chain, spec)) = line
            .strip_prefix("-A ")
            .map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
        {
            table.rules.push(Rule {
                chain: chain.to_owned(),
                spec: spec.to_owned(),
                words: words(spec),
            });
        }
    }
    tables
}

/// Splits a rule; double quotes hold words together, and a backslash takes the meaning of what follows.
fn words(spec: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for character in spec.chars() {
        match character {
            _ if escaped => {
                word.get_or_insert_default().push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// Asks every tool that is there.
pub(super) async fn read(own_programs: &Path) -> Vec<Tables> {
    let mut found = Vec::new();
    for (base, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        let mut of_family = Vec::new();
        for kind in KINDS {
            of_family.extend(ask("", base, kind, family).await);
        }
        if of_family.is_empty() {
            of_family.extend(ask("", base, CHOICE, family).await);
        }
        let own = own_programs.display().to_string();
        if of_family.is_empty() && !own.is_empty() {
            for kind in KINDS.into_iter().chain([CHOICE]) {
                of_family.extend(ask(&format!("{own}/"), base, kind, family).await);
            }
        }
        found.extend(of_family);
    }
    found
}

/// Asks one tool; `None` where it isn't installed.
async fn ask(directory: &str, base: &str, kind: &str, family: Family) -> Option<Tables> {
    let save = format!("{directory}{base}{kind}-save");
    let rules = match command::run(&save, [""; 0], LIMIT, CAP).await {
        Ok(output) if output.truncated => {
            Ruleset::Missing(format!("{save} printed more than {CAP} bytes"))
        }
        Ok(output) => Ruleset::Text(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) if error.is_missing_program() => return None,
        Err(error) => Ruleset::Missing(error.to_string()),
    };
    Some(Tables {
        tool: Tool {
            name: format!("{base}{kind}"),
            family,
            restore: format!("{directory}{base}{kind}-restore"),
        },
        rules,
    })
}

/// Changes rules; the tool does all of the lines of a table or none.
pub(super) async fn edit(tool: &Tool, lines: &str) -> Result<(), NetworkError> {
    let arguments = ["--noflush", "--wait", LOCK_SECONDS];
    command::run_with_input(&tool.restore, arguments, lines.as_bytes(), LIMIT, CAP)
        .await
        .map(drop)
        .map_err(|source| NetworkError::Rules {
            program: tool.restore.clone(),
            source,
        })
}
