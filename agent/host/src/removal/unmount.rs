//! Unmounts in this namespace: also where a server is dead, and where something holds the mount.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::mounts::Mount;

/// How long a server may take to be told goodbye, with all that is not written yet.
const PATIENCE: Duration = Duration::from_secs(20);

/// The kernel's unmount of one point.
type Umount = Arc<dyn Fn(MntFlags) -> Result<(), Errno> + Send + Sync>;

/// Unmounts. Where something holds the mount, it leaves the tree of files at once and ends when that lets go: what is still
/// being written is written.
///
/// Only where a server does not let the unmount come back within its patience is the mount forced. That ends what waits for
/// the server, and loses what was not written yet, so a server that answers is never treated so.
pub fn unmount(mount: &Mount) -> io::Result<()> {
    let point = mount.point.clone();
    let umount: Umount = Arc::new(move |flags| umount2(&point, flags));
    take_down(&umount, mount.is_network().then_some(PATIENCE))?;
    Ok(())
}

/// As [`unmount`]; with a `patience` for a mount that may wait for a server.
fn take_down(umount: &Umount, patience: Option<Duration>) -> Result<(), Errno> {
    let plain = MntFlags::UMOUNT_NOFOLLOW;
    let detach = || umount(plain | MntFlags::MNT_DETACH);
    let first = match patience {
        None => umount(plain),
        Some(patience) => match bounded(umount, plain, patience) {
            Some(ended) => ended,
            None => umount(plain | MntFlags::MNT_FORCE),
        },
    };
    match first {
        Err(Errno::EBUSY) => detach(),
        // Force has let the first try come to its end, so there is nothing any more.
        Err(Errno::EINVAL) if patience.is_some() => match detach() {
            Err(Errno::EINVAL) => Ok(()),
            ended => ended,
        },
        ended => ended,
    }
}

/// Unmounts on a thread of its own; `None` where that doesn't come back in time. The thread is left behind then: it ends with
/// the server's answer, with force, or with the program.
fn bounded(umount: &Umount, flags: MntFlags, patience: Duration) -> Option<Result<(), Errno>> {
    let (sender, answer) = mpsc::channel();
    let umount = Arc::clone(umount);
    std::thread::spawn(move || {
        // Nobody waits any more for a late one.
        let _ = sender.send(umount(flags));
    });
    answer.recv_timeout(patience).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    type Told = Arc<Mutex<Vec<MntFlags>>>;

    /// An unmount that answers by its flags, and what it was called with beyond the plain one.
    fn kernel(
        answer: impl Fn(MntFlags) -> Result<(), Errno> + Send + Sync + 'static,
    ) -> (Umount, Told) {
        let told = Told::default();
        let inner = Arc::clone(&told);
        let umount: Umount = Arc::new(move |flags| {
            inner
                .lock()
                .unwrap()
                .push(flags - MntFlags::UMOUNT_NOFOLLOW);
            answer(flags)
        });
        (umount, told)
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn a_server_that_answers_is_not_forced_and_a_busy_mount_is_detached() {
        let (plain, detach) = (MntFlags::empty(), MntFlags::MNT_DETACH);
        for patience in [None, LONG] {
            let (umount, told) = kernel(|_| Ok(()));
            take_down(&umount, patience).unwrap();
            assert_eq!(*told.lock().unwrap(), [plain]);
            let busy = |flags: MntFlags| {
                let detaches = flags.contains(MntFlags::MNT_DETACH);
                detaches.then_some(()).ok_or(Errno::EBUSY)
            };
            let (umount, told) = kernel(busy);
            take_down(&umount, patience).unwrap();
            assert_eq!(*told.lock().unwrap(), [plain, detach]);
            let (umount, _) = kernel(|_| Err(Errno::EPERM));
            assert_eq!(take_down(&umount, patience), Err(Errno::EPERM));
        }
    }

    #[test]
    fn a_server_that_is_dead_is_forced_once_the_patience_is_over() {
        for (forced, last) in [(Ok(()), None), (Err(Errno::EBUSY), Some(Ok(())))] {
            let (force, dead) = mpsc::channel::<()>();
            let dead = Mutex::new(dead);
            let (umount, told) = kernel(move |flags| {
                if flags.contains(MntFlags::MNT_FORCE) {
                    return forced;
                }
                if flags.contains(MntFlags::MNT_DETACH) {
                    return last.expect("only a busy mount is detached");
                }
                // Until the test ends: nothing is ever sent.
                let _ = dead.lock().unwrap().recv();
                Err(Errno::EIO)
            });
            take_down(&umount, Some(Duration::from_millis(20))).unwrap();
            let told = told.lock().unwrap().clone();
            assert_eq!(told[..2], [MntFlags::empty(), MntFlags::MNT_FORCE]);
            assert_eq!(told.len(), if last.is_some() { 3 } else { 2 });
            drop(force);
        }
    }
}
