//! Why a join can't work, by what k3s logs and by whether the server can be reached. Pure; texts are those of a real k3s.

use canasta_steps::StepError;

use super::reach::Reach;
use crate::k3s::paths;
use crate::k3s::server_url::ServerUrl;

/// k3s repeats what it can't get past every few seconds; once may be a moment's trouble.
const TIMES: usize = 2;

/// Why a join can't work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server refuses the credential.
    TokenRejected,
    /// The credential is of a cluster with another CA.
    CaMismatch,
    /// k3s can't read the credential.
    TokenMalformed,
    /// There is no credential.
    TokenMissing,
    /// The server knows the node's name with another password.
    NodePasswordRejected,
    /// Nothing listens at the server's address.
    ServerRefused,
    /// Packets to the server get no answer.
    ServerFiltered,
    /// There is no way to the server; what the system says.
    ServerUnreachable(String),
    /// The server's name leads nowhere; what the resolver says.
    ServerUnresolvable(String),
    /// The server answers, but not to what an agent asks.
    ServerNotReady,
}

/// A text in the journal, in lower case, and what it gives away.
const SIGNS: [(&str, Fault); 5] = [
    ("node password rejected", Fault::NodePasswordRejected),
    ("token ca hash does not match", Fault::CaMismatch),
    ("invalid token format", Fault::TokenMalformed),
    ("--token is required", Fault::TokenMissing),
    ("401 unauthorized", Fault::TokenRejected),
];

/// Texts of an agent that doesn't get from its server what it asks for.
const UNANSWERED: [&str; 2] = ["failed to get ca certs", "503 service unavailable"];

/// The fault that the journal of one run shows by itself.
pub(super) fn of_lines(lines: &[String]) -> Option<Fault> {
    let lines: Vec<String> = lines.iter().map(|line| line.to_ascii_lowercase()).collect();
    SIGNS.iter().find_map(|(sign, fault)| {
        let mut shown = lines.iter().filter(|line| line.contains(sign));
        let is_fatal = shown.clone().any(|line| line.contains("level=fatal"));
        (is_fatal || shown.nth(TIMES - 1).is_some()).then(|| fault.clone())
    })
}

/// The fault that a join has, once it is sure. `waited`: whether the server has had its time to come up.
pub(super) fn judge(lines: &[String], reach: Option<&Reach>, waited: bool) -> Option<Fault> {
    if let Some(fault) = of_lines(lines) {
        return Some(fault);
    }
    if !waited {
        return None;
    }
    match reach? {
        Reach::Refused => Some(Fault::ServerRefused),
        Reach::NoAnswer => Some(Fault::ServerFiltered),
        Reach::Unreachable(why) => Some(Fault::ServerUnreachable(why.clone())),
        Reach::Unresolvable(why) => Some(Fault::ServerUnresolvable(why.clone())),
        Reach::Open => {
            let last = lines.last()?.to_ascii_lowercase();
            UNANSWERED
                .iter()
                .any(|text| last.contains(text))
                .then_some(Fault::ServerNotReady)
        }
    }
}

impl Fault {
    /// As an operator reads it.
    pub(super) fn into_error(self, node: &str, server: &ServerUrl) -> StepError {
        let port = server.port();
        let address = server.to_string();
        let (reason, message, hint) = match &self {
            Self::TokenRejected => (
                "JOIN_TOKEN_REJECTED",
                format!("the server {address} refuses the credential of {node}"),
                "it has expired or was revoked; run the command again: it brings a new one".to_owned(),
            ),
            Self::CaMismatch => (
                "JOIN_CA_MISMATCH",
                format!("the credential of {node} belongs to another cluster than the server {address}: the hash of its CA is another"),
                format!("the server was installed anew, or {address} leads to another machine; check the address, then run the command again: it brings a new credential"),
            ),
            Self::TokenMalformed => (
                "JOIN_TOKEN_MALFORMED",
                format!("k3s can't read the credential in {}", paths::JOIN_TOKEN),
                "run the command again: it brings a new one".to_owned(),
            ),
            Self::TokenMissing => (
                "JOIN_TOKEN_MISSING",
                format!("k3s on {node} has no credential, and this version does not start without one"),
                "run the command again: it brings a new one".to_owned(),
            ),
            Self::NodePasswordRejected => (
                "JOIN_NODE_PASSWORD_REJECTED",
                format!("the server {address} knows a node {node} with another password: another machine has this name, or this one had it before its disk was wiped"),
                format!("give this machine another hostname if another one is {node}; if this machine replaces it, delete the old one (`kubectl delete node {node}` on the control plane) and run the command again"),
            ),
            Self::ServerRefused => (
                "JOIN_SERVER_REFUSED",
                format!("nothing listens at the server {address}"),
                "start k3s on the control plane (`systemctl status k3s` there tells why it is down), then run the command again".to_owned(),
            ),
            Self::ServerFiltered => (
                "JOIN_SERVER_FILTERED",
                format!("the server {address} does not answer: packets from {node} are dropped on the way"),
                format!("open port {port}/tcp from {node} to {} in the firewalls between them and on the control plane, then run the command again", server.host()),
            ),
            Self::ServerUnreachable(_) => (
                "JOIN_SERVER_UNREACHABLE",
                format!("there is no way from {node} to the server {address}"),
                format!("check that {} is up and that both machines are in one network or have routes to each other (`ip route get {}` on {node}), then run the command again", server.host(), server.host()),
            ),
            Self::ServerUnresolvable(_) => (
                "JOIN_SERVER_UNRESOLVABLE",
                format!("{node} can't find an address for the server's name {}", server.host()),
                format!("mend name resolution on {node} (`getent hosts {}`), or give the control plane an address that needs none, then run the command again", server.host()),
            ),
            Self::ServerNotReady => (
                "JOIN_SERVER_NOT_READY",
                format!("the server {address} takes connections but does not answer agents"),
                "look at `journalctl -u k3s` on the control plane; k3s on this node goes on trying, so run the command again once it is well".to_owned(),
            ),
        };
        let error = StepError::new(reason, message).subject(address).hint(hint);
        match self {
            Self::ServerUnreachable(why) | Self::ServerUnresolvable(why) => error.cause(why),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = r#"time="…" level=error msg="failed to get CA certs: Get \"https://127.0.0.1:6444/cacerts\": EOF""#;

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    /// Lines as a real k3s logs them.
    #[test]
    fn what_k3s_repeats_names_the_fault() {
        for (line, fault) in [
            (
                r#"time="…" level=error msg="Failed to configure agent: failed to retrieve configuration from server: https://127.0.0.1:6444/v1-k3s/config: 401 Unauthorized""#,
                Fault::TokenRejected,
            ),
            (
                r#"time="…" level=error msg="token CA hash does not match the Cluster CA certificate hash: 6ef4 != 5de3""#,
                Fault::CaMismatch,
            ),
            (
                r#"time="…" level=error msg="invalid token format""#,
                Fault::TokenMalformed,
            ),
            (
                r#"time="…" level=error msg="Failed to configure agent: Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag""#,
                Fault::NodePasswordRejected,
            ),
        ] {
            assert_eq!(of_lines(&lines(&[line])), None, "once is not enough");
            assert_eq!(of_lines(&lines(&[line, "x", line])), Some(fault));
        }
        let fatal = r#"time="…" level=fatal msg="--token is required""#;
        assert_eq!(of_lines(&lines(&[fatal])), Some(Fault::TokenMissing));
        let starting = r#"time="…" level=info msg="Starting k3s agent v1.21.3+k3s1 (1d1f220f)""#;
        assert_eq!(of_lines(&lines(&[starting, starting])), None);
    }

    #[test]
    fn a_server_that_cannot_be_reached_gets_its_time() {
        let why = "x".to_owned();
        for (reach, fault) in [
            (Reach::Refused, Some(Fault::ServerRefused)),
            (Reach::NoAnswer, Some(Fault::ServerFiltered)),
            (
                Reach::Unreachable(why.clone()),
                Some(Fault::ServerUnreachable(why.clone())),
            ),
            (
                Reach::Unresolvable(why.clone()),
                Some(Fault::ServerUnresolvable(why)),
            ),
            (Reach::Open, Some(Fault::ServerNotReady)),
        ] {
            let seen = lines(&[REFUSED, REFUSED]);
            assert_eq!(judge(&seen, Some(&reach), false), None);
            assert_eq!(judge(&seen, Some(&reach), true), fault);
        }
        // Packets that are dropped leave no line for 20 s; a server that answers and an agent that says nothing are at work.
        assert_eq!(
            judge(&[], Some(&Reach::NoAnswer), true),
            Some(Fault::ServerFiltered)
        );
        assert_eq!(judge(&[], Some(&Reach::Open), true), None);
        assert_eq!(
            judge(&lines(&[REFUSED, "well"]), Some(&Reach::Open), true),
            None
        );
        assert_eq!(judge(&lines(&[REFUSED]), None, true), None);
    }
}
