//! The first connection, pinned by a token, and the rescue of an expired agent.

use std::sync::Arc;

use canasta_transport::dial::{self, DialError, Dialled};
use canasta_transport::keys::PrivateKey;
use canasta_transport::listen::{RefusalReason, RefusedHandshake};
use canasta_transport::refusal::{HandshakeRefusal, PeerVerdict, refusal_of};
use canasta_transport::tls::{ClientTls, ServerTls};
use jiff::Timestamp;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::fleet::{Fleet, HOUR, Leaf};
use crate::service::{Serving, who};

async fn controller(leaf: &Leaf) -> Serving {
    Serving::new(ServerTls::controller(
        leaf.reloadable(),
        Arc::new(|_, _| Ok(())),
    ))
    .await
}

async fn dial(address: &str, tls: &ClientTls) -> Result<Dialled, DialError> {
    dial::connect(address, tls, &dial::Limits::default()).await
}

fn refusal(result: Result<Dialled, DialError>) -> HandshakeRefusal {
    result
        .expect_err("refused")
        .refusal()
        .expect("a refusal")
        .clone()
}

#[tokio::test]
async fn a_pin_yields_the_fleet_and_its_ca_whatever_the_date() {
    let fleet = Fleet::new();
    let now = Timestamp::now();
    let early = fleet.between(
        PrivateKey::generate().expect("key"),
        fleet.controller(),
        now + HOUR,
        now + 2 * HOUR,
    );
    for leaf in [
        fleet.leaf(fleet.controller()),
        fleet.expired(fleet.controller()),
        early,
    ] {
        let serving = controller(&leaf).await;
        let tls = ClientTls::pinned(fleet.authority.ca_pin());
        let dialled = dial(&serving.address(), &tls).await.expect("dialled");
        assert_eq!(dialled.presented.identity, fleet.controller());
        assert_eq!(dialled.presented.ca, *fleet.authority.certificate());
        assert_eq!(who(&dialled.channel).await, "unknown");
    }
}

/// A server that lets anyone in, shows this chain, and records: the end of its handshake, and every byte after that.
async fn recording(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Recording {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pem = key.reveal_pem().expect("pem");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("key");
    let key = provider
        .key_provider
        .load_private_key(key)
        .expect("signing key");
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            chain, key,
        ))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();
    let seen = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accept");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        match acceptor.accept(stream).into_fallible().await {
            Ok(_) => panic!("the caller went on to speak"),
            Err((error, mut stream)) => {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                (refusal_of(&error), rest)
            }
        }
    });
    Recording { address, seen }
}

struct Recording {
    address: String,
    seen: tokio::task::JoinHandle<(Option<HandshakeRefusal>, Vec<u8>)>,
}

impl Recording {
    /// The caller sent an alert and not one byte more.
    async fn saw_an_alert_alone(self) {
        let (refusal, rest) = self.seen.await.expect("recorded");
        assert_eq!(
            refusal,
            Some(HandshakeRefusal::ByPeer(PeerVerdict::Certificate))
        );
        assert_eq!(rest, Vec::<u8>::new());
    }
}

#[tokio::test]
async fn with_a_pin_mismatch_nothing_is_sent() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let leaf = other.leaf(other.controller());
    let tls = ClientTls::pinned(fleet.authority.ca_pin());
    let chains = [
        (
            vec![leaf.der.clone(), other.authority.certificate().clone()],
            Some(other.authority.ca_pin()),
        ),
        (vec![leaf.der.clone()], None),
    ];
    for (chain, presented) in chains {
        let server = recording(chain, &leaf.key).await;
        assert_eq!(
            refusal(dial(&server.address, &tls).await),
            HandshakeRefusal::PinMismatch {
                expected: fleet.authority.ca_pin(),
                presented,
            }
        );
        server.saw_an_alert_alone().await;
    }
}

#[tokio::test]
async fn a_stolen_certificate_of_an_agent_is_no_controller() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.agent("cp1"));
    let chain = vec![leaf.der.clone(), fleet.authority.certificate().clone()];
    let server = recording(chain, &leaf.key).await;
    let tls = ClientTls::pinned(fleet.authority.ca_pin());
    assert_eq!(
        refusal(dial(&server.address, &tls).await),
        HandshakeRefusal::NotController {
            presented: fleet.agent("cp1")
        }
    );
    server.saw_an_alert_alone().await;
}

#[tokio::test]
async fn the_right_ca_beside_a_leaf_of_another_is_not_enough() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let leaf = other.leaf(other.controller());
    let chain = vec![leaf.der.clone(), fleet.authority.certificate().clone()];
    let server = recording(chain, &leaf.key).await;
    let tls = ClientTls::pinned(fleet.authority.ca_pin());
    assert_eq!(
        refusal(dial(&server.address, &tls).await),
        HandshakeRefusal::UnknownCa
    );
    server.saw_an_alert_alone().await;
}

#[tokio::test]
async fn the_controllers_certificate_without_its_key_is_not_enough() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.controller());
    let chain = vec![leaf.der.clone(), fleet.authority.certificate().clone()];
    let server = recording(chain, &PrivateKey::generate().expect("key")).await;
    let tls = ClientTls::pinned(fleet.authority.ca_pin());
    refusal(dial(&server.address, &tls).await);
}

#[tokio::test]
async fn an_expired_agent_is_rescued_by_its_recorded_key_alone() {
    let fleet = Fleet::new();
    let leaf = fleet.expired(fleet.agent("cp1"));
    let facts = leaf.material().facts().clone();
    let mut serving = Serving::new(ServerTls::agent(leaf.reloadable())).await;
    let own = fleet.leaf(fleet.controller()).reloadable();
    let address = serving.address();
    let not_after = facts.not_after;

    let usual = ClientTls::fleet(own.clone(), fleet.agent("cp1"));
    assert_eq!(
        refusal(dial(&address, &usual).await),
        HandshakeRefusal::Expired { not_after }
    );
    let RefusedHandshake { reason, .. } = serving.refused.recv().await.expect("refused");
    assert!(matches!(
        reason,
        RefusalReason::Refused(HandshakeRefusal::ByPeer(PeerVerdict::Certificate))
    ));
    let other = ClientTls::rescue(own.clone(), fleet.agent("cp1"), [7; 32]);
    assert_eq!(
        refusal(dial(&address, &other).await),
        HandshakeRefusal::ExpiredWithOtherKey { not_after }
    );
    let wrong = ClientTls::rescue(own.clone(), fleet.agent("cp2"), facts.spki_sha256);
    assert!(matches!(
        refusal(dial(&address, &wrong).await),
        HandshakeRefusal::WrongIdentity { .. }
    ));
    let rescue = ClientTls::rescue(own, fleet.agent("cp1"), facts.spki_sha256);
    let dialled = dial(&address, &rescue).await.expect("rescued");
    assert_eq!(dialled.presented.facts, facts);
    assert_eq!(who(&dialled.channel).await, "controller");
}

#[tokio::test]
async fn rescue_is_for_certificates_of_the_own_ca() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let leaf = other.expired(other.agent("cp1"));
    let spki = leaf.material().facts().spki_sha256;
    let chain = vec![leaf.der.clone(), other.authority.certificate().clone()];
    let server = recording(chain, &leaf.key).await;
    let own = fleet.leaf(fleet.controller()).reloadable();
    let tls = ClientTls::rescue(own, fleet.agent("cp1"), spki);
    assert_eq!(
        refusal(dial(&server.address, &tls).await),
        HandshakeRefusal::UnknownCa
    );
    server.saw_an_alert_alone().await;
}
