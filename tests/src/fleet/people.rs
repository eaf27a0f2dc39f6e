//! Users with certificates, and certificates that nobody should have.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::token::{Purpose, Token};
use canasta_transport::authority::{Authority, IssueRequest};
use canasta_transport::dial::{self, DialError, Dialled, Limits};
use canasta_transport::keys::PrivateKey;
use canasta_transport::material::{Material, Reloadable};
use canasta_transport::refusal::{HandshakeRefusal, refusal_of};
use canasta_transport::spiffe::Identity;
use canasta_transport::tls::ClientTls;
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::client::Client;
use super::within;

/// A user who has a certificate.
#[derive(Debug)]
pub struct User {
    /// Key and certificate.
    pub material: Material,
    /// Calls as this user.
    pub client: Client,
}

/// Redeems a user token as the CLI does.
///
/// # Panics
/// When the controller does not give a certificate for it.
pub async fn redeem(controller: SocketAddr, token: &str) -> Material {
    let token = Token::parse(Purpose::User, token).expect("a user token");
    let tls = ClientTls::pinned(token.pin());
    let dialled = dial::connect(&controller.to_string(), &tls, &Limits::default()).await;
    let client = Client::new(dialled.expect("first contact").channel);
    let key = PrivateKey::generate().expect("a key");
    let request = pb::RedeemUserRequest {
        token: token.secret().to_owned(),
        csr: key.csr().expect("a request").into(),
    };
    let answer = client
        .enrolment()
        .redeem_user(request)
        .await
        .expect("the token is good");
    let issued = answer.into_inner().issued.expect("a certificate");
    Material::new(&issued.certificate, &key, &issued.ca_certificate).expect("they belong together")
}

/// Dials with this material and expects this identity.
///
/// # Errors
/// When either side refuses the other.
pub async fn dial(
    address: SocketAddr,
    material: &Material,
    expected: Identity,
) -> Result<Dialled, DialError> {
    let tls = ClientTls::fleet(Reloadable::new(material.clone()), expected);
    dial::connect(&address.to_string(), &tls, &Limits::default()).await
}

/// The fleet's CA as it lies in the controller's state directory.
///
/// # Panics
/// When it can't be read.
pub fn authority(state_dir: &Path) -> Authority {
    let read =
        |name: &str| std::fs::read(state_dir.join("ca").join(name)).expect("the CA is there");
    let key = String::from_utf8(read("ca.key")).expect("PEM");
    Authority::load(&key, &read("ca.crt")).expect("a CA")
}

/// A certificate with its key, from wherever.
#[derive(Debug)]
pub struct Certificate {
    /// Who it names.
    pub identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
}

/// A certificate from this CA for a fresh key, that ended so long ago.
///
/// # Panics
/// When it can't be issued.
pub fn expired(authority: &Authority, identity: Identity, ago: Duration) -> Certificate {
    let now = Timestamp::now();
    issue(
        authority,
        identity,
        now - ago - Duration::from_secs(3600),
        now - ago,
    )
}

/// A certificate from this CA for a fresh key, good for an hour.
///
/// # Panics
/// When it can't be issued.
pub fn fresh(authority: &Authority, identity: Identity) -> Certificate {
    let now = Timestamp::now();
    let hour = Duration::from_secs(3600);
    issue(authority, identity, now - hour, now + hour)
}

fn issue(
    authority: &Authority,
    identity: Identity,
    not_before: Timestamp,
    not_after: Timestamp,
) -> Certificate {
    let key = PrivateKey::generate().expect("a key");
    let public_key = key.public().expect("a public key");
    let request = IssueRequest {
        public_key: &public_key,
        identity: identity.clone(),
        not_before,
        not_after,
    };
    let leaf = authority.issue(&request).expect("a certificate");
    Certificate {
        identity,
        chain: vec![leaf, authority.certificate().clone()],
        key,
    }
}

/// Connects as someone who trusts any server, showing this certificate or none, and waits for the server's verdict: its
/// first bytes, or why it hung up.
///
/// # Errors
/// Why the server refused.
///
/// # Panics
/// When nobody listens there, or the handshake breaks off in another way.
pub async fn knock(
    address: SocketAddr,
    certificate: Option<&Certificate>,
) -> Result<(), HandshakeRefusal> {
    let stream = TcpStream::connect(address).await.expect("someone listens");
    let name = ServerName::try_from("controller.canasta.internal").expect("a name");
    let connector = TlsConnector::from(Arc::new(trusting(certificate)));
    let verdict = async {
        let mut stream = connector.connect(name, stream).await?;
        stream.read_u8().await
    };
    match within("the server's verdict", verdict).await {
        Ok(_first) => Ok(()),
        Err(error) => Err(refusal_of(&error).unwrap_or_else(|| panic!("not a verdict: {error}"))),
    }
}

/// Greets a server as a client of TLS 1.2 does, and returns all that it answers before it hangs up.
///
/// # Panics
/// When nobody listens there, or the server does not hang up.
pub async fn knock_with_tls_1_2(address: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("someone listens");
    let hello = old_client_hello();
    stream.write_all(&hello).await.expect("it takes a greeting");
    let mut answer = Vec::new();
    within("the server to hang up", stream.read_to_end(&mut answer))
        .await
        .expect("an answer");
    answer
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

fn trusting(certificate: Option<&Certificate>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let pem = certificate.key.reveal_pem().expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
            let chain = certificate.chain.clone();
            builder
                .with_client_auth_cert(chain, key)
                .expect("they belong together")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Takes any server for the right one.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
