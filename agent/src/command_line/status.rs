//! `canasta-agent status`: what the service on this node is doing.

use std::path::Path;

use super::join::tell_client_error;
use super::{DONE, FAILED, NOT_ALLOWED, Output, StatusArgs, print, print_json, tell_error};
use crate::join::client;
use crate::join::message::{Answer, Ask, Status};

pub(super) async fn run(args: &StatusArgs) -> u8 {
    match client::ask(Path::new(crate::paths::JOIN_SOCKET), &Ask::Status, |_| {}).await {
        Ok(Answer::Status(status)) => {
            match args.output {
                Output::Json => print_json(&status),
                Output::Text => show(&status),
            }
            DONE
        }
        Ok(Answer::Error(failure)) => {
            tell_error(&failure.message, &failure.causes, &failure.hint);
            NOT_ALLOWED
        }
        Ok(_) => FAILED,
        Err(error) => tell_client_error(&error),
    }
}

fn show(status: &Status) {
    print(&format!(
        "canasta-agent {}: {}",
        status.version, status.state
    ));
    if let Some(at) = &status.certificate_expires_at {
        print(&format!(
            "certificate until {at}, renewed by the controller"
        ));
    }
    if let Some(task) = &status.running_task {
        print(&format!("running task {task}"));
    }
    if !status.joined {
        print("join with: sudo canasta-agent join --controller ADDR --token-file FILE");
    }
}
