//! `k3s token create|list|delete|generate` of newer releases, through the API with the admin's kubeconfig.

use std::path::Path;

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{BootstrapToken, SECRET_TYPE, duration, field, secret_name};
use crate::client::Client;
use crate::kubectl::{Output, kubeconfig};
use crate::token;

const FOLDER: &str = "/api/v1/namespaces/kube-system/secrets";
const DEFAULT_TTL: SignedDuration = SignedDuration::from_hours(24);

/// Runs `k3s token` with `arguments` and the kubeconfig at `path`.
pub async fn run(path: &Path, arguments: &[String]) -> Output {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["create", options @ ..] => create(path, options).await,
        ["list", ..] => list(path).await,
        ["delete", ids @ ..] => delete(path, ids).await,
        ["generate", ..] => Ok(format!("{}\n", BootstrapToken::random())),
        _ => Ok(
            "NAME:\n   k3s token - Manage tokens\n\nUSAGE:\n   k3s token command [command options] [arguments...]\n\n\
             COMMANDS:\n   create    Create bootstrap tokens on the server\n   delete    Delete bootstrap tokens on the \
             server\n   generate  Generate and print a bootstrap token, but do not create it on the server\n   list      \
             List bootstrap tokens on the server\n"
                .to_owned(),
        ),
    };
    match outcome {
        Ok(stdout) => Output {
            stdout,
            stderr: String::new(),
            code: 0,
        },
        Err(message) => Output::fatal(&message),
    }
}

/// What `create` was asked for.
struct Request {
    ttl: SignedDuration,
    description: String,
    token: BootstrapToken,
}

impl Request {
    fn parse(options: &[&str]) -> Result<Self, String> {
        let mut request = Self {
            ttl: DEFAULT_TTL,
            description: String::new(),
            token: BootstrapToken::random(),
        };
        let mut rest = options.iter();
        while let Some(option) = rest.next() {
            let Some(name) = option.strip_prefix('-') else {
                request.token = BootstrapToken::parse(option).ok_or_else(|| {
                    format!("the bootstrap token {option:?} was not of the form \"\\\\A([a-z0-9]{{6}})\\\\.([a-z0-9]{{16}})\\\\z\"")
                })?;
                continue;
            };
            let name = name.trim_start_matches('-');
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, value),
                None => (
                    name,
                    *rest
                        .next()
                        .ok_or_else(|| format!("flag needs an argument: -{name}"))?,
                ),
            };
            match name {
                "ttl" => {
                    request.ttl = duration(value).ok_or_else(|| {
                        format!("invalid value {value:?} for flag -ttl: parse error")
                    })?;
                }
                "description" => value.clone_into(&mut request.description),
                "kubeconfig" | "groups" | "usages" | "data-dir" => {}
                other => return Err(format!("flag provided but not defined: -{other}")),
            }
        }
        Ok(request)
    }
}

async fn create(path: &Path, options: &[&str]) -> Result<String, String> {
    let request = Request::parse(options)?;
    let client = client(path)?;
    let expires = (!request.ttl.is_zero()).then(|| Timestamp::now() + request.ttl);
    let secret = request.token.to_secret(expires, &request.description);
    let cacerts = client
        .get("/cacerts")
        .await
        .map_err(|error| error.to_string())?
        .text();
    let headers = [("Content-Type", "application/json")];
    let answer = client
        .send(Method::POST, FOLDER, &headers, secret.to_string())
        .await
        .map_err(|error| error.to_string())?;
    match answer.status.as_u16() {
        201 => Ok(format!(
            "K10{}::{}\n",
            token::hash(cacerts.as_bytes()),
            request.token
        )),
        409 => Err(format!(
            "a token with id {:?} already exists",
            request.token.id
        )),
        _ => Err(message(&answer.json())),
    }
}

async fn list(path: &Path) -> Result<String, String> {
    let selector = SECRET_TYPE.replace('/', "%2F");
    let answer = client(path)?
        .get(&format!("{FOLDER}?fieldSelector=type%3D{selector}"))
        .await
        .map_err(|error| error.to_string())?;
    if !answer.status.is_success() {
        return Err(message(&answer.json()));
    }
    let mut rows = vec![["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION"].map(str::to_owned)];
    let list = answer.json();
    for secret in list["items"].as_array().into_iter().flatten() {
        let text = |name: &str| field(secret, name).unwrap_or_else(|| "<none>".into());
        let (ttl, expires) = match field(secret, "expiration") {
            Some(text) => (left(&text), text),
            None => ("<forever>".into(), "<never>".into()),
        };
        rows.push([
            text("token-id"),
            ttl,
            expires,
            "authentication,signing".into(),
            text("description"),
        ]);
    }
    Ok(rows
        .iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().map(|cell| format!("{cell:<10}")).collect();
            format!("{}\n", cells.join("   ").trim_end())
        })
        .collect())
}

fn left(expires: &str) -> String {
    let seconds = expires
        .parse::<Timestamp>()
        .map_or(0, |time| time.as_second() - Timestamp::now().as_second());
    match seconds {
        ..0 => "<invalid>".into(),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

async fn delete(path: &Path, ids: &[&str]) -> Result<String, String> {
    if ids.is_empty() {
        return Err("missing argument; 'token delete' is missing token".into());
    }
    let client = client(path)?;
    let mut text = String::new();
    for id in ids {
        let id = BootstrapToken::parse(id).map_or_else(|| (*id).to_owned(), |token| token.id);
        let answer = client
            .send(
                Method::DELETE,
                &format!("{FOLDER}/{}", secret_name(&id)),
                &[],
                "",
            )
            .await
            .map_err(|error| error.to_string())?;
        if !answer.status.is_success() {
            return Err(format!(
                "failed to delete bootstrap token {id:?}: {}",
                message(&answer.json())
            ));
        }
        text.push_str(&format!("bootstrap token {id:?} deleted\n"));
    }
    Ok(text)
}

fn client(path: &Path) -> Result<Client, String> {
    kubeconfig(path)
        .map(|(_, client)| client)
        .ok_or_else(|| format!("stat {}: no such file or directory", path.display()))
}

fn message(status: &Value) -> String {
    status["message"]
        .as_str()
        .unwrap_or("the server is not ready")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_takes_its_options_in_both_forms() {
        let request = Request::parse(&["--ttl", "10m", "--description=join of w1"]).unwrap();
        assert_eq!(request.ttl, SignedDuration::from_mins(10));
        assert_eq!(request.description, "join of w1");
        assert_eq!(Request::parse(&[]).unwrap().ttl, DEFAULT_TTL);
        let named = Request::parse(&["abcdef.0123456789abcdef"]).unwrap();
        assert_eq!(named.token.id, "abcdef");
        assert!(Request::parse(&["--ttl"]).is_err());
        assert!(Request::parse(&["--nonsense=1"]).is_err());
        assert!(Request::parse(&["ABC.def"]).is_err());
    }
}
