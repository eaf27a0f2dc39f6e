//! `canasta` on a terminal of its own: what a person sees of work that goes on, and what Ctrl-C does.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::cli::{Output, Running};
use super::within;

/// Both ends of a new terminal, wide enough that no line is cut.
pub(super) fn open() -> (File, OwnedFd) {
    let size = Winsize {
        ws_row: 50,
        ws_col: 240,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
    // The program has its own end alone: when it is gone, reading the other one ends.
    for end in [&master, &slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag of an open file");
    }
    (File::from(master), slave)
}

/// A command that runs on a terminal. Killed when dropped.
#[derive(Debug)]
pub struct OnTerminal {
    running: Running,
    screen: watch::Receiver<String>,
}

impl OnTerminal {
    pub(super) fn new(running: Running, mut terminal: File) -> Self {
        let (show, screen) = watch::channel(String::new());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with an error when the program has closed its end.
            while let Ok(length @ 1..) = terminal.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                show.send_modify(|shown| shown.push_str(&text));
            }
        });
        Self { running, screen }
    }

    /// Waits until this text has been on the terminal, and returns all that was.
    ///
    /// # Panics
    /// When it never is.
    pub async fn shows(&mut self, text: &str) -> String {
        let shown = self.screen.wait_for(|shown| shown.contains(text));
        let shown = within(&format!("the terminal to show {text:?}"), shown).await;
        shown
            .unwrap_or_else(|_ended| panic!("the command ended before it showed {text:?}"))
            .clone()
    }

    /// What Ctrl-C does.
    ///
    /// # Panics
    /// When the command has ended.
    pub fn interrupt(&self) {
        let id = self.running.id().try_into().expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGINT).expect("it runs");
    }

    /// Waits for the end; `stderr` is all that was on the terminal.
    pub async fn ended(mut self) -> Output {
        let mut output = self.running.ended().await;
        while self.screen.changed().await.is_ok() {}
        output.stderr.clone_from(&self.screen.borrow());
        output
    }
}
