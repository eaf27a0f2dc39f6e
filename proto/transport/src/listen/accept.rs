//! The accept loops behind [`Incoming`](super::Incoming).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{Guest, Io};
use super::sources::{Place, Sources};
use super::{
    Connection, Connections, Limits, Peer, PeerInfo, RefusalReason, RefusalSink, RefusedHandshake,
};
use crate::spiffe::Identity;
use crate::tls::{Accepted, Refused, ServerTls};

/// A peer that vanished is noticed after about this long plus [`PROBES`] times [`PROBE_EVERY`].
const IDLE_BEFORE_PROBE: u32 = 30;
const PROBE_EVERY: u32 = 10;
const PROBES: u32 = 3;

/// How long to wait when the system can't accept: out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Callers without a certificate enrol or redeem a token and go. Those who stay must not take the places of members.
const ANONYMOUS: usize = 128;
const ANONYMOUS_STAY: Duration = Duration::from_mins(2);

/// Of the places that strangers take (handshakes, connections in or before one, callers without a certificate) one source
/// may hold this part: a single address can't keep the others out.
const SHARE: usize = 4;

/// How long it may take to find the name of a local user; a directory service may be away.
const NAME_TIME: Duration = Duration::from_secs(2);

/// How long a refused caller gets to take our alert before the connection is reset.
const ALERT_TIME: Duration = Duration::from_millis(500);

/// What the handshakes of one listener share.
struct Door {
    tls: ServerTls,
    connections: Connections,
    /// Handshakes at a time.
    handshakes: Semaphore,
    /// Places for callers without a certificate, of all sources and of each.
    anonymous: Arc<Semaphore>,
    guests: Arc<Sources>,
    limit: Duration,
    /// How much is read at once.
    read: usize,
    refused: Arc<RefusalSink>,
    sender: mpsc::Sender<Connection>,
}

pub(super) async fn tcp(
    listener: TcpListener,
    tls: ServerTls,
    connections: Connections,
    limits: Limits,
    refused: Arc<RefusalSink>,
    sender: mpsc::Sender<Connection>,
) {
    let anonymous = ANONYMOUS.min(limits.connections.div_ceil(2));
    let share = |places: usize| places.div_ceil(SHARE);
    let door = Arc::new(Door {
        tls,
        connections,
        handshakes: Semaphore::new(limits.handshakes),
        anonymous: Arc::new(Semaphore::new(anonymous)),
        guests: Sources::new(share(anonymous), 1),
        limit: limits.handshake,
        read: limits.read,
        refused,
        sender,
    });
    let callers = Sources::new(share(limits.connections), share(limits.handshakes));
    let places = Arc::new(Semaphore::new(limits.connections));
    // Ends all handshakes with the listener.
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, remote)) => {
                // An IPv4 caller on a socket for both families is shown as the IPv4 address that it has.
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                let Some(caller) = callers.enter(remote.ip()) else {
                    door.refuse(remote, None, RefusalReason::Crowded);
                    continue;
                };
                let door = door.clone();
                running.spawn(async move { door.let_in(stream, remote, caller, place).await });
            }
            Err(error) => pause(&error).await,
        }
    }
}

pub(super) async fn unix(
    listener: UnixListener,
    connections: Connections,
    limits: Limits,
    sender: mpsc::Sender<Connection>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let accepted = match listener.accept().await {
            Ok((stream, _)) => local_peer(&stream).await.map(|peer| (stream, peer)),
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                let registered = connections.add(peer.clone());
                let info =
                    PeerInfo::new(peer, "unix socket".to_owned()).closed_by(&registered.token);
                let connection = Connection::new(Io::Unix(stream), info, registered, place, None);
                if sender.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "failed to find out who opened the unix socket"),
        }
    }
}

impl Door {
    /// Waits for a turn, does the handshake and hands the connection on.
    async fn let_in(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        caller: Place,
        place: OwnedSemaphorePermit,
    ) {
        // First a turn among those of the same source, so that who waits there takes no turn from the others.
        let turn = async {
            let own = caller.turns.acquire().await.ok()?;
            Some((own, self.handshakes.acquire().await.ok()?))
        };
        let Ok(Some(turn)) = timeout(self.limit, turn).await else {
            self.refuse(remote, None, RefusalReason::TimedOut);
            return;
        };
        let accepted = self.handshake(stream, remote).await;
        drop(turn);
        drop(caller);
        if let Some((accepted, guest)) = accepted {
            self.hand_on(accepted, remote, place, guest).await;
        }
    }

    /// The handshake; a caller without a certificate gets a guest's place.
    async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Option<(Accepted<BufReader<TcpStream>>, Option<Guest>)> {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, %remote, "failed to set socket options");
        }
        let stream = BufReader::with_capacity(self.read, stream);
        let accepted = match timeout(self.limit, self.tls.accept(stream)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(Refused { io, identity, why })) => {
                let reason = match why {
                    Ok(refusal) => RefusalReason::Refused(refusal),
                    Err(error) => RefusalReason::Broken(error),
                };
                self.refuse(remote, identity, reason);
                let_go(io.into_inner()).await;
                return None;
            }
            Err(_) => {
                self.refuse(remote, None, RefusalReason::TimedOut);
                return None;
            }
        };
        if accepted.peer.is_some() {
            return Some((accepted, None));
        }
        let guest = self.guests.enter(remote.ip()).and_then(|place| {
            let permit = self.anonymous.clone().try_acquire_owned().ok()?;
            Some(Guest {
                stay: ANONYMOUS_STAY,
                _place: place,
                _permit: permit,
            })
        });
        if guest.is_none() {
            self.refuse(remote, None, RefusalReason::Crowded);
            return None;
        }
        Some((accepted, guest))
    }

    async fn hand_on(
        &self,
        accepted: Accepted<BufReader<TcpStream>>,
        remote: SocketAddr,
        place: OwnedSemaphorePermit,
        guest: Option<Guest>,
    ) {
        let peer = accepted
            .peer
            .map_or(Peer::Anonymous, |(identity, facts)| Peer::Identified {
                identity,
                facts,
            });
        let registered = self.connections.add(peer.clone());
        // Whoever was revoked after the handshake and before it was registered was missed by both.
        if let Peer::Identified { identity, facts } = &peer
            && let Err(refusal) = self.tls.still_admits(identity, facts)
        {
            drop(registered);
            let identity = Some(identity.clone());
            self.refuse(remote, identity, RefusalReason::Refused(refusal));
            return;
        }
        let info = PeerInfo::new(peer, remote.to_string()).closed_by(&registered.token);
        let io = Io::Tls(Box::new(accepted.stream));
        // An error means that the server is going down.
        let _ = self
            .sender
            .send(Connection::new(io, info, registered, place, guest))
            .await;
    }

    fn refuse(&self, remote: SocketAddr, identity: Option<Identity>, reason: RefusalReason) {
        (self.refused)(RefusedHandshake {
            remote: remote.to_string(),
            identity,
            reason,
        });
    }
}

/// Ends a refused connection so that the alert arrives: a reset because of unread bytes would overtake it.
async fn let_go(mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut waste = [0; 1024];
        while stream.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the caller takes the alert is its own affair.
    let _ = timeout(ALERT_TIME, drained).await;
}

/// No delay for small writes, and probes that find out when the other end is gone.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &IDLE_BEFORE_PROBE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_EVERY)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    Ok(())
}

/// Asks the kernel who opened the other end (SO_PEERCRED).
async fn local_peer(stream: &UnixStream) -> io::Result<Peer> {
    let uid = stream.peer_cred()?.uid();
    // Looking up the name may ask a directory service.
    let name = tokio::task::spawn_blocking(move || {
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
            .ok()
            .flatten()
            .map(|user| user.name)
    });
    let name = match timeout(NAME_TIME, name).await {
        Ok(Ok(Some(name))) => name,
        _ => uid.to_string(),
    };
    Ok(Peer::Local { uid, name })
}

/// A caller that went away between the kernel and us costs nothing; anything else is a want of resources.
async fn pause(error: &io::Error) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    ) {
        return;
    }
    tracing::warn!(%error, "failed to accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
