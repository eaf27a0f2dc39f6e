//! The maintainers' program: `cargo xtask generate | layout | contract [--accept]`.
#![expect(clippy::print_stdout, reason = "a program for a terminal")]
#![expect(clippy::print_stderr, reason = "a program for a terminal")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use xtask::{codegen, contract, layout};

/// Generated code and checks of the contract.
#[derive(Debug, Parser)]
#[command(name = "xtask", after_help = "Example: cargo xtask generate")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the Rust code of the wire contract.
    Generate,
    /// Looks for what breaks the directions between crates, and for files that have grown too long.
    Layout,
    /// Compares the wire contract with that of the last release, and looks for what has no comment.
    Contract {
        /// Record the present contract as released.
        #[arg(long)]
        accept: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  Caused by: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let proto = workspace().join("proto");
    let lock = proto.join("contract.lock.bin");
    match command {
        Command::Generate => codegen::generate(&proto, &proto.join("src/gen"))?,
        Command::Contract { accept: true } => {
            let descriptors = codegen::without_source_info(codegen::compile(&proto)?);
            std::fs::write(lock, descriptors.encode_to_vec())?;
        }
        Command::Contract { accept: false } => {
            let released = FileDescriptorSet::decode(std::fs::read(lock)?.as_slice())?;
            let present = codegen::compile(&proto)?;
            let mut problems = contract::breaking_changes(&released, &present);
            problems.extend(
                contract::without_comment(&present)
                    .into_iter()
                    .map(|name| format!("{name} has no comment")),
            );
            return Ok(verdict(&problems));
        }
        Command::Layout => return Ok(verdict(&layout::problems(&workspace())?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the problems; a failure if there are any.
fn verdict(problems: &[String]) -> ExitCode {
    for problem in problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The root of the workspace: this crate lies two directories below it.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
