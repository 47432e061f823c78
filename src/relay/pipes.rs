//! Pipes that splice(2) moves bulk data through, shared by all connections of a loop.
//!
//! A pipe belongs to a flow only while it holds bytes, so idle connections cost none, and an unprivileged
//! process stays below pipe-user-pages-soft, past which new pipes get two slots (pipe(7)). Bytes in a pipe are in the
//! kernel, and outlive the process as the pipe does: the ledger says whose they are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::handover::{Item, Keeper, Owner, Table, Ticket};

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
    keeper: Arc<Keeper>,
    /// What the next process knows it by, if that is to have it.
    kept: Option<Ticket>,
}

impl Pipe {
    fn new(keeper: &Arc<Keeper>) -> Option<Box<Pipe>> {
        let (output, input) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
        // A smaller pipe works too.
        let _ = fcntl(&input, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        Some(Box::new(Pipe {
            output,
            input,
            held_bytes: 0,
            keeper: keeper.clone(),
            kept: None,
        }))
    }

    /// Takes over the pipe of another process.
    pub fn adopt(
        keeper: &Arc<Keeper>,
        ticket: Ticket,
        descriptors: Vec<OwnedFd>,
        held_bytes: usize,
    ) -> Option<Box<Pipe>> {
        let [output, input] = descriptors.try_into().ok()?;
        Some(Box::new(Pipe {
            output,
            input,
            held_bytes,
            keeper: keeper.clone(),
            kept: Some(ticket),
        }))
    }

    /// Puts the pipe where the next process finds it, unless it is there.
    pub fn keep(&mut self) -> Result<(), Errno> {
        if self.kept.is_some() {
            return Ok(());
        }
        let ledger = self.keeper.ledger();
        let ticket = ledger.open(Table::Pipes).ok_or(Errno::ENOSPC)?;
        ledger.pipe_owner(ticket).store(0, Ordering::Release);
        ledger.publish(Table::Pipes, ticket);
        let descriptors = [self.output.as_fd(), self.input.as_fd()];
        match self.keeper.put(Item::Pipe(ticket), &descriptors) {
            Ok(()) => self.kept = Some(ticket),
            Err(errno) => {
                ledger.close(Table::Pipes, ticket);
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Writes down whose bytes are going to be in it.
    pub fn set_owner(&self, owner: Owner) {
        if let Some(ticket) = self.kept {
            let word = self.keeper.ledger().pipe_owner(ticket);
            word.store(owner.word(), Ordering::Release);
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

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ticket) = self.kept {
            self.keeper.ledger().close(Table::Pipes, ticket);
            self.keeper.died(&[Item::Pipe(ticket)]);
        }
    }
}

/// Empty pipes, ready for the next burst.
#[derive(Debug, Default)]
pub struct Pool {
    #[expect(
        clippy::vec_box,
        reason = "a flow that holds a pipe has a pointer to it"
    )]
    empty: Vec<Box<Pipe>>,
}

impl Pool {
    /// Gives an empty pipe; none when no descriptor is to be had, and the caller copies instead.
    pub fn take(&mut self, keeper: &Arc<Keeper>) -> Option<Box<Pipe>> {
        self.empty.pop().or_else(|| Pipe::new(keeper))
    }

    /// Takes a pipe back; one that still holds bytes is destroyed.
    pub fn give_back(&mut self, pipe: Box<Pipe>) {
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
        let keeper = Arc::new(Keeper::private().unwrap());
        let mut pool = Pool::default();
        let mut pipe = pool.take(&keeper).unwrap();
        pipe.held_bytes = 1;
        pool.give_back(pipe);
        assert!(pool.empty.is_empty());
        let pipe = pool.take(&keeper).unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.empty.len(), 1);
    }
}
