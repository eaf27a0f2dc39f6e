//! What the commands do: one module a noun, each asks the controller and prints the answer.

mod artefact;
mod bootstrap;
mod cluster;
mod context;
mod docs;
mod host;
mod install;
mod join;
mod kubeconfig;
mod node;
mod operation;
mod storage;
mod uninstall;
mod user;

use canasta_proto::pb::WhoAmIRequest;
use canasta_proto::pb::user_service_client::UserServiceClient;
use serde::Serialize;

use crate::args::{Arguments, Command, Format, Global};
use crate::connect::connect;
use crate::error::{End, Error};
use crate::output;
use crate::view::people::role_word;

/// Runs the command that was typed.
pub(crate) async fn run(arguments: Arguments) -> Result<End, Error> {
    let global = &arguments.global;
    match arguments.command {
        Command::Host(command) => host::run(global, command).await?,
        Command::Install(arguments) => return install::run(global, arguments).await,
        Command::Uninstall(arguments) => return uninstall::run(global, arguments).await,
        Command::Cluster(command) => cluster::run(global, command).await?,
        Command::Node(command) => return node::run(global, command).await,
        Command::Storage(command) => return storage::run(global, command).await,
        Command::Kubeconfig(command) => kubeconfig::run(global, command).await?,
        Command::Operation(command) => return operation::run(global, command).await,
        Command::Artefact(command) => artefact::run(global, command).await?,
        Command::User(command) => user::run(global, command).await?,
        Command::Context(command) => context::run(global, command).await?,
        Command::Audit { limit } => user::audit(global, limit).await?,
        Command::Version => version(global).await?,
        Command::GenerateDocs { directory } => docs::generate(&directory)?,
    }
    Ok(End::Done)
}

/// `canasta version`.
#[derive(Serialize)]
struct Versions {
    cli: &'static str,
    controller: Option<String>,
    fleet: Option<String>,
    you: Option<String>,
    role: Option<String>,
}

async fn version(global: &Global) -> Result<(), Error> {
    let mut versions = Versions {
        cli: env!("CARGO_PKG_VERSION"),
        controller: None,
        fleet: None,
        you: None,
        role: None,
    };
    let asked = async {
        let mut client = UserServiceClient::new(connect(global).await?);
        Ok::<_, Error>(client.who_am_i(WhoAmIRequest {}).await?.into_inner())
    };
    let answer = asked.await;
    if let Ok(who) = &answer {
        versions.controller = Some(who.controller_version.clone());
        versions.fleet = Some(who.fleet_id.clone());
        versions.you = Some(who.name.clone());
        versions.role = Some(role_word(who.role()));
    }
    output::print(global.output, &versions, |versions| {
        let unknown = || "unknown".to_owned();
        output::facts([
            ("cli", versions.cli.to_owned()),
            (
                "controller",
                versions.controller.clone().unwrap_or_else(unknown),
            ),
            ("fleet", versions.fleet.clone().unwrap_or_default()),
            ("you", versions.you.clone().unwrap_or_default()),
            ("role", versions.role.clone().unwrap_or_default()),
        ])
    })?;
    answer.map(drop)
}

/// What `--detach` prints.
#[derive(Serialize)]
struct Started {
    operation_id: String,
}

impl Started {
    fn print(global: &Global, operation_id: String) -> Result<End, Error> {
        output::print(global.output, &Self { operation_id }, |started| {
            format!("{}\n", started.operation_id)
        })?;
        Ok(End::Done)
    }
}

/// Whether people read along.
fn for_people(global: &Global) -> bool {
    global.output == Format::Table
}
