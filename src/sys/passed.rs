//! What the process was started with: stdin and stdout, and the descriptors that systemd passed, by their numbers.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Takes stdin and stdout away from the program and leaves /dev/null in their place.
///
/// Without that a stdout that is a pipe would stay open, and so would never tell its reader the end.
pub(crate) fn take_stdio() -> Result<(OwnedFd, OwnedFd), Errno> {
    let null = nix::fcntl::open(
        "/dev/null",
        nix::fcntl::OFlag::O_RDWR,
        nix::sys::stat::Mode::empty(),
    )?;
    Ok((
        take_number(libc::STDIN_FILENO, &null)?,
        take_number(libc::STDOUT_FILENO, &null)?,
    ))
}

fn take_number(number: RawFd, substitute: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes any number; one that is not open gives EBADF, which is returned.
    let taken = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: both numbers are open, and dup2 replaces the second in one step.
    Errno::result(unsafe { libc::dup2(substitute.as_raw_fd(), number) })?;
    // SAFETY: F_DUPFD_CLOEXEC succeeded, so the number is an open descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(taken) })
}

/// Copies a descriptor to the first free number from that one on, to be closed when another program begins.
pub(crate) fn copy_from(descriptor: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd, Errno> {
    let copy = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(number))?;
    // SAFETY: the call succeeded, so the number is an open descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Removes what systemd left in the environment for this process, so that no child takes it for its own.
///
/// Must be called before the first thread is made.
pub(crate) fn forget_activation() {
    // SAFETY: the caller is still the only thread, so nobody reads the environment meanwhile.
    // The result was read before; only the removal is wanted.
    let _ = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }.map(drop);
}

/// Borrows a passed descriptor by its number, to ask what it is; `EBADF` if it is not open.
pub(crate) fn probe<T>(number: RawFd, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<T, Errno> {
    // SAFETY: the call takes any number, and only looks at the descriptor.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: it is open, and there is no other thread yet that could close it before `ask` returns.
    Ok(ask(unsafe { BorrowedFd::borrow_raw(number) }))
}
