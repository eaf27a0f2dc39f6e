//! Whether a worker and the nodes of its cluster reach each other on the ports of their roles, in both directions, before
//! anything is changed.
//!
//! One agent listens, the other sends to it, and what arrives is told by the one that listens: a datagram that was sent
//! proves nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::receive_probes_response::Event;
use canasta_proto::pb::{ProbeListener, ProbeOutcome, ProbePort, ProbeProtocol, Severity};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status, Streaming};

use super::control_plane::ControlPlane;
use crate::clusters::CONTROL_PLANE;
use crate::fleet::{FleetError, Phase};
use crate::operations::agent::Client;
use crate::workflows::{Context, Error};

/// The API server and supervisor of a control plane.
const API: u32 = 6443;
/// The kubelet, which the API server and metrics ask.
const KUBELET: u32 = 10250;
/// VXLAN, which carries the traffic of pods between nodes.
const VXLAN: u32 = 8472;

/// How long an agent listens, in seconds.
const LISTEN: u32 = 15;
/// How many datagrams are sent to a port, and their payload in bytes.
const COUNT: u32 = 5;
const SIZE: u32 = 64;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an agent is asked again that listens for as many others as it can, and the pause before that.
const BUSY: Duration = Duration::from_secs(30);
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// How long datagrams are waited for after the last was sent.
const ARRIVE: Duration = Duration::from_secs(1);

/// One end of a probe.
#[derive(Debug, Clone)]
struct End {
    host: HostName,
    ip: String,
}

/// Probes from one node to another.
#[derive(Debug, Clone)]
struct Direction {
    from: End,
    to: End,
    ports: Vec<ProbePort>,
}

/// What both agents told of one direction.
#[derive(Debug, Clone, Default)]
struct Told {
    listeners: Vec<pb::ProbeListenerState>,
    results: Vec<pb::ProbeResult>,
    /// How many probes arrived, by number of the port, for datagrams.
    arrived: BTreeMap<u32, u32>,
}

/// Probes a worker with all nodes of the cluster whose agents are connected, its control plane in any case.
///
/// # Errors
/// When the agent of the worker or of the control plane does not answer.
pub(super) async fn of_worker(
    context: &Context,
    host: &HostName,
    ip: &str,
    target: &ControlPlane,
) -> Result<Vec<pb::Finding>, Error> {
    let worker = End {
        host: host.clone(),
        ip: ip.to_owned(),
    };
    let mut findings = Vec::new();
    for member in &target.members {
        let Ok(peer) = member.host.parse::<HostName>() else {
            continue;
        };
        if peer == *host {
            continue;
        }
        let state = context.fleet.state(&peer);
        if peer != target.host && state.is_none_or(|state| state.phase != Phase::Connected) {
            let why = format!("the agent on {peer} is not connected");
            findings.push(not_probed(host, &peer, &why));
            continue;
        }
        let peer = End {
            host: peer,
            ip: member.node_ip.clone(),
        };
        // One after the other: two probes would fight for the same port.
        for direction in both_ways(&worker, &peer, member.role == CONTROL_PLANE) {
            match probe(context, &direction).await {
                Ok(told) => findings.extend(judge(&direction, &told)),
                // One node that can't be asked keeps no other from joining.
                Err(error) if peer.host != target.host => {
                    let why = crate::clusters::shown(&error);
                    findings.push(not_probed(host, &peer.host, &why));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(findings)
}

/// The ports that a worker and a node of its cluster need, in both directions.
fn both_ways(worker: &End, peer: &End, control_plane: bool) -> [Direction; 2] {
    let port = |protocol: ProbeProtocol, port| ProbePort {
        protocol: protocol.into(),
        port,
    };
    let node = vec![
        port(ProbeProtocol::Tcp, KUBELET),
        port(ProbeProtocol::Udp, VXLAN),
    ];
    let mut outward = node.clone();
    if control_plane {
        outward.insert(0, port(ProbeProtocol::Tcp, API));
    }
    let direction = |from: &End, to: &End, ports| Direction {
        from: from.clone(),
        to: to.clone(),
        ports,
    };
    [
        direction(worker, peer, outward),
        direction(peer, worker, node),
    ]
}

async fn probe(context: &Context, direction: &Direction) -> Result<Told, Error> {
    let mut nonce = [0; 16];
    SystemRandom::new()
        .fill(&mut nonce)
        .expect("the system gives random bytes");
    let Direction { from, to, ports } = direction;
    let failed = |host: &HostName| {
        let host = host.clone();
        move |source: Status| {
            Error::from(FleetError::Call {
                host,
                what: "a probe of its ports",
                source: Box::new(source),
            })
        }
    };
    let limit = context.timings.request;
    let mut listening = context.fleet.agent(&to.host).await?;
    let mut sending = context.fleet.agent(&from.host).await?;
    let (mut events, listeners) = listen_in_turn(&mut listening, &nonce, ports, limit)
        .await
        .map_err(failed(&to.host))?;
    let request = pb::SendProbesRequest {
        nonce: nonce.to_vec().into(),
        address: to.ip.clone(),
        ports: ports.clone(),
        count: COUNT,
        size: SIZE,
        timeout_ms: u32::try_from(CONNECT.as_millis()).unwrap_or(u32::MAX),
    };
    // All ports are tried at the same time or one after the other, as the agent likes.
    let limit = limit + CONNECT * u32::try_from(ports.len()).unwrap_or(1);
    let results = within(limit, sending.send_probes(request))
        .await
        .map_err(failed(&from.host))?
        .into_inner()
        .results;
    let wanted = listeners
        .iter()
        .filter(|state| state.listener() != ProbeListener::None)
        .filter(|state| protocol(state.port) == ProbeProtocol::Udp)
        .count();
    let arrived = arrivals(&mut events, wanted).await;
    Ok(Told {
        listeners,
        results,
        arrived,
    })
}

/// An agent listens for a few others at a time; many workers may join at once.
async fn listen_in_turn(
    client: &mut Client,
    nonce: &[u8],
    ports: &[ProbePort],
    limit: Duration,
) -> Result<Listens, Status> {
    let deadline = Instant::now() + BUSY;
    loop {
        match listen(client, nonce, ports, limit).await {
            Err(status)
                if status.code() == Code::ResourceExhausted && Instant::now() < deadline =>
            {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// What an agent that listens tells from then on, and how it listens.
type Listens = (
    Streaming<pb::ReceiveProbesResponse>,
    Vec<pb::ProbeListenerState>,
);

async fn listen(
    client: &mut Client,
    nonce: &[u8],
    ports: &[ProbePort],
    limit: Duration,
) -> Result<Listens, Status> {
    let request = pb::ReceiveProbesRequest {
        nonce: nonce.to_vec().into(),
        ports: ports.to_vec(),
        seconds: LISTEN,
    };
    within(limit, async {
        let mut events = client.receive_probes(request).await?.into_inner();
        match events.message().await?.and_then(|first| first.event) {
            Some(Event::Listening(listening)) => Ok((events, listening.listeners)),
            _ => Err(Status::internal("the agent did not tell where it listens")),
        }
    })
    .await
}

/// Counts the datagrams of each port until all have come or no more may come.
async fn arrivals(
    events: &mut Streaming<pb::ReceiveProbesResponse>,
    ports: usize,
) -> BTreeMap<u32, u32> {
    let mut arrived: BTreeMap<u32, u32> = BTreeMap::new();
    let deadline = Instant::now() + ARRIVE;
    let all = |arrived: &BTreeMap<u32, u32>| {
        arrived.len() == ports && arrived.values().all(|&count| count >= COUNT)
    };
    while !all(&arrived) {
        let Ok(Ok(Some(event))) = timeout_at(deadline, events.message()).await else {
            break;
        };
        if let Some(Event::Arrival(arrival)) = event.event
            && protocol(arrival.port) == ProbeProtocol::Udp
        {
            *arrived.entry(number(arrival.port)).or_default() += 1;
        }
    }
    arrived
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    timeout(limit, call)
        .await
        .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("it did not answer in time")))
}

fn protocol(port: Option<ProbePort>) -> ProbeProtocol {
    port.map(|port| port.protocol()).unwrap_or_default()
}

fn number(port: Option<ProbePort>) -> u32 {
    port.map(|port| port.port).unwrap_or_default()
}

/// What the answers of both agents say of one direction. A pure function.
fn judge(direction: &Direction, told: &Told) -> Vec<pb::Finding> {
    let arrived = |port: &ProbePort| match port.protocol() {
        ProbeProtocol::Udp => told.arrived.get(&port.port).copied().unwrap_or(0),
        _ => 0,
    };
    let of_port = |port: &ProbePort| {
        let same = |other: Option<ProbePort>| other.as_ref() == Some(port);
        let listener = told.listeners.iter().find(|state| same(state.port));
        let result = told.results.iter().find(|result| same(result.port));
        let unknown = |why: String| Some(unknown(direction, *port, &why));
        match (listener, result) {
            (None, _) => unknown(format!(
                "the agent on {} told nothing of it",
                direction.to.host
            )),
            (_, None) => unknown(format!(
                "the agent on {} told nothing of it",
                direction.from.host
            )),
            (Some(state), _) if state.listener() == ProbeListener::None => unknown(format!(
                "the agent on {} can't listen there: {}",
                direction.to.host, state.error
            )),
            // Whatever the sender was told: what arrived came through.
            (Some(_), Some(_)) if arrived(port) > 0 => datagrams(direction, *port, arrived(port)),
            (Some(_), Some(result)) => match (result.outcome(), port.protocol()) {
                (ProbeOutcome::Unspecified, _) => unknown(format!(
                    "the agent on {} can't tell: {}",
                    direction.from.host, result.error
                )),
                (ProbeOutcome::Sent, ProbeProtocol::Udp) => datagrams(direction, *port, 0),
                (ProbeOutcome::Sent, _) => None,
                (outcome, _) => Some(blocked(direction, *port, in_words(outcome), &result.error)),
            },
        }
    };
    direction.ports.iter().filter_map(of_port).collect()
}

fn in_words(outcome: ProbeOutcome) -> &'static str {
    match outcome {
        ProbeOutcome::Refused => {
            "it is refused, though something listens there: a firewall rejects it"
        }
        ProbeOutcome::Unreachable => "there is no way there",
        _ => "nothing answered: most likely a firewall drops it",
    }
}

fn datagrams(direction: &Direction, port: ProbePort, arrived: u32) -> Option<pb::Finding> {
    match arrived {
        COUNT.. => None,
        0 => Some(blocked(
            direction,
            port,
            "no datagram arrived: most likely a firewall drops them",
            "",
        )),
        _ => Some(pb::Finding {
            code: "NET_LOSS".to_owned(),
            severity: Severity::Warning.into(),
            message: format!(
                "{} from {} to {}: {arrived} of {COUNT} datagrams arrived",
                shown(port),
                direction.from.host,
                direction.to.host
            ),
            subject: subject(direction, port),
            mend: "look at the network between the two; traffic of pods will be slow".to_owned(),
        }),
    }
}

fn blocked(direction: &Direction, port: ProbePort, what: &str, error: &str) -> pb::Finding {
    let Direction { from, to, .. } = direction;
    let (code, purpose) = match port.port {
        API => ("NET_PORT_BLOCKED", "nodes join and talk to the API server"),
        KUBELET => ("NET_PORT_BLOCKED", "logs, exec and metrics of pods"),
        _ => (
            "NET_VXLAN_BLOCKED",
            "all traffic between pods of different nodes",
        ),
    };
    let error = match error {
        "" => String::new(),
        error => format!(" ({error})"),
    };
    pb::Finding {
        code: code.to_owned(),
        severity: Severity::Error.into(),
        message: format!(
            "{} is closed from {} ({}) to {} ({}): {what}{error}; it carries {purpose}",
            shown(port),
            from.host,
            from.ip,
            to.host,
            to.ip
        ),
        subject: subject(direction, port),
        mend: format!(
            "let {} accept {} from {}: in its own firewall (ufw, firewalld, nftables) and in the security group of its provider",
            to.host,
            shown(port),
            from.ip
        ),
    }
}

fn unknown(direction: &Direction, port: ProbePort, why: &str) -> pb::Finding {
    pb::Finding {
        code: "NET_NOT_PROBED".to_owned(),
        severity: Severity::Warning.into(),
        message: format!(
            "{} from {} to {} could not be tried: {why}",
            shown(port),
            direction.from.host,
            direction.to.host
        ),
        subject: subject(direction, port),
        mend: "make sure that the port is open between the two".to_owned(),
    }
}

fn not_probed(host: &HostName, peer: &HostName, why: &str) -> pb::Finding {
    pb::Finding {
        code: "NET_NOT_PROBED".to_owned(),
        severity: Severity::Warning.into(),
        message: format!("the ports between {host} and {peer} could not be tried: {why}"),
        subject: format!("{host} <-> {peer}"),
        mend: format!(
            "make sure that {KUBELET}/tcp and {VXLAN}/udp are open between the two, in both directions"
        ),
    }
}

fn shown(port: ProbePort) -> String {
    let protocol = match port.protocol() {
        ProbeProtocol::Udp => "udp",
        _ => "tcp",
    };
    format!("{}/{protocol}", port.port)
}

fn subject(direction: &Direction, port: ProbePort) -> String {
    format!(
        "{} {} -> {}",
        shown(port),
        direction.from.host,
        direction.to.host
    )
}

#[cfg(test)]
mod tests;
