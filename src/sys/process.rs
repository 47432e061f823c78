//! Processes: one splits in two, and the end of another one is waited for.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{self, ForkResult, Pid};

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

/// pidfd_open(2): a descriptor of another process, which can be read from when that has ended.
///
/// Errors: `ESRCH` for a process that is not there any more.
pub(crate) fn process_descriptor(process: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: it is given two numbers and no memory.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    // A number of a descriptor is never larger.
    let descriptor = RawFd::try_from(Errno::result(descriptor)?).unwrap_or(RawFd::MAX);
    // SAFETY: the kernel has just made it, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
