//! Bootstrap tokens of newer releases: their form, the Secret in `kube-system` that Kubernetes documents for them, and
//! when one is good. `k3s token` makes them, the supervisor accepts them from agents.

use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

pub mod command;

/// The type of the Secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

const GROUP: &str = "system:bootstrappers:k3s:default-node-token";

/// `<id>.<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Six characters that name it.
    pub id: String,
    /// Sixteen characters that prove it.
    pub secret: String,
}

impl std::fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BootstrapToken({})", self.id)
    }
}

impl std::fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl BootstrapToken {
    /// A new one.
    pub fn random() -> Self {
        Self {
            id: random(6),
            secret: random(16),
        }
    }

    /// Reads `<id>.<secret>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let plain = |text: &str, length: usize| {
            text.len() == length
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        (plain(id, 6) && plain(secret, 16)).then(|| Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The Secret that makes the token good until `expires`.
    pub fn to_secret(&self, expires: Option<Timestamp>, description: &str) -> Value {
        let mut data = json!({
            "token-id": encode(&self.id),
            "token-secret": encode(&self.secret),
            "usage-bootstrap-authentication": encode("true"),
            "usage-bootstrap-signing": encode("true"),
            "auth-extra-groups": encode(GROUP),
        });
        if !description.is_empty() {
            data["description"] = encode(description).into();
        }
        if let Some(expires) = expires {
            data["expiration"] = encode(&rfc3339(expires)).into();
        }
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": secret_name(&self.id), "namespace": "kube-system"},
            "type": SECRET_TYPE,
            "data": data,
        })
    }
}

/// The name of a token's Secret.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Whether a Secret is a bootstrap token whose time has come.
pub fn is_expired(secret: &Value, now: Timestamp) -> bool {
    secret["type"] == SECRET_TYPE
        && field(secret, "expiration").is_some_and(|text| {
            text.parse::<Timestamp>()
                .map_or(true, |expires| expires <= now)
        })
}

/// Whether a Secret lets this token authenticate now.
pub fn accepts(secret: &Value, token: &BootstrapToken, now: Timestamp) -> bool {
    secret["type"] == SECRET_TYPE
        && !is_expired(secret, now)
        && field(secret, "token-id").as_deref() == Some(&token.id)
        && field(secret, "token-secret").as_deref() == Some(&token.secret)
        && field(secret, "usage-bootstrap-authentication").as_deref() == Some("true")
}

/// One field of a Secret, decoded.
pub fn field(secret: &Value, name: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(secret["data"][name].as_str()?)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Reads a duration as Go writes it, such as `10m` or `1h30m0s`.
pub fn duration(text: &str) -> Option<SignedDuration> {
    if text == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (!text.is_empty())
        .then(|| SignedDuration::try_from_secs_f64(seconds).ok())
        .flatten()
}

/// A time as the Secret and `k3s token list` write it.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn encode(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

// Hex digits are among the letters and digits that a token may have.
fn random(length: usize) -> String {
    crate::token::random()[..length].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_as_kubernetes_documents_it_and_ends() {
        let token = BootstrapToken::parse("abcdef.0123456789abcdef").unwrap();
        let expires: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let secret = token.to_secret(Some(expires), "join of w1");
        assert_eq!(secret["metadata"]["name"], "bootstrap-token-abcdef");
        assert_eq!(field(&secret, "description").unwrap(), "join of w1");
        assert_eq!(
            field(&secret, "expiration").unwrap(),
            "2026-11-25T12:00:00Z"
        );
        let before = expires - SignedDuration::from_secs(1);
        assert!(accepts(&secret, &token, before));
        assert!(!accepts(&secret, &token, expires));
        assert!(is_expired(&secret, expires) && !is_expired(&secret, before));
        let other = BootstrapToken::parse("abcdef.0123456789abcdee").unwrap();
        assert!(!accepts(&secret, &other, before));
        assert!(accepts(
            &token.to_secret(None, ""),
            &token,
            expires + SignedDuration::from_hours(9999)
        ));
    }

    #[test]
    fn durations_are_those_of_go() {
        assert_eq!(duration("10m"), Some(SignedDuration::from_mins(10)));
        assert_eq!(duration("1h30m0s"), Some(SignedDuration::from_mins(90)));
        assert_eq!(duration("0"), Some(SignedDuration::ZERO));
        assert_eq!(duration("1500ms"), Some(SignedDuration::from_millis(1500)));
        assert_eq!(duration("10"), None);
        assert_eq!(duration(""), None);
    }
}
