//! `canasta install k8s-cp`; workers in [`super::join`].

use canasta_proto::pb::cluster_service_client::ClusterServiceClient;
use canasta_proto::pb::{AdoptControlPlaneRequest, InstallControlPlaneRequest, InstallPlan};

use super::{Started, for_people, join};
use crate::args::{Global, InstallArguments};
use crate::connect::connect;
use crate::error::{End, Error};
use crate::install_forms::{self, Package};
use crate::view::plan::Plan;
use crate::{output, progress};

pub(super) async fn run(global: &Global, arguments: InstallArguments) -> Result<End, Error> {
    let asked_host = arguments.hosts.first().cloned();
    let asked_host = asked_host.as_deref().unwrap_or("HOST");
    match install_forms::package(&arguments.packages, asked_host)? {
        Package::ControlPlane => control_plane(global, arguments).await,
        Package::Worker => join::run(global, arguments).await,
    }
}

async fn control_plane(global: &Global, arguments: InstallArguments) -> Result<End, Error> {
    if arguments.hosts.len() > 1 {
        return Err(Error::usage(
            "a control plane is installed on one host",
            "name one host: `canasta install k8s-cp --host HOST`",
        ));
    }
    if arguments.cp_host.is_some() {
        return Err(Error::usage(
            "--cp-host is for workers, and this is a control plane",
            "leave --cp-host out; a worker is installed with `canasta install k8s-worker --host HOST --cp-host CP_HOST`",
        ));
    }
    if !arguments.ignore_findings.is_empty() {
        return Err(Error::usage(
            "--ignore-findings is for workers, and this is a control plane",
            "leave --ignore-findings out, and mend what is found",
        ));
    }
    let dry_run = arguments.dry_run;
    let detach = arguments.detach;
    let channel = connect(global).await?;
    let (operation_id, plan) = start(ClusterServiceClient::new(channel.clone()), arguments).await?;
    if plan.host_chosen {
        output::note(&format!(
            "no host was named, and '{}' is the only one that fits",
            plan.host
        ));
    }
    if dry_run {
        let plan = Plan::new(operation_id, plan);
        output::print(global.output, &plan, Plan::text)?;
        return Ok(if plan.is_refused() {
            End::Blocked
        } else {
            End::Done
        });
    }
    if for_people(global) {
        let node_ip = format!("{} ({})", plan.node_ip, plan.node_ip_source);
        let what = format!(
            "k3s {} on '{}', cluster '{}', node address {node_ip}",
            plan.k3s_version, plan.host, plan.cluster
        );
        output::note(&what);
        // Whoever follows hears of them from the first step.
        let findings = Plan::new(operation_id.clone(), plan).findings_text();
        if detach && !findings.is_empty() {
            output::note(&findings);
        }
    }
    if detach {
        return Started::print(global, operation_id);
    }
    progress::follow(global, channel, operation_id).await
}

async fn start(
    mut client: ClusterServiceClient<tonic::transport::Channel>,
    arguments: InstallArguments,
) -> Result<(String, InstallPlan), Error> {
    let host = arguments.hosts.into_iter().next().unwrap_or_default();
    let cluster = arguments.cluster.unwrap_or_default();
    let dry_run = arguments.dry_run;
    let (operation_id, plan) = if arguments.adopt {
        let request = AdoptControlPlaneRequest {
            host,
            cluster,
            dry_run,
        };
        let answer = client.adopt_control_plane(request).await?.into_inner();
        (answer.operation_id, answer.plan)
    } else {
        let request = InstallControlPlaneRequest {
            host,
            public_ips: arguments.public_ips,
            k3s_version: arguments.k3s_version.unwrap_or_default(),
            cluster,
            dry_run,
        };
        let answer = client.install_control_plane(request).await?.into_inner();
        (answer.operation_id, answer.plan)
    };
    Ok((operation_id, plan.unwrap_or_default()))
}
