//! Dialling a host: its addresses in order, whoever answers judged by the fleet's CA and by the keys on record.

use std::sync::Arc;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_transport::dial::{self, DialError, Dialled, Limits};
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::spiffe::Identity;
use canasta_transport::tls::{ClientTls, PeerCheck};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::logging::line;
use crate::store::HostRow;

/// Somebody answered who is who it should be.
pub(super) struct Reached {
    pub(super) dialled: Dialled,
    pub(super) attempts: Vec<pb::DialAttempt>,
    /// When the dialling began.
    pub(super) at: Timestamp,
}

/// Nobody did.
pub(super) struct Failed {
    pub(super) attempts: Vec<pb::DialAttempt>,
    /// The address where the agent answered with a certificate that has ended.
    pub(super) expired_at: Option<String>,
    /// The agent answered with a certificate in force, and with a key that is not on record.
    pub(super) other_key: bool,
}

impl Failed {
    /// Each address with what came of it, in one line.
    pub(super) fn reason(&self) -> String {
        if self.attempts.is_empty() {
            return "no address is known".to_owned();
        }
        let lines: Vec<&str> = self
            .attempts
            .iter()
            .map(|attempt| attempt.error.as_str())
            .collect();
        lines.join("; ")
    }
}

/// Dials the addresses of a host one after the other. `keys` are the SHA-256 of the public keys on record; a
/// connection breaks at `end`.
pub(super) async fn dial(
    context: &Context,
    host: &HostRow,
    keys: &[[u8; 32]],
    end: &CancellationToken,
) -> Result<Reached, Failed> {
    let tls = ClientTls::fleet(
        context.issuer.material().clone(),
        expected(context, &host.name),
    )
    .with_check(on_record(keys.to_vec()));
    let mut attempts = Vec::new();
    let mut expired_at = None;
    let mut other_key = false;
    for address in host.addresses() {
        let address = address.address;
        let at = Timestamp::now();
        match dial::connect_until(&address, &tls, &limits(context), end.clone()).await {
            Ok(dialled) => {
                attempts.push(pb::DialAttempt {
                    address,
                    error: String::new(),
                });
                return Ok(Reached {
                    dialled,
                    attempts,
                    at,
                });
            }
            Err(error) => {
                match error.refusal() {
                    Some(HandshakeRefusal::Expired { .. }) => {
                        expired_at.get_or_insert_with(|| address.clone());
                    }
                    Some(HandshakeRefusal::OtherKey { .. }) => other_key = true,
                    _ => {}
                }
                attempts.push(pb::DialAttempt {
                    error: line(&error),
                    address,
                });
            }
        }
    }
    Err(Failed {
        attempts,
        expired_at,
        other_key,
    })
}

/// Reaches an agent whose certificate has ended, for renewal alone: its key must be one of those on record.
pub(super) async fn rescue(
    context: &Context,
    host: &HostName,
    address: &str,
    keys: &[[u8; 32]],
    end: &CancellationToken,
) -> Result<Dialled, DialError> {
    let mut result = None;
    for key in keys {
        let tls = ClientTls::rescue(
            context.issuer.material().clone(),
            expected(context, host),
            *key,
        )
        .with_check(on_record(keys.to_vec()));
        match dial::connect_until(address, &tls, &limits(context), end.clone()).await {
            Err(error)
                if matches!(
                    error.refusal(),
                    Some(HandshakeRefusal::ExpiredWithOtherKey { .. })
                ) =>
            {
                result = Some(Err(error));
            }
            settled => return settled,
        }
    }
    result.unwrap_or_else(|| {
        Err(DialError::Handshake {
            address: address.to_owned(),
            refusal: Box::new(HandshakeRefusal::OtherKey {
                presented: expected(context, host),
            }),
        })
    })
}

fn expected(context: &Context, host: &HostName) -> Identity {
    context.issuer.fleet().agent(host.clone())
}

fn on_record(keys: Vec<[u8; 32]>) -> Arc<PeerCheck> {
    Arc::new(move |presented, facts| {
        if keys.contains(&facts.spki_sha256) {
            Ok(())
        } else {
            Err(HandshakeRefusal::OtherKey {
                presented: presented.clone(),
            })
        }
    })
}

fn limits(context: &Context) -> Limits {
    let timings = &context.timings;
    Limits {
        connect: timings.dial,
        handshake: timings.dial,
        keepalive: timings.keepalive,
        keepalive_timeout: timings.keepalive,
        ..Limits::default()
    }
}
