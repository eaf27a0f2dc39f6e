//! `canasta kubeconfig …`: an administrator's credentials, for kubectl on this machine.

use std::path::PathBuf;
use std::time::Duration;

use canasta_proto::pb::cluster_service_client::ClusterServiceClient;
use canasta_proto::pb::{GetKubeconfigRequest, GetKubeconfigResponse};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::args::{Format, Global, KubeconfigArguments, KubeconfigCommand};
use crate::connect::connect;
use crate::error::Error;
use crate::kubeconfig::{self, Entry};
use crate::{output, paths};

/// How long a server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// What `merge` tells: never what is secret.
#[derive(Debug, Serialize)]
struct Merged {
    file: String,
    name: String,
    server: String,
    reachable: bool,
    /// Whether kubectl uses it now when no other is named.
    current: bool,
}

pub(super) async fn run(global: &Global, command: KubeconfigCommand) -> Result<(), Error> {
    match command {
        KubeconfigCommand::Get(of) => {
            let (entry, _) = entry(global, of).await?;
            // What kubectl reads, which is YAML for people, too.
            let format = match global.output {
                Format::Table => Format::Yaml,
                format => format,
            };
            output::print(format, &entry.alone(), |_| String::new())
        }
        KubeconfigCommand::Merge { of, file } => {
            let file = file_to_change(file)?;
            let (entry, reachable) = entry(global, of).await?;
            let current = kubeconfig::merge_into(&file, &entry)?;
            let merged = Merged {
                file: file.display().to_string(),
                name: entry.name().to_owned(),
                server: entry.server().to_owned(),
                reachable,
                current,
            };
            let used = if current {
                "kubectl uses it now".to_owned()
            } else {
                format!("use it with `kubectl --context {}`", merged.name)
            };
            let sentence = format!("'{}' is in {}; {used}", merged.name, merged.file);
            output::confirm(global.output, &merged, &sentence)
        }
    }
}

fn file_to_change(file: Option<PathBuf>) -> Result<PathBuf, Error> {
    file.or_else(paths::kubeconfig).ok_or_else(|| {
        Error::usage(
            "this user has no home directory, so there is no kubeconfig to change",
            "name the file: --file PATH",
        )
    })
}

/// Asks for the credentials and chooses the server; whether that one can be reached from here.
async fn entry(global: &Global, of: KubeconfigArguments) -> Result<(Entry, bool), Error> {
    let mut client = ClusterServiceClient::new(connect(global).await?);
    let request = GetKubeconfigRequest {
        cluster: of.cluster,
        server: of.server.unwrap_or_default(),
    };
    let answer: GetKubeconfigResponse = client.get_kubeconfig(request).await?.into_inner();
    let Some(first) = answer.servers.first() else {
        return Err(Error::local(
            format!(
                "the controller knows no address of the API of '{}'",
                answer.cluster
            ),
            format!("see `canasta cluster show {}`", answer.cluster),
        ));
    };
    let reached = first_reachable(&answer.servers).await;
    if let Some(server) = reached {
        output::note(&format!("the API answers from here at {server}"));
    } else {
        output::note(&format!(
            "warning: nothing answers from here at {}; {first} is taken. Let this machine through to port 6443/tcp, or give an \
             address that it reaches: --server ADDR",
            answer.servers.join(", ")
        ));
    }
    let server = reached.unwrap_or(first);
    Ok((Entry::new(&answer, server), reached.is_some()))
}

/// The first server that accepts a connection. All are tried at the same time; their order counts, not their speed.
async fn first_reachable(servers: &[String]) -> Option<&String> {
    let tries = servers.iter().map(|server| async move {
        let address = server.strip_prefix("https://").unwrap_or(server);
        matches!(
            timeout(PATIENCE, TcpStream::connect(address)).await,
            Ok(Ok(_))
        )
    });
    let reached = join_all(tries).await;
    let mut both = servers.iter().zip(reached);
    both.find_map(|(server, reached)| reached.then_some(server))
}

#[cfg(test)]
mod tests {
    use super::first_reachable;

    #[tokio::test]
    async fn the_first_that_accepts_is_taken_and_not_the_fastest() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let shut = format!("https://{}", closed.local_addr().expect("an address"));
        drop(closed);
        let open = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let url = format!("https://{}", listener.local_addr().expect("an address"));
            (listener, url)
        };
        let ((_first, first), (_second, second)) = (open(), open());
        let servers = [shut.clone(), first.clone(), second];
        assert_eq!(first_reachable(&servers).await, Some(&first));
        assert_eq!(first_reachable(&[shut]).await, None);
        assert_eq!(first_reachable(&[]).await, None);
    }
}
