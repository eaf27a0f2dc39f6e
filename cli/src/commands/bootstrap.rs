//! `canasta host add --ssh`: a new host gets the agent and its join in one session of ssh.
//!
//! What can be refused is refused before the host is registered: what was typed, who asks, what the machine is, the package
//! and its installation. Only then the controller adds the host, whose token goes into the session. A second run goes on
//! where the first one ended.

use canasta_proto::address::Address;
use canasta_proto::artefact::MAX_SIZE;
use canasta_proto::name::HostName;
use canasta_proto::package::{self, Package};
use canasta_proto::pb;
use canasta_proto::pb::ErrorReport;
use canasta_proto::pb::host_service_client::HostServiceClient;
use canasta_proto::pb::user_service_client::UserServiceClient;
use tonic::transport::Channel;

use super::host::unreached;
use crate::args::{Global, HostAdd};
use crate::connect::connect;
use crate::error::Error;
use crate::output;
use crate::ssh::{AgentStatus, Facts, Outcome, Session, Target, by_hand, evidence};
use crate::view::host::BroughtIn;

mod from_controller;

/// What was typed, checked.
struct Wish {
    host: HostName,
    target: Target,
    /// Where the controller should dial it; empty for what the host says.
    address: String,
    given: Option<Given>,
}

/// A package: what it is, and its bytes.
struct Given {
    package: Package,
    content: Vec<u8>,
}

/// What was done, for the last line.
#[derive(Default)]
struct Done {
    machine: Option<String>,
    installed: Option<String>,
    joined: bool,
}

/// Brings a host in.
pub(super) async fn run(global: &Global, add: HostAdd, to: &str) -> Result<(), Error> {
    let wish = Wish::check(add, to).await?;
    let channel = connect(global).await?;
    let fleet_id = check_caller(channel.clone()).await?;
    let mut hosts = HostServiceClient::new(channel.clone());
    let known = known(&mut hosts, &wish).await?;
    if let Some(host) = known.clone()
        && host.state() == pb::HostState::Connected
    {
        output::note(&not_looked_at(&host, &wish));
        return show(global, host, Done::default());
    }
    let host = wish.host.clone();
    output::note(&format!("connecting to {} with ssh", wish.target));
    let (mut session, facts) = Session::open(wish.target.clone(), host.clone()).await?;
    check_machine(&host, &facts)?;
    let mut done = Done {
        machine: Some(facts.shown()),
        ..Done::default()
    };
    if let Some(agent) = facts.agent.as_ref().filter(|agent| agent.joined) {
        check_member(&host, &fleet_id, agent)?;
        if is_to_join(known.as_ref()) {
            let join = register(&mut hosts, &wish, known.is_some()).await?;
            output::note("the agent has joined before; it joins again");
            let outcome = session.rejoin(&join.controller_address, &join.token).await;
            outcome.map_err(|error| still_registered(&host, error))?;
            done.joined = true;
        }
    } else {
        if !is_to_join(known.as_ref()) {
            return Err(has_agent_elsewhere(&host));
        }
        done.installed = install(channel, &mut session, &wish, &facts).await?;
        let join = register(&mut hosts, &wish, known.is_some()).await?;
        output::note("handing the join over");
        let outcome = session.join(&join_file(&host, &join)?).await;
        let outcome = outcome.map_err(|error| still_registered(&host, error))?;
        check_joined(&host, outcome).map_err(|error| still_registered(&host, error))?;
        done.joined = true;
    }
    session.close().await;
    let host = verify(&mut hosts, &host).await?;
    show(global, host, done)
}

impl Wish {
    async fn check(add: HostAdd, to: &str) -> Result<Self, Error> {
        let host = add.name.parse::<HostName>();
        let host = host.map_err(|rule| {
            Error::usage(
                rule.to_string(),
                "for example: canasta host add --name w3 --ssh root@10.0.0.7",
            )
        })?;
        let target = to.parse::<Target>();
        let target = target.map_err(|rule| Error::usage(rule.to_string(), rule.hint()))?;
        let address = add.address.unwrap_or_default();
        if !address.is_empty()
            && let Err(rule) = address.parse::<Address>()
        {
            return Err(Error::usage(
                rule.to_string(),
                "for example: --address 10.0.0.7",
            ));
        }
        let given = match add.package {
            Some(path) => Some(Given::read(path).await?),
            None => None,
        };
        Ok(Self {
            host,
            target,
            address,
            given,
        })
    }
}

impl Given {
    /// Reads a file of this machine.
    async fn read(path: std::path::PathBuf) -> Result<Self, Error> {
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let size = tokio::fs::metadata(&path).await.map_err(failed)?.len();
        if size > MAX_SIZE {
            return Err(no_package(
                &path,
                &format!("it has {size} bytes, and {MAX_SIZE} are the most"),
            ));
        }
        let content = tokio::fs::read(&path).await.map_err(failed)?;
        let head = &content[..content.len().min(package::HEAD)];
        let package = package::read(head).map_err(|why| no_package(&path, &why))?;
        Ok(Self { package, content })
    }
}

fn no_package(path: &std::path::Path, why: &str) -> Error {
    Error::usage(
        format!("{} is no package of the agent: {why}", path.display()),
        "give the canasta-agent .deb or .rpm that was made for the host's architecture",
    )
}

/// Refuses who may not add hosts, before anything happens elsewhere. Answers with the fleet.
async fn check_caller(channel: Channel) -> Result<String, Error> {
    let mut users = UserServiceClient::new(channel);
    let me = users.who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
    if me.role() != pb::Role::Admin {
        return Err(Error::NotAllowed {
            message: format!("{} may not add hosts", me.name),
            hint: "an admin may: `canasta user list` tells who is one".to_owned(),
        });
    }
    Ok(me.fleet_id)
}

/// The host as the controller knows it; none when it does not.
async fn known(
    hosts: &mut HostServiceClient<Channel>,
    wish: &Wish,
) -> Result<Option<pb::Host>, Error> {
    let request = pb::GetHostRequest {
        name: wish.host.to_string(),
        refresh: false,
    };
    let host = match hosts.get_host(request).await.map_err(Error::from) {
        Ok(answer) => answer.into_inner().host.unwrap_or_default(),
        Err(Error::Refused(fault)) if fault.reason == "HOST_NOT_REGISTERED" => return Ok(None),
        Err(error) => return Err(error),
    };
    let bare = |address: &str| address.parse::<Address>().map(|address| address.host());
    let same = |known: &pb::HostAddress| bare(&known.address) == bare(&wish.address);
    if !wish.address.is_empty() && !host.addresses.iter().any(same) {
        return Err(Error::local(
            format!(
                "host '{}' is registered already, without this address",
                wish.host
            ),
            format!(
                "leave --address out; or remove it first: canasta host remove {}",
                wish.host
            ),
        ));
    }
    Ok(Some(host))
}

/// Refuses a machine where the agent could not be installed or would not run.
fn check_machine(host: &HostName, facts: &Facts) -> Result<(), Error> {
    if let Some(why) = &facts.no_root {
        return Err(Error::Failed(Box::new(ErrorReport {
            reason: "SSH_NOT_ROOT".to_owned(),
            message: format!("this user can't become root on '{host}' without a password"),
            causes: vec![why.clone()],
            hint: format!(
                "use root, or a user whose sudo asks for no password (NOPASSWD); or {}",
                by_hand(host)
            ),
            ..ErrorReport::default()
        })));
    }
    if !facts.systemd {
        return Err(Error::Failed(Box::new(ErrorReport {
            reason: "SYSTEMD_MISSING".to_owned(),
            message: format!("systemd does not run on '{host}' ({})", facts.shown()),
            hint: "the agent is a service of systemd; use a machine that boots with it".to_owned(),
            ..ErrorReport::default()
        })));
    }
    Ok(())
}

/// Whether the controller waits for this host to join: what an agent has from an earlier join is of no use then.
fn is_to_join(known: Option<&pb::Host>) -> bool {
    known.is_none_or(|host| {
        matches!(
            host.state(),
            pb::HostState::WaitingForJoin | pb::HostState::NeedsRejoin
        )
    })
}

/// The host is connected, so that the machine that was named is not even asked.
fn not_looked_at(host: &pb::Host, wish: &Wish) -> String {
    let addresses: Vec<_> = host
        .addresses
        .iter()
        .map(|known| known.address.as_str())
        .collect();
    let installed = if wish.given.is_some() {
        ", and no package was installed"
    } else {
        ""
    };
    format!(
        "host '{}' is connected at {}; {} was not looked at{installed}",
        host.name,
        addresses.join(", "),
        wish.target
    )
}

/// A machine without a joined agent is not the one that this host is, or no longer.
fn has_agent_elsewhere(host: &HostName) -> Error {
    Error::Failed(Box::new(ErrorReport {
        reason: "HOST_EXISTS".to_owned(),
        message: format!(
            "host '{host}' has joined the fleet, and on this machine no agent has: it may be another machine"
        ),
        subject: format!("host {host}"),
        hint: format!(
            "choose another name; or, if this machine is to be '{host}' from now on (its system was installed anew, say): `canasta host token {host}`, then on it the command that this prints, after installing the package canasta-agent"
        ),
        ..ErrorReport::default()
    }))
}

/// Refuses a machine that is somebody else's: another host of this fleet, or a host of another fleet.
fn check_member(host: &HostName, fleet_id: &str, agent: &AgentStatus) -> Result<(), Error> {
    let name = agent.name.as_deref().unwrap_or("unknown");
    let fleet = agent.fleet_id.as_deref().unwrap_or("unknown");
    if name == host.as_str() && fleet == fleet_id {
        return Ok(());
    }
    let message = if fleet == fleet_id {
        format!("the machine has joined this fleet already, as host '{name}'")
    } else {
        format!("the machine has joined another fleet already: {fleet}, as host '{name}'")
    };
    Err(Error::Failed(Box::new(ErrorReport {
        reason: "ALREADY_JOINED".to_owned(),
        message,
        hint: format!(
            "if it should become '{host}' all the same: `apt purge canasta-agent` on it (rpm: remove the package and /var/lib/canasta-agent), then run this again"
        ),
        ..ErrorReport::default()
    })))
}

/// Installs the package that fits, unless that version is there. Answers with the version when it was installed.
async fn install(
    channel: Channel,
    session: &mut Session,
    wish: &Wish,
    facts: &Facts,
) -> Result<Option<String>, Error> {
    let host = &wish.host;
    let fetched;
    let chosen = if let Some(given) = &wish.given {
        let fits = facts.check(&given.package);
        fits.map_err(|why| none_fits(host, facts, &why))?;
        given
    } else {
        let (format, arch) = facts.wanted().map_err(|why| none_fits(host, facts, &why))?;
        let found = from_controller::package(channel, format, arch, facts).await;
        fetched = found.map_err(|missing| missing.into_error(host, facts, format, arch))?;
        &fetched
    };
    let Given { package, content } = chosen;
    if facts.installed.as_ref() == Some(&package.version) {
        return Ok(None);
    }
    output::note(&format!(
        "{host} is {}; installing {} {}",
        facts.shown(),
        package::NAME,
        package.version
    ));
    session.install(package.format, content).await?;
    Ok(Some(package.version.clone()))
}

/// No package fits: what the machine is, why, and both ways out.
fn none_fits(host: &HostName, facts: &Facts, why: &str) -> Error {
    Error::Failed(Box::new(ErrorReport {
        reason: "AGENT_PACKAGE_MISSING".to_owned(),
        message: format!(
            "there is no package of the agent for '{host}', which is {}",
            facts.shown()
        ),
        causes: vec![why.to_owned()],
        hint: format!(
            "give a fitting .deb or .rpm to the controller: canasta artefact import agent FILE; or name it here: canasta host add --name {host} --ssh … --package FILE"
        ),
        ..ErrorReport::default()
    }))
}

/// Has the controller make a join token: for a new host, or for one that it knows.
async fn register(
    hosts: &mut HostServiceClient<Channel>,
    wish: &Wish,
    known: bool,
) -> Result<pb::JoinToken, Error> {
    let name = wish.host.to_string();
    let join = if known {
        let request = pb::CreateHostTokenRequest { name };
        hosts.create_host_token(request).await?.into_inner().join
    } else {
        let address = wish.address.clone();
        let request = pb::AddHostRequest { name, address };
        hosts.add_host(request).await?.into_inner().join
    };
    Ok(join.unwrap_or_default())
}

/// The file that the agent takes its join from.
fn join_file(host: &HostName, join: &pb::JoinToken) -> Result<String, Error> {
    let keys = [
        ("controller", join.controller_address.as_str()),
        ("token", join.token.as_str()),
        ("name", host.as_str()),
    ];
    let table: toml::Table = keys
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    // The library's error could quote the token.
    toml::to_string(&table).map_err(|_| Error::local("the join token can't be written down", ""))
}

/// The error with what is left behind, and how to go on.
fn still_registered(host: &HostName, error: Error) -> Error {
    let Error::Failed(mut report) = error else {
        return error;
    };
    let how = format!(
        "host '{host}' is registered: run this again, or `canasta host token {host}` and on the host the command that it prints"
    );
    report.hint = match report.hint.as_str() {
        "" => how,
        hint => format!("{hint}; {how}"),
    };
    Error::Failed(report)
}

/// Whether the agent has joined under this name.
fn check_joined(host: &HostName, outcome: Outcome) -> Result<(), Error> {
    let agent = outcome.agent.unwrap_or_default();
    if agent.joined && agent.name.as_deref() == Some(host.as_str()) {
        return Ok(());
    }
    let message = if outcome.trying {
        format!(
            "the agent on '{host}' has not joined within half a minute; it goes on trying for as long as the token is good"
        )
    } else {
        format!("the agent on '{host}' is installed and did not join")
    };
    Err(Error::Failed(Box::new(ErrorReport {
        reason: "JOIN_FAILED".to_owned(),
        message,
        evidence: evidence("journal of canasta-agent.service", host, outcome.journal),
        ..ErrorReport::default()
    })))
}

/// The host as its agent tells it now, which the controller has to reach for that.
async fn verify(
    hosts: &mut HostServiceClient<Channel>,
    host: &HostName,
) -> Result<pb::Host, Error> {
    let request = pb::GetHostRequest {
        name: host.to_string(),
        refresh: true,
    };
    let answer = hosts.get_host(request).await?.into_inner();
    match answer.dial {
        Some(dial) if !dial.reached => Err(unreached(
            dial,
            format!("'{host}' has joined, and the controller can't reach its agent"),
            host.as_str(),
        )),
        _ => Ok(answer.host.unwrap_or_default()),
    }
}

fn show(global: &Global, host: pb::Host, done: Done) -> Result<(), Error> {
    let shown = BroughtIn::new(host, done.machine, done.installed, done.joined);
    output::print(global.output, &shown, BroughtIn::text)
}
