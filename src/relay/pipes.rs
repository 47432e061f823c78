//! Pipes that splice(2) moves bulk data through, shared by all connections of a loop.
//!
//! A pipe belongs to a flow only while it holds bytes, and goes when nobody has used any for some seconds, so idle
//! connections and idle bridges cost none: the memory of pipes is limited for each user (pipe(7)), who has other bridges as
//! well. Bytes in a pipe are in the kernel, and outlive the process as the pipe does: the ledger says whose they are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::handover::{Kept, Kind, Owner, Store, Words};
use crate::sys;

/// What is asked for; an unprivileged user may get less (/proc/sys/fs/pipe-max-size).
pub(crate) const PIPE_BYTES: usize = 1 << 20;
/// A user whose pipes have too many pages gets them with two (/proc/sys/fs/pipe-user-pages-soft): copying is faster then.
const LEAST_BYTES: i32 = 128 << 10;
/// The word that says whose bytes are in it.
const OWNER: usize = 0;
/// So many flows copy before a pipe is asked for again that could not be had.
const COPIES_BETWEEN_TRIES: u8 = 200;

/// An anonymous pipe and how many bytes are in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Whether the next process has it. Released before the last close.
    kept: Option<Kept>,
    output: OwnedFd,
    input: OwnedFd,
    /// Bytes in the pipe.
    pub held_bytes: usize,
    store: Arc<Store>,
}

impl Pipe {
    /// Makes one; none when there are as many as there may be, or it would be too small.
    fn new(store: &Arc<Store>) -> Option<Box<Pipe>> {
        if !store.may_make_pipe() {
            return None;
        }
        let Ok((output, input)) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC) else {
            store.pipe_closed();
            return None;
        };
        let pipe = Pipe {
            kept: None,
            output,
            input,
            held_bytes: 0,
            store: store.clone(),
        };
        let size = fcntl(&pipe.input, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32))
            .or_else(|_| fcntl(&pipe.input, FcntlArg::F_GETPIPE_SZ));
        size.is_ok_and(|bytes| bytes >= LEAST_BYTES)
            .then(|| Box::new(pipe))
    }

    /// Takes over the pipe of another process, with what is in it.
    pub(crate) fn adopt(
        store: &Arc<Store>,
        kept: Kept,
        descriptors: Vec<OwnedFd>,
    ) -> Option<(Owner, Box<Pipe>)> {
        let [output, input] = descriptors.try_into().ok()?;
        store.pipe_adopted();
        let owner = Owner::of(kept.words().get(OWNER));
        let pipe = Pipe {
            held_bytes: sys::readable_bytes(output.as_fd()).unwrap_or(0),
            kept: Some(kept),
            output,
            input,
            store: store.clone(),
        };
        Some((owner, Box::new(pipe)))
    }

    /// Has the next process find the pipe, as nobody's, unless it does already.
    pub(crate) fn keep(&mut self) -> Result<(), Errno> {
        if self.kept.is_none() {
            let nobody = |words: Words<'_>| words.set(OWNER, Owner::NOBODY.word());
            let descriptors = [self.output.as_fd(), self.input.as_fd()];
            self.kept = Some(self.store.keep(Kind::Pipe, nobody, &descriptors)?);
        }
        Ok(())
    }

    /// Writes down whose bytes are going to be in it.
    pub(crate) fn set_owner(&self, owner: Owner) {
        if let Some(kept) = &self.kept {
            kept.words().set(OWNER, owner.word());
        }
    }

    /// Returns the end that bytes are put into.
    pub(crate) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Returns the end that bytes come out of.
    pub(crate) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.store.pipe_closed();
    }
}

/// Empty pipes, ready for the next burst.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    #[expect(
        clippy::vec_box,
        reason = "a flow that holds a pipe has a pointer to it"
    )]
    empty: Vec<Box<Pipe>>,
    /// How many of them nobody has taken since the last [`Pool::trim`].
    unused: usize,
    /// How many flows are still to copy, because no pipe was to be had.
    copies_left: u8,
}

impl Pool {
    /// Returns an empty pipe; none when there is none to be had, and the caller copies instead.
    pub(crate) fn take(&mut self, store: &Arc<Store>) -> Option<Box<Pipe>> {
        if let Some(pipe) = self.empty.pop() {
            self.unused = self.unused.min(self.empty.len());
            return Some(pipe);
        }
        if self.copies_left > 0 {
            self.copies_left -= 1;
            return None;
        }
        let pipe = Pipe::new(store);
        if pipe.is_none() {
            self.copies_left = COPIES_BETWEEN_TRIES;
        }
        pipe
    }

    /// Takes a pipe back; one that still holds bytes is destroyed.
    pub(crate) fn give_back(&mut self, pipe: Box<Pipe>) {
        if pipe.held_bytes == 0 {
            self.empty.push(pipe);
        }
    }

    /// Returns whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty.is_empty()
    }

    /// Lets those go that nobody has needed since the last time.
    pub(crate) fn trim(&mut self) {
        self.empty.drain(..self.unused);
        self.unused = self.empty.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::Shares;

    #[test]
    fn a_pipe_that_holds_bytes_is_not_lent_again() {
        let store = Store::private().unwrap();
        let mut pool = Pool::default();
        let mut pipe = pool.take(&store).unwrap();
        pipe.held_bytes = 1;
        pool.give_back(pipe);
        assert!(pool.empty.is_empty());
        let pipe = pool.take(&store).unwrap();
        pool.give_back(pipe);
        assert_eq!(pool.empty.len(), 1);
    }

    #[test]
    fn pipes_that_nobody_has_used_go_and_the_others_stay() {
        let store = Store::private().unwrap();
        let mut pool = Pool::default();
        let pipes: Vec<_> = (0..3).filter_map(|_| pool.take(&store)).collect();
        pipes.into_iter().for_each(|pipe| pool.give_back(pipe));
        pool.trim();
        let pipe = pool.take(&store).unwrap();
        pool.give_back(pipe);
        pool.trim();
        assert_eq!(pool.empty.len(), 1);
        pool.trim();
        assert!(pool.is_empty());
    }

    #[test]
    fn there_are_no_more_pipes_than_their_share_until_one_goes() {
        let store = Store::private().unwrap();
        let shares = Shares {
            connections: 1,
            pipes: 1,
            dead: 1,
            room: 1,
        };
        store.limit(&shares);
        let mut pool = Pool::default();
        let pipe = pool.take(&store);
        assert!(pipe.is_some() && Pool::default().take(&store).is_none());
        drop(pipe);
        assert!(Pool::default().take(&store).is_some());
    }
}
