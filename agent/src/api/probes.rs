//! The two rpcs of probes between nodes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use canasta_proto::pb;
use canasta_transport::status::Fault;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::Answers;
use super::check::broken;
use super::error::Error;
use crate::agent::Core;
use crate::probes::receive::{Event, Listening, receive};
use crate::probes::send::{Outcome, Probes, send};
use crate::probes::{Nonce, Port, Protocol};

/// The most ports of one round.
const MAX_PORTS: usize = 16;
/// How long a round may take, in seconds.
const SECONDS: std::ops::RangeInclusive<u32> = 1..=30;
/// How many datagrams go to one port.
const COUNT: std::ops::RangeInclusive<u32> = 1..=50;
/// Bytes of payload of a datagram.
const SIZE: std::ops::RangeInclusive<u32> = 32..=1400;
/// How long a connection may take, in milliseconds.
const TIMEOUT: std::ops::RangeInclusive<u32> = 100..=10_000;

/// Listens; the stream ends with the round.
pub(super) fn listen(
    core: &Arc<Core>,
    request: pb::ReceiveProbesRequest,
) -> Result<Answers<pb::ReceiveProbesResponse>, Error> {
    let nonce = nonce(&request.nonce)?;
    let ports = ports(&request.ports)?;
    within("seconds", request.seconds, &SECONDS)?;
    let duration = Duration::from_secs(request.seconds.into());
    let Ok(permit) = Arc::clone(&core.probing).try_acquire_owned() else {
        return Err(Fault::new(
            Code::ResourceExhausted,
            "PROBES_BUSY",
            "this agent listens for the probes of several others already",
        )
        .hint("ask again in half a minute")
        .into());
    };
    let (sender, events) = mpsc::channel(64);
    let host = core.host.clone();
    let stopping = core.life.stopping.clone();
    core.life.spawn(async move {
        let _permit = permit;
        tokio::select! {
            () = receive(host, nonce, ports, duration, sender) => {}
            () = stopping.cancelled() => {}
        }
    });
    let answers = ReceiverStream::new(events).map(|event| Ok(answer(event)));
    Ok(answers.boxed())
}

/// Sends, and tells what came of it.
pub(super) async fn probe(
    core: &Core,
    request: pb::SendProbesRequest,
) -> Result<pb::SendProbesResponse, Error> {
    let nonce = nonce(&request.nonce)?;
    let ports = ports(&request.ports)?;
    within("count", request.count, &COUNT)?;
    within("size", request.size, &SIZE)?;
    within("timeout_ms", request.timeout_ms, &TIMEOUT)?;
    let address = request
        .address
        .parse::<IpAddr>()
        .ok()
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
        .ok_or_else(|| broken("address", "probes go to one IP address: 10.0.0.5"))?;
    let probes = Probes {
        nonce,
        address,
        count: request.count,
        size: request.size as usize,
        limit: Duration::from_millis(request.timeout_ms.into()),
    };
    let results = send(&*core.host.sockets, probes, &ports)
        .await
        .into_iter()
        .map(|(port, outcome)| result(port, outcome))
        .collect();
    Ok(pb::SendProbesResponse { results })
}

fn nonce(bytes: &[u8]) -> Result<Nonce, Error> {
    bytes
        .try_into()
        .map_err(|_| broken("nonce", "a round is marked by 16 bytes"))
}

fn ports(ports: &[pb::ProbePort]) -> Result<Vec<Port>, Error> {
    let rule = || {
        broken(
            "ports",
            format!("1 to {MAX_PORTS} different ports, TCP or UDP, are probed at once"),
        )
    };
    let mut checked = Vec::new();
    for port in ports {
        let protocol = match port.protocol() {
            pb::ProbeProtocol::Tcp => Protocol::Tcp,
            pb::ProbeProtocol::Udp => Protocol::Udp,
            pb::ProbeProtocol::Unspecified => return Err(rule()),
        };
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
        let port = Port {
            protocol,
            number: number.ok_or_else(rule)?,
        };
        if checked.contains(&port) {
            return Err(rule());
        }
        checked.push(port);
    }
    if checked.is_empty() || checked.len() > MAX_PORTS {
        return Err(rule());
    }
    Ok(checked)
}

fn within(field: &str, value: u32, range: &std::ops::RangeInclusive<u32>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(broken(
        field,
        format!("a number from {} to {}", range.start(), range.end()),
    ))
}

fn as_pb(port: Port) -> pb::ProbePort {
    let protocol = match port.protocol {
        Protocol::Tcp => pb::ProbeProtocol::Tcp,
        Protocol::Udp => pb::ProbeProtocol::Udp,
    };
    pb::ProbePort {
        protocol: protocol.into(),
        port: port.number.into(),
    }
}

fn answer(event: Event) -> pb::ReceiveProbesResponse {
    use pb::receive_probes_response::Event as Wire;
    let event = match event {
        Event::Listening(states) => Wire::Listening(pb::ProbeListening {
            listeners: states
                .into_iter()
                .map(|(port, state)| listener(port, state))
                .collect(),
        }),
        Event::Arrival {
            port,
            sequence,
            size,
        } => Wire::Arrival(pb::ProbeArrival {
            port: Some(as_pb(port)),
            sequence,
            size,
        }),
    };
    pb::ReceiveProbesResponse { event: Some(event) }
}

fn listener(port: Port, state: Listening) -> pb::ProbeListenerState {
    let (listener, error) = match state {
        Listening::Socket => (pb::ProbeListener::Socket, String::new()),
        Listening::PacketSocket => (pb::ProbeListener::PacketSocket, String::new()),
        Listening::Service => (pb::ProbeListener::Service, String::new()),
        Listening::None(error) => (pb::ProbeListener::None, error),
    };
    pb::ProbeListenerState {
        port: Some(as_pb(port)),
        listener: listener.into(),
        error,
    }
}

fn result(port: Port, outcome: Outcome) -> pb::ProbeResult {
    let (outcome, error) = match outcome {
        Outcome::Sent => (pb::ProbeOutcome::Sent, String::new()),
        Outcome::Refused(error) => (pb::ProbeOutcome::Refused, error),
        Outcome::NoAnswer(error) => (pb::ProbeOutcome::NoAnswer, error),
        Outcome::Unreachable(error) => (pb::ProbeOutcome::Unreachable, error),
    };
    pb::ProbeResult {
        port: Some(as_pb(port)),
        outcome: outcome.into(),
        error,
    }
}
