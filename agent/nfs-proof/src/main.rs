//! Proves that a share can be used from this node, with a client of NFS 4.1 in this process.
//!
//! The agent has it run in a unit of its own (`canasta_host::nfs::unit`), and nothing else calls it. It is a program of its own so
//! that the client, which is large and young, is no part of a service that runs as root for years.
//!
//! A client outside of the kernel is a true proof of what can be wrong between a node and a share: it comes from the node's
//! address and from a port below 1024 as the kernel's does, speaks the same protocol to the same server, and is judged by the same
//! list of clients, squashing, grace and room. What it can't tell is whether this kernel has a client (the facts do), and what
//! mount options of the kernel's do.
//!
//! One mount a proof: a session does not survive a restart of the server. It is always unmounted, since a client that is left on
//! the server makes the server's next start wait out its grace period.

mod failure;
mod session;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use canasta_host::nfs::{Action, Failure, Proof, Proven, Reason, unit};

use session::Session;

/// The owner that the probe file is given: nobody's, so that a server that puts another one in its place is found out.
const OWNER: (u32, u32) = (4242, 4343);

/// How long looking up a name may take.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long opening the session may take. The client waits 5 s for a connection and twice 10 s for an answer.
const MOUNT: Duration = Duration::from_secs(30);
/// How long one call may take. The client by itself tries for 60 s where the server is in its grace period.
const CALL: Duration = Duration::from_secs(65);
/// How long leaving may take.
const LEAVE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        return told("usage: nfs-proof DIRECTORY, which the agent calls by itself");
    };
    match work(&PathBuf::from(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => told(&format!("failed to do what is asked: {error}")),
    }
}

#[expect(clippy::print_stderr, reason = "a program of the command line")]
fn told(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn work(directory: &Path) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let proof = unit::asked(directory)?;
    let made = runtime.block_on(prove(&proof));
    // A look-up of a name may still hang.
    runtime.shutdown_background();
    unit::answer(directory, &made)
}

/// Makes the proof, or tells what the share can't do, with the step at which that was found.
async fn prove(proof: &Proof) -> Result<Proven, Failure> {
    let begun = std::time::Instant::now();
    let address = resolve(&proof.server).await?;
    let session = Session::open(address, proof.port, &proof.path).await?;
    let done = match proof.action {
        Action::Write => session.write(proof).await,
        Action::Read => session.read(proof).await,
        Action::Remove => session.remove(proof).await.map(|()| String::new()),
    };
    // Whatever happened, the server is to forget this client; what went wrong before says more.
    let left = session.leave().await;
    let handle = done?;
    left?;
    Ok(Proven {
        address,
        milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        handle,
    })
}

/// The first address of a server. The client itself can't tell a name that is not known from other failures.
async fn resolve(server: &str) -> Result<IpAddr, Failure> {
    if let Ok(address) = server.parse() {
        return Ok(address);
    }
    let unknown = |text: String| Failure::new("looking up the name", Reason::NameUnknown, text);
    match tokio::time::timeout(RESOLVE, tokio::net::lookup_host((server, 0))).await {
        Ok(Ok(mut addresses)) => addresses
            .next()
            .map(|address| address.ip())
            .ok_or_else(|| unknown("the name has no address".to_owned())),
        Ok(Err(error)) => Err(unknown(error.to_string())),
        Err(_) => Err(unknown(format!(
            "no name server answered within {} s",
            RESOLVE.as_secs()
        ))),
    }
}
