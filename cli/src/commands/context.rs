//! `canasta context …`: the CLI on a machine that is not the controller.

use std::io::{BufRead as _, Read as _};
use std::path::Path;

use canasta_proto::pb::enrolment_service_client::EnrolmentServiceClient;
use canasta_proto::pb::{GetClockRequest, IssuedCertificate, RedeemUserRequest};
use canasta_proto::token::{Purpose, Token};
use canasta_transport::dial::{self, Limits};
use canasta_transport::keys::PrivateKey;
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::tls::ClientTls;
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{ContextCommand, Global};
use crate::connect::{dial_address, new_key, unreachable};
use crate::contexts::{self, Context, Contexts};
use crate::error::Error;
use crate::output;
use crate::paths::CONTROLLER_SOCKET;
use crate::view::time;

/// The most that two clocks may differ, as DESIGN 4 has it.
const MAX_SKEW_SECONDS: i64 = 30;

#[derive(Serialize)]
struct ContextList {
    contexts: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    current: bool,
    controller: String,
    user: String,
}

pub(super) async fn run(global: &Global, command: ContextCommand) -> Result<(), Error> {
    match command {
        ContextCommand::Add {
            name,
            controller,
            token,
            token_file,
        } => {
            let text = match (token, token_file) {
                (None, Some(path)) => read_token(&path)?,
                _ => {
                    return Err(Error::usage(
                        "a token is not taken from the command line, where a list of processes shows it to everybody",
                        "give --token-file PATH, or --token-file - and paste the token",
                    ));
                }
            };
            add(global, name, &controller, &text).await
        }
        ContextCommand::List => list(global),
        ContextCommand::Use { name } => choose(global, &name),
    }
}

fn read_token(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(4096).read_line(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text))
    };
    read.map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(text)
}

async fn add(global: &Global, name: String, controller: &str, token: &str) -> Result<(), Error> {
    let plain = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !plain || name == contexts::LOCAL {
        return Err(Error::usage(
            "a context's name has letters, digits, '-', '_' and '.' only, and is not 'local'",
            "for example: `canasta context add production …`",
        ));
    }
    let token = Token::parse(Purpose::User, token).map_err(|error| {
        Error::usage(
            error.to_string(),
            "get one with `canasta user add NAME --role ROLE` on the controller",
        )
    })?;
    let address = dial_address(controller)?;
    // The token is good for one use: whether the key can be kept is found out before that use.
    Contexts::update(|known| same_controller(known, &name, controller))?;
    let (key, issued) = redeem(&address, &token).await?;
    let context = Context::new(controller, &key, issued)?;
    context.material(&context.leaf).map_err(|error| {
        Error::local(
            format!("the controller's answer is of no use: {error}"),
            "compare the versions of this CLI and of the controller",
        )
    })?;
    let row = Row {
        name: name.clone(),
        current: true,
        controller: controller.to_owned(),
        user: context.user.clone(),
    };
    Contexts::update(|known| {
        same_controller(known, &name, controller)?;
        known.contexts.insert(name.clone(), context);
        known.current = Some(name.clone());
        Ok(())
    })?;
    let note = format!(
        "context '{name}' is added and current: you are '{}' to the controller {controller}",
        row.user
    );
    output::confirm(global.output, &row, &note)
}

/// A context is added anew for a new user or a new token, never for another controller by the same name.
fn same_controller(known: &Contexts, name: &str, controller: &str) -> Result<(), Error> {
    match known.contexts.get(name) {
        Some(other) if other.controller != controller => Err(Error::usage(
            format!(
                "the context '{name}' is of another controller, {}",
                other.controller
            ),
            "choose another name",
        )),
        _ => Ok(()),
    }
}

/// Turns the token into a certificate: over a connection that is pinned by it, and after the clocks were compared.
async fn redeem(address: &str, token: &Token) -> Result<(PrivateKey, IssuedCertificate), Error> {
    let tls = ClientTls::pinned(token.pin());
    let dialled = dial::connect(address, &tls, &Limits::default()).await.map_err(|error| match error.refusal() {
        Some(HandshakeRefusal::PinMismatch { .. }) => Error::NotAllowed {
            message: format!("{address} is not the controller that made this token; the token was not sent"),
            hint: "check the address, and that the token comes from this very controller".to_owned(),
        },
        _ => unreachable(&error, "check the address, and that the controller's port 7440/tcp is open to this machine".to_owned()),
    })?;
    let mut client = EnrolmentServiceClient::new(dialled.channel);
    let clock = client.get_clock(GetClockRequest {}).await?.into_inner();
    let theirs = time(clock.now)
        .ok_or_else(|| Error::local("the controller told no time", "upgrade the controller"))?;
    let skew = Timestamp::now().duration_since(theirs).as_secs();
    if skew.abs() > MAX_SKEW_SECONDS {
        let side = if skew > 0 { "ahead of" } else { "behind" };
        return Err(Error::local(
            format!(
                "this machine's clock is {} s {side} the controller's; the token was not sent",
                skew.abs()
            ),
            "set the clock right (`timedatectl set-ntp true`), then run this again: the token is still good",
        ));
    }
    let (key, csr) = new_key()?;
    let request = RedeemUserRequest {
        token: token.secret().to_owned(),
        csr: csr.into(),
    };
    let issued = client
        .redeem_user(request)
        .await?
        .into_inner()
        .issued
        .unwrap_or_default();
    Ok((key, issued))
}

/// All contexts, the one of this machine first.
fn rows(known: Contexts) -> Vec<Row> {
    let current = known.current.unwrap_or_else(|| contexts::LOCAL.to_owned());
    let local = Row {
        name: contexts::LOCAL.to_owned(),
        current: current == contexts::LOCAL,
        controller: CONTROLLER_SOCKET.to_owned(),
        user: "this machine's user".to_owned(),
    };
    let others = known.contexts.into_iter().map(|(name, context)| Row {
        current: name == current,
        name,
        controller: context.controller,
        user: context.user,
    });
    std::iter::once(local).chain(others).collect()
}

fn list(global: &Global) -> Result<(), Error> {
    let list = ContextList {
        contexts: rows(Contexts::load()?),
    };
    output::print(global.output, &list, |list| {
        output::table(
            ["CURRENT", "NAME", "CONTROLLER", "USER"],
            list.contexts.iter().map(|row| {
                let mark = if row.current { "*" } else { "" };
                [
                    mark.to_owned(),
                    row.name.clone(),
                    row.controller.clone(),
                    row.user.clone(),
                ]
            }),
        )
    })
}

fn choose(global: &Global, name: &str) -> Result<(), Error> {
    let unknown = || {
        Error::usage(
            format!("there is no context '{}'", name.escape_default()),
            "list them with `canasta context list`",
        )
    };
    let chosen = Contexts::update(|known| {
        if name != contexts::LOCAL && !known.contexts.contains_key(name) {
            return Err(unknown());
        }
        known.current = Some(name.to_owned()).filter(|name| name != contexts::LOCAL);
        let rows = rows(known.clone());
        rows.into_iter().find(|row| row.current).ok_or_else(unknown)
    })?;
    let note = format!("'{name}' is the current context");
    output::confirm(global.output, &chosen, &note)
}
