//! `canasta`, the command line of the fleet: asks the controller, shows what it says, and holds nothing but contexts.
//!
//! Data goes to standard output, everything else to standard error. The exit code is chosen in [`error`] alone.

mod args;
mod commands;
mod connect;
mod contexts;
mod error;
mod install_forms;
mod kubeconfig;
mod output;
mod paths;
mod progress;
mod ssh;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run(arguments));
            // A resolver or a file that hangs must not keep the program from ending.
            runtime.shutdown_background();
            result
        }
        Err(source) => Err(error::Error::Runtime(source)),
    };
    match result {
        Ok(end) => end.exit_code(),
        Err(error) => {
            error::print(&error);
            error.exit_code()
        }
    }
}
