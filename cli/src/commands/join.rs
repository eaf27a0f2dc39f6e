//! `canasta install k8s-worker`: hosts join a control plane in one call, each with its own outcome.

use canasta_proto::pb::cluster_service_client::ClusterServiceClient;
use canasta_proto::pb::{JoinWorkersRequest, WorkerJoin};

use super::for_people;
use crate::args::{Global, InstallArguments};
use crate::connect::connect;
use crate::error::{self, End, Error};
use crate::progress::{self, OfHost};
use crate::view::plan::{JoinLine, Joins, Plan};
use crate::{install_forms, output};

pub(super) async fn run(global: &Global, arguments: InstallArguments) -> Result<End, Error> {
    check(&arguments)?;
    let control_plane = install_forms::control_plane(arguments.cp_host, &arguments.hosts)?;
    let channel = connect(global).await?;
    let request = JoinWorkersRequest {
        hosts: arguments.hosts,
        control_plane,
        dry_run: arguments.dry_run,
        ignore_findings: arguments.ignore_findings,
    };
    let mut client = ClusterServiceClient::new(channel.clone());
    let joins = client.join_workers(request).await?.into_inner().joins;
    for plan in joins.iter().filter_map(|join| join.plan.as_ref()) {
        if plan.host_chosen {
            output::note(&format!(
                "no host was named, and '{}' is the only one that fits",
                plan.host
            ));
        }
    }
    if arguments.dry_run {
        let plans = Joins::new(joins.clone());
        output::print(global.output, &plans, Joins::plans_text)?;
        tell_refused(&joins);
        return Ok(if plans.is_refused() {
            End::Blocked
        } else {
            End::Done
        });
    }
    let started: Vec<OfHost> = joins
        .iter()
        .filter(|join| !join.operation_id.is_empty())
        .map(|join| OfHost {
            host: join.host.clone(),
            operation_id: join.operation_id.clone(),
        })
        .collect();
    if for_people(global) {
        for join in &joins {
            tell_started(join, arguments.detach);
        }
    }
    if arguments.detach {
        output::print(
            global.output,
            &Joins::new(joins.clone()),
            Joins::started_text,
        )?;
        return Ok(end_of(tell_refused(&joins), End::Done));
    }
    if !for_people(global) {
        for join in &joins {
            output::print_event(global.output, &line(join))?;
        }
    }
    // Told before the others are followed, which may take minutes.
    let refused = tell_refused(&joins);
    let ended = match (started.as_slice(), joins.len()) {
        ([one], 1) => progress::follow(global, channel, one.operation_id.clone()).await?,
        _ => progress::follow_all(global, &channel, &started).await?,
    };
    Ok(end_of(refused, ended))
}

/// Refuses the flags that are for control planes alone.
fn check(arguments: &InstallArguments) -> Result<(), Error> {
    let given = [
        ("--public-ip", !arguments.public_ips.is_empty()),
        ("--k3s-version", arguments.k3s_version.is_some()),
        ("--cluster", arguments.cluster.is_some()),
        ("--adopt", arguments.adopt),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::usage(
            format!("{flag} is for control planes, and this is a worker"),
            format!(
                "leave {flag} out; version and cluster of a worker are those of its control plane"
            ),
        )),
    }
}

fn tell_started(join: &WorkerJoin, detach: bool) {
    let Some(plan) = join.plan.clone().filter(|_| join.error.is_none()) else {
        return;
    };
    output::note(&format!(
        "{}: k3s {}, joins cluster '{}' at {}, node address {} ({})",
        join.host,
        plan.k3s_version,
        plan.cluster,
        plan.server_url,
        plan.node_ip,
        plan.node_ip_source
    ));
    // Whoever follows hears of them from the first step.
    let findings = Plan::new(join.operation_id.clone(), plan).findings_text();
    if detach && !findings.is_empty() {
        output::note(&findings);
    }
}

/// Prints why hosts were refused; true when one was.
fn tell_refused(joins: &[WorkerJoin]) -> bool {
    let mut refused = false;
    for join in joins {
        let Some(report) = join.error.clone() else {
            continue;
        };
        refused = true;
        let error = Error::Failed(Box::new(report));
        error::print(&if joins.len() > 1 {
            error.on_host(&join.host)
        } else {
            error
        });
    }
    refused
}

fn line(join: &WorkerJoin) -> JoinLine {
    let host = join.host.clone();
    match join.error.clone() {
        Some(error) => JoinLine::Refused {
            host,
            error: error.into(),
        },
        None => JoinLine::Joining {
            host,
            operation_id: join.operation_id.clone(),
        },
    }
}

/// One that was refused makes the whole a failure, however the others ended; Ctrl-C stays Ctrl-C.
fn end_of(refused: bool, others: End) -> End {
    match others {
        End::Done if refused => End::SomeFailed,
        others => others,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{check, end_of};
    use crate::args::{Arguments, Command, InstallArguments};
    use crate::error::End;

    fn typed(words: &[&str]) -> InstallArguments {
        let start = ["canasta", "install", "k8s-worker", "--host", "w1"];
        let typed = Arguments::try_parse_from(start.iter().chain(words)).expect("it parses");
        match typed.command {
            Command::Install(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hosts_and_ignored_findings_may_be_several() {
        let typed = typed(&[
            "--host",
            "w2",
            "--cp-host",
            "cp1",
            "--ignore-findings",
            "A,B",
            "--ignore-findings",
            "C",
        ]);
        assert_eq!(typed.hosts, ["w1", "w2"]);
        assert_eq!(typed.ignore_findings, ["A", "B", "C"]);
        assert_eq!(typed.cp_host.as_deref(), Some("cp1"));
        check(&typed).expect("all are a worker's");
    }

    #[test]
    fn what_is_for_control_planes_is_refused() {
        for words in [
            &["--public-ip", "203.0.113.7"][..],
            &["--k3s-version", "v1.34.8+k3s1"],
            &["--cluster", "wiki"],
            &["--adopt"],
        ] {
            let error = check(&typed(words)).expect_err("refused");
            assert!(error.to_string().starts_with(words[0]), "{error}");
        }
    }

    #[test]
    fn one_refused_host_is_a_failure_of_the_whole() {
        assert_eq!(end_of(false, End::Done), End::Done);
        assert_eq!(end_of(true, End::Done), End::SomeFailed);
        assert_eq!(end_of(true, End::Detached), End::Detached);
        assert_eq!(end_of(false, End::SomeFailed), End::SomeFailed);
    }
}
