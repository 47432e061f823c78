//! What the next process finds of one connection or pipe, from the moment when all of it is there until it is released.
//!
//! This is the order, and what a process that is killed between two steps leaves behind:
//!
//! ```text
//! keep      1  a place of the ledger is taken              nothing: the place is free, as it is not published
//!           2  its words are written                       the same
//!           3  the place is published                      a place without descriptors: freed by the next process
//!           4  the descriptors are put into the queue      all of it: the next process goes on
//! release   5  the place is closed                         descriptors of nobody: the next process closes them, and a TCP
//!                                                          socket that was not complete is reset by that (SO_LINGER)
//!           6  the queue forgets what is dead in front     the same, as far as it is behind others
//! ```
//!
//! After step 6 a close of ours is the last one of what was in front. Of what is behind others it is not: whoever releases
//! it shuts its sockets down ([`Store::release`]). A frozen store is the next process's, and nothing is released in it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::Store;
use super::ledger::{Ledger, Owner, Table, Ticket};
use super::queue::Item;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection: its peer and its target.
    Connection,
    /// A peer whose target is still being connected.
    Peer,
    /// A pipe: the end that bytes come out of, and the one that they are put into. Its first word is the [`Owner`].
    Pipe,
}

impl Kind {
    fn table(self) -> Table {
        match self {
            Kind::Connection | Kind::Peer => Table::Records,
            Kind::Pipe => Table::Pipes,
        }
    }

    fn item(self, ticket: Ticket) -> Item {
        match self {
            Kind::Connection => Item::Connection(ticket),
            Kind::Peer => Item::Peer(ticket),
            Kind::Pipe => Item::Pipe(ticket),
        }
    }
}

/// The words of something that is kept, or is going to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a> {
    ledger: &'a Ledger,
    ticket: Ticket,
}

impl Words<'_> {
    /// Writes a word; the next process reads it whole or finds the one before.
    pub(crate) fn set(&self, number: usize, word: u64) {
        let place = self.ledger.word(self.ticket, number);
        place.store(word, Ordering::Release);
    }

    /// Returns a word.
    pub(crate) fn get(&self, number: usize) -> u64 {
        let place = self.ledger.word(self.ticket, number);
        place.load(Ordering::Acquire)
    }

    /// Returns what names one flow of a connection in the words of pipes and in buffers.
    pub(crate) fn flow(&self, is_inbound: bool) -> Owner {
        Owner::flow(self.ticket, is_inbound)
    }
}

/// Something that the next process finds as long as this is not dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    store: Arc<Store>,
    ticket: Ticket,
}

impl Kept {
    /// Goes on with what another process has kept.
    pub(super) fn adopt(store: &Arc<Store>, ticket: Ticket) -> Kept {
        let store = store.clone();
        Kept { store, ticket }
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Returns its words.
    pub(crate) fn words(&self) -> Words<'_> {
        Words {
            ledger: &self.store.ledger,
            ticket: self.ticket,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.store.ledger.is_open(self.ticket) {
            self.store.release_tickets(&[self.ticket]);
        }
    }
}

impl Store {
    /// Has the next process find something, with the words that `write` gives it; in the order that stands above.
    ///
    /// Errors: `ENOSPC` when all places are in use; `ENOTCONN` when nobody keeps descriptors; `EAGAIN` when
    /// the queues are full; `ETOOMANYREFS` when more is in queues of this user than RLIMIT_NOFILE allows to be open.
    pub(crate) fn keep(
        self: &Arc<Store>,
        kind: Kind,
        write: impl FnOnce(Words<'_>),
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Kept, Errno> {
        let ticket = self.ledger.open(kind.table()).ok_or(Errno::ENOSPC)?;
        let kept = Kept::adopt(self, ticket);
        write(kept.words());
        self.ledger.publish(ticket);
        // If that fails nothing is in the queue, and the drop closes the place.
        self.put(kind.item(ticket), descriptors)?;
        Ok(kept)
    }

    /// Releases several at once, which saves calls: what is not in front is dropped with what is. True of those whose
    /// descriptors nobody else has any more, so that a close of ours is the last one.
    pub(crate) fn release(&self, kept: Vec<Kept>) -> Vec<bool> {
        let tickets: Vec<Ticket> = kept.iter().map(Kept::ticket).collect();
        self.release_tickets(&tickets)
    }

    fn release_tickets(&self, tickets: &[Ticket]) -> Vec<bool> {
        if self.ledger.is_frozen() {
            return vec![false; tickets.len()];
        }
        tickets.iter().for_each(|ticket| self.ledger.close(*ticket));
        match &mut *self.queues() {
            Some(queues) => queues.release(tickets, &self.ledger),
            None => vec![true; tickets.len()],
        }
    }
}
