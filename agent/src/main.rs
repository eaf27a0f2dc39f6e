//! The program: reads the command line and does what it says, on one thread.

use std::process::ExitCode;

use canasta_agent::command_line::CommandLine;
use clap::Parser as _;

fn main() -> ExitCode {
    let command = CommandLine::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            canasta_agent::command_line::tell_error(
                "failed to start the runtime",
                &[error.to_string()],
                "",
            );
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(command.run());
    // Nothing that still blocks may hold up the end.
    runtime.shutdown_background();
    code
}
