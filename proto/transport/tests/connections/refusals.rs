//! Who gets through a handshake and who does not, seen from both sides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use canasta_transport::dial::{self, DialError};
use canasta_transport::keys::PrivateKey;
use canasta_transport::listen::{Limits, RefusalReason};
use canasta_transport::refusal::{HandshakeRefusal, PeerVerdict, refusal_of};
use canasta_transport::spiffe::Identity;
use canasta_transport::tls::{ClientTls, ServerTls};
use jiff::Timestamp;
use rustls::HandshakeKind;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::fleet::{Fleet, HOUR, Leaf};
use crate::service::{Serving, call, who};

async fn agent(fleet: &Fleet) -> Serving {
    let leaf = fleet.leaf(fleet.agent("cp1"));
    Serving::new(ServerTls::agent(leaf.reloadable())).await
}

/// A controller that has removed the user mallory.
async fn controller(fleet: &Fleet) -> Serving {
    let leaf = fleet.leaf(fleet.controller());
    let mallory = fleet.user("mallory");
    let check = move |identity: &Identity, _: &_| {
        if *identity == mallory {
            return Err(HandshakeRefusal::Revoked {
                presented: identity.clone(),
            });
        }
        Ok(())
    };
    Serving::new(ServerTls::controller(leaf.reloadable(), Arc::new(check))).await
}

/// Dials and is refused; tells how.
async fn refused(serving: &Serving, leaf: &Leaf, expected: Identity) -> HandshakeRefusal {
    let tls = ClientTls::fleet(leaf.reloadable(), expected);
    match dial::connect(&serving.address(), &tls, &dial::Limits::default()).await {
        Err(DialError::Handshake { refusal, address }) => {
            assert_eq!(address, serving.address());
            *refusal
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// A client of another make, as grpcurl and openssl are: judges by CA and DNS name, and shows what it is given.
fn plain_config(
    ca: &CertificateDer<'static>,
    shown: Option<(CertificateDer<'static>, &PrivateKey)>,
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((leaf, key)) => {
            let pem = key.reveal_pem().expect("pem");
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("key");
            let key = provider
                .key_provider
                .load_private_key(key)
                .expect("signing key");
            // Unlike the usual way, this does not ask whether the two belong together.
            let certified = CertifiedKey::new(vec![leaf], key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Connects, and reads the head of the first frame.
async fn plain_connect(
    serving: &Serving,
    name: &'static str,
    config: &Arc<rustls::ClientConfig>,
) -> Result<(Vec<u8>, Option<HandshakeKind>), std::io::Error> {
    let stream = TcpStream::connect(serving.address).await?;
    let (first, stream) = plain_handshake(stream, name, config).await?;
    Ok((first, stream.get_ref().1.handshake_kind()))
}

/// Does the handshake over a connection, and reads the head of the first frame.
async fn plain_handshake(
    stream: TcpStream,
    name: &'static str,
    config: &Arc<rustls::ClientConfig>,
) -> Result<(Vec<u8>, tokio_rustls::client::TlsStream<TcpStream>), std::io::Error> {
    let name = ServerName::try_from(name).expect("name");
    let mut stream = tokio_rustls::TlsConnector::from(config.clone())
        .connect(name, stream)
        .await?;
    let mut first = vec![0; 9];
    stream.read_exact(&mut first).await?;
    Ok((first, stream))
}

async fn plain_client(
    serving: &Serving,
    ca: &CertificateDer<'static>,
    name: &'static str,
    shown: Option<(CertificateDer<'static>, &PrivateKey)>,
) -> Result<Vec<u8>, std::io::Error> {
    let (first, _) = plain_connect(serving, name, &plain_config(ca, shown)).await?;
    Ok(first)
}

const CP1: &str = "cp1.agent.canasta.internal";
const CTL: &str = "controller.canasta.internal";

#[tokio::test]
async fn the_controller_gets_through_to_its_agent() {
    let fleet = Fleet::new();
    let serving = agent(&fleet).await;
    let tls = ClientTls::fleet(
        fleet.leaf(fleet.controller()).reloadable(),
        fleet.agent("cp1"),
    );
    let dialled = dial::connect(&serving.address(), &tls, &dial::Limits::default())
        .await
        .expect("dialled");
    assert_eq!(dialled.presented.identity, fleet.agent("cp1"));
    assert_eq!(dialled.remote, serving.address);
    assert_eq!(who(&dialled.channel).await, "controller");
}

#[tokio::test]
async fn users_and_strangers_get_through_to_the_controller() {
    let fleet = Fleet::new();
    let serving = controller(&fleet).await;
    let user = ClientTls::fleet(
        fleet.leaf(fleet.user("anna")).reloadable(),
        fleet.controller(),
    );
    let stranger = ClientTls::pinned(fleet.authority.ca_pin());
    for (tls, name) in [(user, "user anna"), (stranger, "unknown")] {
        let dialled = dial::connect(&serving.address(), &tls, &dial::Limits::default())
            .await
            .expect("dialled");
        assert_eq!(who(&dialled.channel).await, name);
    }
}

#[tokio::test]
async fn an_agent_wants_a_certificate() {
    let fleet = Fleet::new();
    let mut serving = agent(&fleet).await;
    let error = plain_client(&serving, fleet.authority.certificate(), CP1, None)
        .await
        .expect_err("refused");
    assert_eq!(
        refusal_of(&error),
        Some(HandshakeRefusal::ByPeer(PeerVerdict::CertificateRequired))
    );
    assert_eq!(
        serving.refusal().await,
        (None, HandshakeRefusal::NoCertificate)
    );
}

#[tokio::test]
async fn certificates_of_another_ca_are_refused() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let ca = fleet.authority.certificate();
    let cases = [
        (agent(&fleet).await, CP1, other.leaf(other.controller())),
        (
            controller(&fleet).await,
            CTL,
            other.leaf(other.user("anna")),
        ),
    ];
    for (mut serving, name, leaf) in cases {
        let shown = Some((leaf.der.clone(), &leaf.key));
        let error = plain_client(&serving, ca, name, shown)
            .await
            .expect_err("refused");
        assert_eq!(
            refusal_of(&error),
            Some(HandshakeRefusal::ByPeer(PeerVerdict::UnknownCa))
        );
        // The name in such a certificate is worth nothing, so nobody is named.
        assert_eq!(serving.refusal().await, (None, HandshakeRefusal::UnknownCa));
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_and_names_nobody() {
    let fleet = Fleet::new();
    let mut serving = agent(&fleet).await;
    let (leaf, thief) = (
        fleet.leaf(fleet.controller()),
        PrivateKey::generate().expect("key"),
    );
    let shown = Some((leaf.der.clone(), &thief));
    plain_client(&serving, fleet.authority.certificate(), CP1, shown)
        .await
        .expect_err("refused");
    let (named, refusal) = serving.refusal().await;
    assert_eq!(named, None);
    assert_eq!(refusal, HandshakeRefusal::WithoutKey);
}

#[tokio::test]
async fn other_tools_get_through_by_ca_and_dns_name() {
    let fleet = Fleet::new();
    let ca = fleet.authority.certificate();
    let leaf = fleet.leaf(fleet.controller());
    let shown = Some((leaf.der.clone(), &leaf.key));
    let first = plain_client(&agent(&fleet).await, ca, CP1, shown)
        .await
        .expect("settings");
    assert_eq!(first[3], 4, "HTTP/2 settings come unasked");
    plain_client(&controller(&fleet).await, ca, CTL, None)
        .await
        .expect("settings");
}

#[tokio::test]
async fn no_session_is_resumed_so_each_is_judged_anew() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.controller());
    let shown = Some((leaf.der.clone(), &leaf.key));
    let config = plain_config(fleet.authority.certificate(), shown);
    let serving = agent(&fleet).await;
    for _ in 0..2 {
        let (_, kind) = plain_connect(&serving, CP1, &config)
            .await
            .expect("settings");
        assert_eq!(kind, Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn nobody_but_the_controller_gets_through_to_an_agent() {
    let fleet = Fleet::new();
    let mut serving = agent(&fleet).await;
    for identity in [fleet.user("anna"), fleet.agent("cp2"), fleet.agent("cp1")] {
        let refusal = refused(&serving, &fleet.leaf(identity.clone()), fleet.agent("cp1")).await;
        assert_eq!(refusal, HandshakeRefusal::ByPeer(PeerVerdict::NotAdmitted));
        assert_eq!(
            serving.refusal().await,
            (
                Some(identity.kind.to_string()),
                HandshakeRefusal::NotAdmitted {
                    presented: identity
                }
            )
        );
    }
    assert!(serving.connections.is_empty());
}

#[tokio::test]
async fn an_agent_is_no_user_and_neither_is_the_controller() {
    let fleet = Fleet::new();
    let mut serving = controller(&fleet).await;
    for identity in [fleet.agent("cp1"), fleet.controller()] {
        let refusal = refused(&serving, &fleet.leaf(identity.clone()), fleet.controller()).await;
        assert_eq!(refusal, HandshakeRefusal::ByPeer(PeerVerdict::NotAdmitted));
        assert_eq!(
            serving.refusal().await.1,
            HandshakeRefusal::NotAdmitted {
                presented: identity
            }
        );
    }
}

#[tokio::test]
async fn a_revoked_user_is_refused_by_name() {
    let fleet = Fleet::new();
    let mut serving = controller(&fleet).await;
    let mallory = fleet.user("mallory");
    let refusal = refused(&serving, &fleet.leaf(mallory.clone()), fleet.controller()).await;
    assert_eq!(refusal, HandshakeRefusal::ByPeer(PeerVerdict::Revoked));
    assert_eq!(
        serving.refusal().await,
        (
            Some("user mallory".to_owned()),
            HandshakeRefusal::Revoked { presented: mallory }
        )
    );
}

#[tokio::test]
async fn certificates_out_of_their_time_are_refused() {
    let fleet = Fleet::new();
    let now = Timestamp::now();
    let early = fleet.between(
        PrivateKey::generate().expect("key"),
        fleet.user("anna"),
        now + HOUR,
        now + 2 * HOUR,
    );
    let late = fleet.expired(fleet.user("anna"));
    let mut serving = controller(&fleet).await;
    for (leaf, told) in [
        (
            &late,
            HandshakeRefusal::Expired {
                not_after: late.material().facts().not_after,
            },
        ),
        (
            &early,
            HandshakeRefusal::NotYetValid {
                not_before: early.material().facts().not_before,
            },
        ),
    ] {
        let refusal = refused(&serving, leaf, fleet.controller()).await;
        assert_eq!(refusal, HandshakeRefusal::ByPeer(PeerVerdict::Expired));
        assert_eq!(
            serving.refusal().await,
            (Some("user anna".to_owned()), told)
        );
    }
    let mut serving = agent(&fleet).await;
    let leaf = fleet.expired(fleet.controller());
    refused(&serving, &leaf, fleet.agent("cp1")).await;
    assert!(matches!(
        serving.refusal().await.1,
        HandshakeRefusal::Expired { .. }
    ));
}

#[tokio::test]
async fn whoever_answers_must_be_who_was_dialled() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let serving = agent(&fleet).await;
    let leaf = fleet.leaf(fleet.controller());
    assert_eq!(
        refused(&serving, &leaf, fleet.agent("cp2")).await,
        HandshakeRefusal::WrongIdentity {
            expected: fleet.agent("cp2"),
            presented: fleet.agent("cp1"),
        }
    );
    assert_eq!(
        refused(&serving, &leaf, other.agent("cp1")).await,
        HandshakeRefusal::OtherFleet {
            expected: other.authority.fleet().clone(),
            presented: fleet.authority.fleet().clone(),
        }
    );
    let stranger = other.leaf(other.controller());
    assert_eq!(
        refused(&serving, &stranger, other.agent("cp1")).await,
        HandshakeRefusal::UnknownCa
    );
    let tls = ClientTls::fleet(leaf.reloadable(), fleet.agent("cp1")).with_check(Arc::new(
        |identity, _| {
            Err(HandshakeRefusal::OtherKey {
                presented: identity.clone(),
            })
        },
    ));
    let error = dial::connect(&serving.address(), &tls, &dial::Limits::default())
        .await
        .expect_err("refused");
    assert_eq!(
        error.refusal(),
        Some(&HandshakeRefusal::OtherKey {
            presented: fleet.agent("cp1")
        })
    );
}

/// A TLS 1.2 ClientHello as an old client sends it: no supported_versions, ECDHE-ECDSA with AES-128-GCM on P-256.
fn old_client_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x17, // supported_groups: secp256r1
        0x00, 0x0b, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut body = vec![0x03, 0x03];
    body.extend([0x5a; 32]); // random
    body.push(0); // session id
    body.extend([0, 2, 0xc0, 0x2b]); // cipher suites
    body.extend([1, 0]); // compression: null
    body.extend(
        u16::try_from(extensions.len())
            .expect("short")
            .to_be_bytes(),
    );
    body.extend(extensions);
    let length = u16::try_from(body.len()).expect("short");
    let mut hello = vec![0x16, 0x03, 0x01];
    hello.extend((length + 4).to_be_bytes());
    hello.extend([0x01, 0]);
    hello.extend(length.to_be_bytes());
    hello.extend(body);
    hello
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let fleet = Fleet::new();
    for mut serving in [agent(&fleet).await, controller(&fleet).await] {
        let mut stream = TcpStream::connect(serving.address).await.expect("connect");
        stream
            .write_all(&old_client_hello())
            .await
            .expect("hello sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answer");
        // One record: alert (21), fatal (2), protocol_version (70).
        assert_eq!(answer.len(), 7, "{answer:?}");
        assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]));
        assert_eq!(
            serving.refusal().await,
            (None, HandshakeRefusal::OldProtocol)
        );
    }
}

#[tokio::test]
async fn silent_and_talkative_callers_hold_up_nobody() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.agent("cp1"));
    let limits = Limits {
        handshakes: 8,
        handshake: Duration::from_secs(1),
        ..Limits::default()
    };
    let mut serving = Serving::with_limits(ServerTls::agent(leaf.reloadable()), limits).await;
    let silent = TcpStream::connect(serving.address).await.expect("connect");
    let mut talkative = TcpStream::connect(serving.address).await.expect("connect");
    talkative
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    let broken = serving.refused.recv().await.expect("refused");
    assert!(matches!(broken.reason, RefusalReason::Broken(_)));
    drop(talkative);
    let tls = ClientTls::fleet(
        fleet.leaf(fleet.controller()).reloadable(),
        fleet.agent("cp1"),
    );
    let dialled = dial::connect(&serving.address(), &tls, &dial::Limits::default())
        .await
        .expect("dialled");
    assert_eq!(who(&dialled.channel).await, "controller");
    let late = serving.refused.recv().await.expect("refused");
    assert!(matches!(late.reason, RefusalReason::TimedOut));
    drop(silent);
}

#[tokio::test]
async fn callers_without_a_certificate_leave_room_for_members() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.controller());
    let limits = Limits {
        connections: 16,
        ..Limits::default()
    };
    let tls = ServerTls::controller(leaf.reloadable(), Arc::new(|_, _| Ok(())));
    let mut serving = Serving::with_limits(tls, limits).await;
    let dial = async |tls: ClientTls| {
        dial::connect(&serving.address(), &tls, &dial::Limits::default()).await
    };
    let pinned = || ClientTls::pinned(fleet.authority.ca_pin());
    let first = dial(pinned()).await.expect("dialled");
    let second = dial(pinned()).await.expect("dialled");
    // So many of the eight places has one address.
    let third = dial(pinned()).await;
    assert!(matches!(third, Err(DialError::Broken { .. })), "{third:?}");
    let config = plain_config(fleet.authority.certificate(), None);
    let neighbour = connect_from("127.0.0.2", serving.address).await;
    let neighbour = plain_handshake(neighbour, CTL, &config).await;
    assert!(neighbour.is_ok(), "{neighbour:?}");
    let anna = fleet.leaf(fleet.user("anna")).reloadable();
    let member = dial(ClientTls::fleet(anna, fleet.controller()))
        .await
        .expect("dialled");
    assert_eq!(who(&member.channel).await, "user anna");

    // Who stays too long goes, and members stay.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(121)).await;
    tokio::time::resume();
    for gone in [&first, &second] {
        while call(&gone.channel, 0).await.is_ok() {}
    }
    assert_eq!(who(&member.channel).await, "user anna");
    let refused = serving.refused.recv().await.expect("refused");
    assert!(matches!(refused.reason, RefusalReason::Crowded));
}

/// Connects from this address of the loopback network.
async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    let source = SocketAddr::new(source.parse().expect("address"), 0);
    socket.bind(source).expect("bind");
    socket.connect(address).await.expect("connect")
}

#[tokio::test]
async fn one_address_holds_up_nobody_else() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.agent("cp1"));
    let limits = Limits {
        handshakes: 4,
        handshake: Duration::from_secs(60),
        connections: 16,
        ..Limits::default()
    };
    let mut serving = Serving::with_limits(ServerTls::agent(leaf.reloadable()), limits).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(serving.address).await.expect("connect"));
    }
    // A quarter of the places is held, and the others were sent away.
    for _ in 0..28 {
        let refused = serving.refused.recv().await.expect("refused");
        assert!(matches!(refused.reason, RefusalReason::Crowded));
    }
    let controller = fleet.leaf(fleet.controller());
    let shown = Some((controller.der.clone(), &controller.key));
    let config = plain_config(fleet.authority.certificate(), shown);
    let member = connect_from("127.0.0.2", serving.address).await;
    let limit = Duration::from_secs(10);
    let through = tokio::time::timeout(limit, plain_handshake(member, CP1, &config)).await;
    through.expect("in time").expect("let in");
    drop(silent);
}
