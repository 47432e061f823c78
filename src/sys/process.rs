//! A process splits in two.

use nix::errno::Errno;
use nix::unistd::{self, ForkResult};

/// fork(2). Both processes go on from here, with the same descriptors.
///
/// Errors: `EBUSY` for a process that has other threads, whose locks nobody would give back in the new one.
pub(crate) fn fork() -> Result<ForkResult, Errno> {
    let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    if std::fs::read_dir("/proc/self/task").map_err(errno)?.count() != 1 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: this is the only thread, as counted, so no lock and no half-done change of another one is copied.
    unsafe { unistd::fork() }
}
