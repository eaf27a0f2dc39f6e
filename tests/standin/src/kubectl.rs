//! `k3s kubectl`: the little that people and tests type on a node: nodes, printed as recorded, and raw requests.

use std::path::Path;

use base64::Engine as _;
use http::Method;
use serde_json::Value;

use crate::client::{Client, ClientError, Trust};
use crate::node::ready_status;
use crate::pki::Identity;

/// What a command prints and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// For stdout.
    pub stdout: String,
    /// For stderr.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

impl Output {
    fn failed(message: impl Into<String>) -> Self {
        Self {
            stdout: String::new(),
            stderr: message.into() + "\n",
            code: 1,
        }
    }

    /// A fatal line in k3s's own form.
    pub(crate) fn fatal(message: &str) -> Self {
        Self::failed(crate::log::line(crate::log::Level::Fatal, message))
    }
}

/// Runs `kubectl` with `arguments` and the kubeconfig at `path`.
pub async fn run(path: &Path, arguments: &[String]) -> Output {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(request) = Raw::parse(&words) {
        return request.send(path).await;
    }
    let (["get", "nodes" | "node" | "no", options @ ..] | ["get", options @ .., "nodes"]) =
        words.as_slice()
    else {
        return Output::failed(
            "error: the stand-in's kubectl knows `get nodes [-o wide]`, `delete node NAME`, and `get`, `create -f FILE` \
             and `delete` with `--raw PATH`",
        );
    };
    let wide = options.join(" ").replace('=', " ").contains("-o wide");
    let Some((address, client)) = kubeconfig(path) else {
        return refused("localhost:8080");
    };
    match client.get("/api/v1/nodes").await {
        Ok(answer) if answer.status.is_success() => Output {
            stdout: table(&answer.json(), wide),
            stderr: String::new(),
            code: 0,
        },
        Ok(answer) => match answer.json()["message"].as_str() {
            Some(_) if answer.status.as_u16() == 401 => {
                Output::failed("error: You must be logged in to the server (Unauthorized)")
            }
            Some(message) => Output::failed(format!("Error from server: {message}")),
            None => Output::failed(format!(
                "Error from server (ServiceUnavailable): {}",
                answer.text().trim()
            )),
        },
        Err(ClientError::Connect { .. }) => refused(&address),
        Err(error) => Output::failed(format!("Unable to connect to the server: {error}")),
    }
}

/// A request that is answered as it comes, or a deletion of a Node.
struct Raw<'a> {
    method: Method,
    path: String,
    file: Option<&'a str>,
    done: Option<String>,
}

impl<'a> Raw<'a> {
    fn parse(words: &[&'a str]) -> Option<Self> {
        let raw = |method, path: &&str, file| Self {
            method,
            path: (*path).to_owned(),
            file,
            done: None,
        };
        match words {
            ["get", "--raw", path] => Some(raw(Method::GET, path, None)),
            ["delete", "--raw", path] => Some(raw(Method::DELETE, path, None)),
            ["create", "--raw", path, "-f", file] => Some(raw(Method::POST, path, Some(*file))),
            ["delete", "node" | "nodes" | "no", name] => Some(Self {
                method: Method::DELETE,
                path: format!("/api/v1/nodes/{name}"),
                file: None,
                done: Some(format!("node \"{name}\" deleted\n")),
            }),
            _ => None,
        }
    }

    async fn send(self, path: &Path) -> Output {
        let Some((address, client)) = kubeconfig(path) else {
            return refused("localhost:8080");
        };
        let body = match self.file.map(std::fs::read).transpose() {
            Ok(body) => body.unwrap_or_default(),
            Err(error) => return Output::failed(format!("error: {error}")),
        };
        let headers = [("Content-Type", "application/json")];
        match client.send(self.method, &self.path, &headers, body).await {
            Ok(answer) if answer.status.is_success() => Output {
                stdout: self.done.unwrap_or_else(|| answer.text()),
                stderr: String::new(),
                code: 0,
            },
            Ok(answer) => {
                let status = answer.json();
                let reason = status["reason"].as_str().unwrap_or("InternalError");
                let message = status["message"].as_str().unwrap_or_default();
                Output::failed(format!("Error from server ({reason}): {message}"))
            }
            Err(ClientError::Connect { .. }) => refused(&address),
            Err(error) => Output::failed(format!("Unable to connect to the server: {error}")),
        }
    }
}

fn refused(address: &str) -> Output {
    Output::failed(format!(
        "The connection to the server {address} was refused - did you specify the right host or port?"
    ))
}

/// The address in a kubeconfig as k3s writes it, and a client with its credentials.
pub fn kubeconfig(path: &Path) -> Option<(String, Client)> {
    let text = std::fs::read_to_string(path).ok()?;
    let document: Value = serde_norway::from_str(&text).ok()?;
    let cluster = &document["clusters"][0]["cluster"];
    let user = &document["users"][0]["user"];
    let address = cluster["server"]
        .as_str()?
        .strip_prefix("https://")?
        .to_owned();
    let decoded = |value: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(value.as_str()?)
            .ok()?;
        String::from_utf8(bytes).ok()
    };
    let identity = Identity {
        certificate: decoded(&user["client-certificate-data"])?,
        key: decoded(&user["client-key-data"])?,
    };
    let authority = decoded(&cluster["certificate-authority-data"])?;
    let client = Client::new(&address, Trust::Authority(&authority), Some(&identity)).ok()?;
    Some((address, client))
}

fn table(list: &Value, wide: bool) -> String {
    let mut rows = vec![
        vec!["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
            .into_iter()
            .map(str::to_owned)
            .collect(),
    ];
    if wide {
        let more = [
            "INTERNAL-IP",
            "EXTERNAL-IP",
            "OS-IMAGE",
            "KERNEL-VERSION",
            "CONTAINER-RUNTIME",
        ];
        extend(&mut rows[0], &more);
    }
    let nodes = list["items"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if nodes.is_empty() {
        return "No resources found\n".into();
    }
    rows.extend(nodes.iter().map(|node| row(node, wide)));
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

fn extend(row: &mut Vec<String>, cells: &[&str]) {
    row.extend(cells.iter().map(|cell| (*cell).to_owned()));
}

fn row(node: &Value, wide: bool) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
    let mut status = if ready_status(node) == "True" {
        "Ready"
    } else {
        "NotReady"
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    roles.sort_unstable();
    let roles = if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    };
    let info = &node["status"]["nodeInfo"];
    let created = text(&node["metadata"]["creationTimestamp"]);
    let name = text(&node["metadata"]["name"]);
    let mut row = vec![
        name,
        status,
        roles,
        age(&created),
        text(&info["kubeletVersion"]),
    ];
    if wide {
        let address = |kind: &str| {
            let addresses = node["status"]["addresses"].as_array();
            let mut found = addresses.into_iter().flatten();
            found
                .find(|address| address["type"] == kind)
                .map_or_else(|| "<none>".to_owned(), |address| text(&address["address"]))
        };
        row.push(address("InternalIP"));
        row.push(address("ExternalIP"));
        for field in ["osImage", "kernelVersion", "containerRuntimeVersion"] {
            row.push(text(&info[field]));
        }
    }
    row
}

fn age(created: &str) -> String {
    let seconds = created
        .parse::<jiff::Timestamp>()
        .map_or(0, |time| {
            jiff::Timestamp::now().as_second() - time.as_second()
        })
        .max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_as_recorded() {
        let now = crate::clock::kubernetes_now();
        let node = |name: &str, ready: &str, labels: Value| {
            json!({"metadata": {"name": name, "creationTimestamp": now, "labels": labels},
                "status": {"conditions": [{"type": "Ready", "status": ready}],
                    "nodeInfo": {"kubeletVersion": "v1.21.3+k3s1"}}})
        };
        let labels = json!({"node-role.kubernetes.io/master": "true", "node-role.kubernetes.io/control-plane": "true"});
        let list =
            json!({"items": [node("cp1", "True", labels), node("w1", "Unknown", json!({}))]});
        assert_eq!(
            table(&list, false),
            "NAME   STATUS     ROLES                  AGE   VERSION\n\
             cp1    Ready      control-plane,master   0s    v1.21.3+k3s1\n\
             w1     NotReady   <none>                 0s    v1.21.3+k3s1\n"
        );
    }

    #[tokio::test]
    async fn no_kubeconfig_is_the_recorded_refusal() {
        let output = run(
            Path::new("/nonexistent/k3s.yaml"),
            &["get".into(), "nodes".into()],
        )
        .await;
        assert_eq!(
            output.stderr,
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?\n"
        );
        assert_eq!(output.code, 1);
    }
}
