//! Man page and completions, made from the same types that parse. Called when packages are made.

use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};

use crate::args::Arguments;
use crate::error::Error;

/// Writes `canasta.1` and completions for bash, zsh and fish into the directory.
pub(super) fn generate(directory: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::File {
        path: directory.to_owned(),
        source,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command())
        .render(&mut page)
        .map_err(failed)?;
    std::fs::write(directory.join("canasta.1"), page).map_err(failed)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Arguments::command(), "canasta", directory).map_err(failed)?;
    }
    Ok(())
}
