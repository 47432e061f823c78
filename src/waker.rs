//! What one thread wakes another one with.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Error, Result};

/// A descriptor that is readable from when it is woken until it is cleared.
#[derive(Debug)]
pub(crate) struct Waker(EventFd);

impl Waker {
    pub(crate) fn new() -> Result<Waker> {
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map(Waker)
            .map_err(Error::system("create an eventfd"))
    }

    /// Wakes whoever watches it.
    pub(crate) fn wake(&self) {
        // It fails only when it was woken 2^64 times already.
        let _ = self.0.write(1);
    }

    /// Begins anew.
    pub(crate) fn clear(&self) {
        // It fails only when nobody has woken it.
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
