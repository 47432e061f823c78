//! Pipes that splice(2) moves bulk data through, shared by all connections of a loop.
//!
//! A pipe belongs to a flow only while it holds bytes, so idle connections cost none, and an unprivileged
//! process stays below pipe-user-pages-soft, past which new pipes get two slots (pipe(7)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// What is asked for; an unprivileged user may get less (/proc/sys/fs/pipe-max-size).
pub const PIPE_BYTES: usize = 1 << 20;
/// 32 pipes of 256 pages stay below the soft limit of 16 384 pages.
const KEPT: usize = 32;

/// An anonymous pipe and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    /// Bytes in the pipe.
    pub held_bytes: usize,
}

impl Pipe {
    fn new() -> Option<Pipe> {
        let (output, input) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
        // A smaller pipe works too.
        let _ = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        Some(Pipe {
            output,
            input,
            held_bytes: 0,
        })
    }

    /// Takes both ends of a pipe that holds so many bytes.
    pub fn of(output: OwnedFd, input: OwnedFd, held_bytes: usize) -> Pipe {
        Pipe {
            output,
            input,
            held_bytes,
        }
    }

    /// Gives the end that bytes are put into.
    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Gives the end that bytes come out of.
    pub fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

/// Empty pipes, ready for the next burst.
#[derive(Debug, Default)]
pub struct Pool {
    empty: Vec<Pipe>,
}

impl Pool {
    /// Gives an empty pipe; none when no descriptor is to be had, and the caller copies instead.
    pub fn take(&mut self) -> Option<Pipe> {
        self.empty.pop().or_else(Pipe::new)
    }

    /// Takes a pipe back; one that still holds bytes is destroyed.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.held_bytes == 0 && self.empty.len() < KEPT {
            self.empty.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_holds_bytes_is_not_lent_again() {
        let mut pool = Pool::default();
        let mut pipe = pool.take().unwrap();
        pipe.held_bytes = 1;
        pool.give_back(pipe);
        assert!(pool.empty.is_empty());
        let pipe = pool.take().unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.empty.len(), 1);
    }
}
