//! `canasta uninstall k8s`: the plan is asked for and shown, confirmed, and then carried out.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use canasta_proto::pb::cluster_service_client::ClusterServiceClient;
use canasta_proto::pb::{UninstallK3sRequest, UninstallPlan};
use tonic::transport::Channel;

use super::Started;
use crate::args::{Global, UninstallArguments};
use crate::connect::connect;
use crate::error::{End, Error};
use crate::view::uninstall::Uninstall;
use crate::{install_forms, output, progress};

/// The most that is read of an answer.
const LONGEST_ANSWER: u64 = 64;

pub(super) async fn run(global: &Global, arguments: UninstallArguments) -> Result<End, Error> {
    let host = install_forms::uninstalled_host(&arguments.packages, &arguments.hosts)?;
    if arguments.cp_host.is_some() {
        output::note(
            "--cp-host is not needed any more and has no effect: the controller knows the control plane",
        );
    }
    let force = arguments.force;
    let channel = connect(global).await?;
    let request = UninstallK3sRequest {
        host: host.clone(),
        force,
        dry_run: true,
        discard: Vec::new(),
    };
    let (_, mut plan) = ask(channel.clone(), request.clone()).await?;
    let discard = std::mem::take(&mut plan.discard);
    let plan = Uninstall::new(plan);
    if plan.is_done() {
        return already_clean(global, &plan);
    }
    if arguments.dry_run {
        output::print(global.output, &plan, Uninstall::text)?;
        return Ok(if plan.is_refused() {
            End::Blocked
        } else {
            End::Done
        });
    }
    if plan.is_refused() {
        return Err(Error::Failed(Box::new(plan.refusal(force))));
    }
    output::note(&plan.warning());
    if !arguments.yes {
        confirm(&host).await?;
    }
    // What the plan above told and nothing else: what appeared meanwhile is refused.
    let begin = UninstallK3sRequest {
        dry_run: false,
        discard: if force { discard } else { Vec::new() },
        ..request
    };
    let (operation_id, started) = ask(channel.clone(), begin).await?;
    let started = Uninstall::new(started);
    if operation_id.is_empty() {
        return already_clean(global, &started);
    }
    if arguments.detach {
        return Started::print(global, operation_id);
    }
    progress::follow(global, channel, operation_id).await
}

/// Asks the controller for the plan, or to begin.
async fn ask(
    channel: Channel,
    request: UninstallK3sRequest,
) -> Result<(String, UninstallPlan), Error> {
    let mut client = ClusterServiceClient::new(channel);
    let answer = client.uninstall_k3s(request).await?.into_inner();
    Ok((answer.operation_id, answer.plan.unwrap_or_default()))
}

fn already_clean(global: &Global, plan: &Uninstall) -> Result<End, Error> {
    output::confirm(global.output, plan, &plan.clean_words())?;
    Ok(End::Done)
}

/// Asks the person at the terminal.
async fn confirm(host: &str) -> Result<(), Error> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Error::usage(
            format!(
                "k3s is not uninstalled from '{host}' without a confirmation, and there is no terminal to ask on"
            ),
            "read what is lost above (or with --dry-run), then add --yes",
        ));
    }
    output::note(&format!("Type yes to uninstall k3s from '{host}':"));
    // Not on this thread, which keeps the connection alive meanwhile.
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let stdin = std::io::stdin().lock();
        stdin
            .take(LONGEST_ANSWER)
            .read_line(&mut line)
            .map(|_| line)
    });
    let answer = answer
        .await
        .map_err(|source| Error::Runtime(source.into()))?;
    match answer {
        Ok(line) if line.trim() == "yes" => Ok(()),
        _ => Err(Error::local(
            "the answer was not 'yes'; nothing was changed",
            "run the command again to be asked again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::{Arguments, Command};

    #[test]
    fn the_old_systems_flag_is_taken_and_a_plan_is_not_detached() {
        let parse = |more: &[&str]| {
            let start = ["canasta", "uninstall", "k8s", "--host", "w1"];
            Arguments::try_parse_from(start.iter().chain(more))
        };
        let typed = parse(&["--cp-host", "cp1", "--force", "--yes"]).expect("it parses");
        let Command::Uninstall(typed) = typed.command else {
            panic!("{typed:?}")
        };
        assert!(typed.force && typed.yes && !typed.dry_run);
        assert_eq!(typed.cp_host.as_deref(), Some("cp1"));
        parse(&["--dry-run", "--detach"]).expect_err("they exclude each other");
    }
}
