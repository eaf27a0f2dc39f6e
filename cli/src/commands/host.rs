//! `canasta host …`

use canasta_proto::pb::host_service_client::HostServiceClient;
use canasta_proto::pb::{
    AddHostRequest, CreateHostTokenRequest, DialBack, ErrorReport, GetHostRequest,
    ListHostsRequest, RemoveHostRequest, RemoveHostResponse,
};

use crate::args::{Global, HostAdd, HostCommand};
use crate::connect::connect;
use crate::error::Error;
use crate::output;
use crate::view::Removed;
use crate::view::host::{HostList, HostShown, Joining};

pub(super) async fn run(global: &Global, command: HostCommand) -> Result<(), Error> {
    let command = match command {
        HostCommand::Add(mut add) => match add.ssh.take() {
            Some(to) => return super::bootstrap::run(global, add, &to).await,
            None => HostCommand::Add(add),
        },
        command => command,
    };
    let mut client = HostServiceClient::new(connect(global).await?);
    match command {
        HostCommand::Add(HostAdd { name, address, .. }) => {
            let request = AddHostRequest {
                name: name.clone(),
                address: address.unwrap_or_default(),
            };
            let added = client.add_host(request).await?.into_inner();
            output::print(
                global.output,
                &Joining::new(name, added.join.unwrap_or_default()),
                Joining::text,
            )
        }
        HostCommand::Token(host) => {
            let name = host.into_name();
            let request = CreateHostTokenRequest { name: name.clone() };
            let made = client.create_host_token(request).await?.into_inner();
            output::print(
                global.output,
                &Joining::new(name, made.join.unwrap_or_default()),
                Joining::text,
            )
        }
        HostCommand::List => {
            let hosts = client
                .list_hosts(ListHostsRequest {})
                .await?
                .into_inner()
                .hosts;
            output::print(global.output, &HostList::new(hosts), HostList::table)
        }
        HostCommand::Show { host, refresh } => {
            show(global, client, host.into_name(), refresh).await
        }
        HostCommand::Remove { host, force } => {
            let name = host.into_name();
            let request = RemoveHostRequest {
                name: name.clone(),
                force,
            };
            let RemoveHostResponse { cluster, owed } =
                client.remove_host(request).await?.into_inner();
            let mut note = format!(
                "host '{name}' is removed and its certificate ended; nothing on the machine was changed (there: `apt purge canasta-agent`)"
            );
            if owed {
                note.push_str(&format!(
                    "\nits node is deleted once the API of cluster '{cluster}' answers; `canasta cluster show {cluster}` shows it until then"
                ));
            } else if !cluster.is_empty() {
                note.push_str(&format!("\nits node is deleted from cluster '{cluster}'"));
            }
            output::confirm(global.output, &Removed::new(name), &note)
        }
    }
}

async fn show(
    global: &Global,
    mut client: HostServiceClient<tonic::transport::Channel>,
    name: String,
    refresh: bool,
) -> Result<(), Error> {
    let answer = client
        .get_host(GetHostRequest {
            name: name.clone(),
            refresh,
        })
        .await?
        .into_inner();
    output::print(
        global.output,
        &HostShown::new(answer.host.unwrap_or_default()),
        HostShown::text,
    )?;
    match answer.dial {
        Some(dial) if !dial.reached => Err(unreached(
            dial,
            format!("the agent on '{name}' can't be reached; what is shown is what it told last"),
            &name,
        )),
        _ => Ok(()),
    }
}

/// An agent that the controller did not reach, with each address that it dialled.
pub(super) fn unreached(dial: DialBack, message: String, host: &str) -> Error {
    let causes = dial
        .attempts
        .iter()
        .map(|attempt| format!("{}: {}", attempt.address, attempt.error))
        .collect();
    Error::Failed(Box::new(ErrorReport {
        reason: "AGENT_UNREACHABLE".to_owned(),
        message,
        causes,
        hint: format!(
            "on {host}: `systemctl status canasta-agent`; and let the controller through its firewall at port 7443/tcp"
        ),
        ..Default::default()
    }))
}
