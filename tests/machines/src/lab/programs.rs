//! Programs in nodes and in the lab's network, and files that are carried in and out.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::error::at;
use super::{Lab, LabError};
use crate::node::{Machine, NodeError};
use crate::program::{Output, ProgramError, checked};

impl Lab {
    /// Runs a program in a node to its end. What it prints is returned, whatever its exit code.
    pub fn exec(&self, node: &str, argv: &[&str]) -> Result<Output, LabError> {
        self.exec_with_input(node, argv, b"")
    }

    /// Runs a program in a node to its end, with `input` as its standard input.
    pub fn exec_with_input(
        &self,
        node: &str,
        argv: &[&str],
        input: &[u8],
    ) -> Result<Output, LabError> {
        let machine = Machine::new(&self.layout, node);
        let state = self.load()?;
        let nspawn = self.node(&state, node)?.nspawn;
        machine.leader(nspawn)?;
        let nspawn = nspawn.ok_or_else(|| NodeError::NotRunning {
            node: node.to_owned(),
        })?;
        Ok(machine.output(nspawn, argv, input)?)
    }

    /// Starts a program in a node and does not wait for it; `prepare` may set its streams, which
    /// are the caller's otherwise (a terminal too). It ends with the node; killing the returned
    /// child ends only the hold on it.
    pub fn spawn(
        &self,
        node: &str,
        argv: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Child, LabError> {
        let state = self.load()?;
        let nspawn = self.node(&state, node)?.nspawn;
        Ok(Machine::new(&self.layout, node).spawn(nspawn, argv, prepare)?)
    }

    /// Copies a file of the machine to `path` in a node, with its permission bits.
    pub fn push(&self, node: &str, file: &Path, path: &str) -> Result<(), LabError> {
        let content = File::open(file).map_err(at(file))?;
        let mode = content.metadata().map_err(at(file))?.permissions().mode() & 0o7777;
        self.place_file(node, path, mode, Stdio::from(content))
    }

    /// Writes `content` to `path` in a node, with `mode` as permission bits.
    pub fn write(&self, node: &str, path: &str, content: &[u8], mode: u32) -> Result<(), LabError> {
        let mode = format!("--mode={mode:o}");
        let argv = ["install", "-D", &mode, "/dev/stdin", path];
        // An empty input would be no pipe at all, which is just as good: it reads as empty.
        let output = self.exec_with_input(node, &argv, content)?;
        checked(&argv, output)
            .map(drop)
            .map_err(copy_error(node, path))
    }

    fn place_file(&self, node: &str, path: &str, mode: u32, from: Stdio) -> Result<(), LabError> {
        let mode = format!("--mode={mode:o}");
        let argv = ["install", "-D", &mode, "/dev/stdin", path];
        let child = self.spawn(node, &argv, |command| {
            command
                .stdin(from)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
        })?;
        let output = child.wait_with_output().map_err(|source| {
            copy_error(node, path)(ProgramError::Pipe {
                program: "install".to_owned(),
                source,
            })
        })?;
        let output = Output {
            status: output.status,
            stdout: output.stdout,
            stderr: output.stderr,
        };
        checked(&argv, output)
            .map(drop)
            .map_err(copy_error(node, path))
    }

    /// The content of the file `path` in a node.
    pub fn read(&self, node: &str, path: &str) -> Result<Vec<u8>, LabError> {
        let argv = ["cat", "--", path];
        let output = self.exec(node, &argv)?;
        let output = checked(&argv, output).map_err(copy_error(node, path))?;
        Ok(output.stdout)
    }
}

fn copy_error(node: &str, path: &str) -> impl FnOnce(ProgramError) -> LabError {
    let (node, path) = (node.to_owned(), path.to_owned());
    move |source| LabError::Copy { node, path, source }
}
