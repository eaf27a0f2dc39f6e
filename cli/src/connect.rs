//! The way to the controller: its socket on this machine, or mutual TLS to another one.

use std::io;
use std::path::Path;

use canasta_proto::address::{Address, CONTROLLER_PORT};
use canasta_proto::pb::RenewCertificateRequest;
use canasta_proto::pb::user_service_client::UserServiceClient;
use canasta_transport::dial::{self, DialError, Limits};
use canasta_transport::keys::{KeyError, PrivateKey};
use canasta_transport::material::{Material, Reloadable};
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::status::chain;
use canasta_transport::tls::ClientTls;
use jiff::Timestamp;
use tonic::transport::Channel;

use crate::args::Global;
use crate::contexts::{self, Context, Contexts};
use crate::error::Error;
use crate::output;
use crate::paths::SOCKET;

/// Which controller a command talks to.
#[derive(Debug)]
pub(crate) enum Target {
    /// The one on this machine.
    Local,
    /// One that was added with `canasta context add`.
    Remote(String, Box<Context>),
}

/// Chooses: the context that was named, else the current one, else this machine's controller.
pub(crate) fn target(global: &Global) -> Result<Target, Error> {
    let mut known = Contexts::load()?;
    let name = match (&global.context, &known.current) {
        (Some(name), _) | (None, Some(name)) => name.clone(),
        (None, None) => contexts::LOCAL.to_owned(),
    };
    if name == contexts::LOCAL {
        return Ok(Target::Local);
    }
    match known.contexts.remove(&name) {
        Some(context) => Ok(Target::Remote(name, Box::new(context))),
        None => Err(Error::usage(
            format!("there is no context '{}'", name.escape_default()),
            "list them with `canasta context list`",
        )),
    }
}

/// Connects to the controller.
pub(crate) async fn connect(global: &Global) -> Result<Channel, Error> {
    match target(global)? {
        Target::Local => connect_local().await,
        Target::Remote(name, context) => connect_remote(&name, &context).await,
    }
}

async fn connect_local() -> Result<Channel, Error> {
    dial::connect_unix(Path::new(SOCKET), &Limits::default()).await.map_err(|error| {
        let kind = match &error {
            DialError::Socket { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        match kind {
            io::ErrorKind::PermissionDenied => Error::NotAllowed {
                message: format!("you may not use the controller on this machine ({SOCKET})"),
                hint: "run the command with sudo, or become a member of the group canasta (its members are root on every node)"
                    .to_owned(),
            },
            io::ErrorKind::NotFound => Error::Unreachable {
                message: "no controller runs on this machine, and no context is chosen".to_owned(),
                causes: chain(&error),
                hint: "on the controller: `systemctl start canasta-controller`; elsewhere: `canasta context add`, with a token from \
                       `canasta user add` on the controller"
                    .to_owned(),
            },
            _ => unreachable(
                &error,
                "see why with `systemctl status canasta-controller` and `journalctl -u canasta-controller`".to_owned(),
            ),
        }
    })
}

async fn connect_remote(name: &str, context: &Context) -> Result<Channel, Error> {
    let material = material(context).ok_or_else(|| {
        Error::local(
            format!("the context '{name}' is damaged"),
            format!("add it anew: `canasta user add {}` on the controller, then `canasta context add {name}` here", context.user),
        )
    })?;
    let expected = material.identity().fleet.controller();
    let renew = material.facts().renew_at(0.0) <= Timestamp::now();
    let tls = ClientTls::fleet(Reloadable::new(material), expected);
    let address = dial_address(&context.controller)?;
    let dialled = dial::connect(&address, &tls, &Limits::default()).await;
    let channel = dialled
        .map_err(|error| refused(&error, name, context))?
        .channel;
    if renew && let Err(error) = renew_certificate(channel.clone(), name, context).await {
        // The present certificate still does, and the next command tries again.
        output::note(&format!(
            "the certificate of the context '{name}' could not be renewed: {error}"
        ));
    }
    Ok(channel)
}

/// Gets a certificate for a new key, and keeps both. Nobody has to run a command for it once a month.
async fn renew_certificate(channel: Channel, name: &str, context: &Context) -> Result<(), Error> {
    let (key, csr) = new_key()?;
    let request = RenewCertificateRequest { csr: csr.into() };
    let answer = UserServiceClient::new(channel)
        .renew_certificate(request)
        .await?;
    let issued = answer.into_inner().issued.unwrap_or_default();
    let renewed = Context::new(&context.controller, &key, issued)?;
    let mut known = Contexts::load()?;
    known.contexts.insert(name.to_owned(), renewed);
    known.save()
}

/// A new key with its request for a certificate.
pub(crate) fn new_key() -> Result<(PrivateKey, Vec<u8>), Error> {
    let failed =
        |error: KeyError| Error::local(format!("failed to make a key: {error}"), "try again");
    let key = PrivateKey::generate().map_err(failed)?;
    let csr = key.csr().map_err(failed)?;
    Ok((key, csr))
}

fn material(context: &Context) -> Option<Material> {
    let key = PrivateKey::from_pem(&context.key).ok()?;
    let leaf = contexts::from_hex(&context.certificate)?;
    let ca = contexts::from_hex(&context.ca_certificate)?;
    Material::new(&leaf, &key, &ca).ok()
}

/// `HOST:PORT` from what a person gave.
pub(crate) fn dial_address(text: &str) -> Result<String, Error> {
    let address: Address =
        text.parse()
            .map_err(|error: canasta_proto::address::AddressError| {
                Error::usage("the controller's address is no address", error.to_string())
            })?;
    Ok(address.with_default_port(CONTROLLER_PORT))
}

fn refused(error: &DialError, name: &str, context: &Context) -> Error {
    let again = format!(
        "get a new token with `canasta user add {}` on the controller, then `canasta context add {name}` here",
        context.user
    );
    match error.refusal() {
        Some(
            HandshakeRefusal::Expired { .. }
            | HandshakeRefusal::Revoked { .. }
            | HandshakeRefusal::ByPeer { .. },
        ) => Error::NotAllowed {
            message: format!(
                "the controller {} does not let the user '{}' in any more",
                context.controller, context.user
            ),
            hint: again,
        },
        _ => unreachable(
            error,
            format!(
                "check that canasta-controller runs on {}, that its port {CONTROLLER_PORT}/tcp is open to this machine, and that both clocks \
                 are right",
                context.controller
            ),
        ),
    }
}

/// An error of dialling with what to do about it.
pub(crate) fn unreachable(error: &DialError, hint: String) -> Error {
    Error::Unreachable {
        message: error.to_string(),
        causes: chain(error),
        hint,
    }
}
