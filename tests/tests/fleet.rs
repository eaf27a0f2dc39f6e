//! The fleet in one process: every part is the real one but the machines and k3s. One binary, one module a subject; each
//! test has a fleet of its own.

#[path = "fleet/certificates.rs"]
mod certificates;
#[path = "fleet/cluster.rs"]
mod cluster;
#[path = "fleet/commands.rs"]
mod commands;
#[path = "fleet/contexts.rs"]
mod contexts;
#[path = "fleet/drains.rs"]
mod drains;
#[path = "fleet/enrolment.rs"]
mod enrolment;
#[path = "fleet/gone.rs"]
mod gone;
#[path = "fleet/injected.rs"]
mod injected;
#[path = "fleet/install.rs"]
mod install;
#[path = "fleet/joins.rs"]
mod joins;
#[path = "fleet/names.rs"]
mod names;
#[path = "fleet/operators.rs"]
mod operators;
#[path = "fleet/plans.rs"]
mod plans;
#[path = "fleet/release.rs"]
mod release;
#[path = "fleet/roles.rs"]
mod roles;
#[path = "fleet/shares.rs"]
mod shares;
#[path = "fleet/ssh.rs"]
mod ssh;
#[path = "fleet/storage.rs"]
mod storage;
#[path = "fleet/volumes.rs"]
mod volumes;
