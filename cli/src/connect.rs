//! The way to the controller: its socket on this machine, or mutual TLS to another one.

mod renewal;

use std::io;
use std::path::Path;
use std::time::Duration;

use canasta_proto::address::{Address, CONTROLLER_PORT};
use canasta_transport::dial::{self, DialError, Limits};
use canasta_transport::keys::{KeyError, PrivateKey};
use canasta_transport::material::{Material, Reloadable};
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::status::chain;
use canasta_transport::tls::ClientTls;
use tonic::transport::Channel;

use crate::args::Global;
use crate::contexts::{self, Context, Contexts};
use crate::error::Error;
use crate::output;
use crate::paths::CONTROLLER_SOCKET;

/// How long a renewal may hold up the command that it comes with.
const RENEWAL_LIMIT: Duration = Duration::from_secs(5);

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
    dial::connect_unix(Path::new(CONTROLLER_SOCKET), &Limits::default()).await.map_err(|error| {
        let kind = match &error {
            DialError::Socket { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        match kind {
            io::ErrorKind::PermissionDenied => Error::NotAllowed {
                message: format!("you may not use the controller on this machine ({CONTROLLER_SOCKET})"),
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
    let next = context.next.as_ref();
    if let Some((leaf, next)) = next.and_then(|leaf| Some((leaf, context.material(leaf).ok()?))) {
        match dial(next, context).await? {
            Ok(channel) => {
                renewal::settle(name, leaf);
                return Ok(channel);
            }
            // The controller may not know it: its database is an older one. The present certificate may still do.
            Err(error) if error.refusal().is_some() => {}
            Err(error) => return Err(refused(&error, name, context)),
        }
    }
    let present = context.material(&context.leaf).map_err(|error| Error::Local {
        message: format!("the context '{name}' is damaged"),
        hint: format!(
            "add it anew: `canasta user add {}` on the controller, then `canasta context add {name}` here",
            context.user
        ),
        source: Some(Box::new(error)),
    })?;
    let channel = dial(present.clone(), context)
        .await?
        .map_err(|error| refused(&error, name, context))?;
    if renewal::is_due(&present) {
        // A controller that is slow to write must not hold up a command that only reads: the next one tries again.
        let renewed = renewal::renew(channel.clone(), name, context, &present);
        if tokio::time::timeout(RENEWAL_LIMIT, renewed).await.is_err() {
            output::note(
                "the certificate of this context is due for renewal, and the controller did not answer in time; the next command tries again",
            );
        }
    }
    Ok(channel)
}

/// Dials the controller with this certificate.
async fn dial(material: Material, context: &Context) -> Result<Result<Channel, DialError>, Error> {
    let expected = material.identity().fleet.controller();
    let tls = ClientTls::fleet(Reloadable::new(material), expected);
    let address = dial_address(&context.controller)?;
    let dialled = dial::connect(&address, &tls, &Limits::default()).await;
    Ok(dialled.map(|dialled| dialled.channel))
}

/// A new key with its request for a certificate.
pub(crate) fn new_key() -> Result<(PrivateKey, Vec<u8>), Error> {
    let failed =
        |error: KeyError| Error::local(format!("failed to make a key: {error}"), "try again");
    let key = PrivateKey::generate().map_err(failed)?;
    let csr = key.csr().map_err(failed)?;
    Ok((key, csr))
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
