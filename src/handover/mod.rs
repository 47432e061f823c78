//! Keeps connections for the next process of the service, whatever happens to this one.
//!
//! Connections outlive the process because the kernel has all of them twice: as descriptors of the process, and in
//! boxes that systemd has too (its descriptor store). What is to be known of them, and the bytes that are in no
//! socket at the moment, are in the memory of a file, the ledger, which is in a box as well. Everything is up to date
//! after every instruction, so a planned restart is no more than a process that stops, and a crash no less.
//!
//! A connection is kept from the moment when its target is connected, before its first byte moves. What a kill can cost:
//! one that is accepted and has no target yet.

mod boxes;
mod inherit;
mod layout;
mod ledger;
mod queue;
mod slot;

#[cfg(test)]
use std::os::fd::AsFd;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::PollTimeout;

use crate::descriptors::Shares;
use crate::notify::{self, Storing};
use boxes::Boxes;
pub use inherit::waiting;
pub use ledger::{Ledger, Owner, Table, Ticket};
pub use queue::{Found, Item, PACKET_DESCRIPTORS};
pub use slot::Slot;

/// Begins the names of all that is ours in the store.
pub const NAME: &str = "handover-";

/// The ledger and the boxes of one process.
#[derive(Debug)]
pub struct Keeper {
    ledger: Arc<Ledger>,
    /// None while systemd keeps nothing for us.
    boxes: Mutex<Option<Boxes>>,
    /// What was sent to systemd, and not read by it yet.
    pending: Mutex<Option<(Boxes, Storing)>>,
    /// Items are put in as soon as they are there, not only when the process is to stop.
    is_early: AtomicBool,
    has_failed: AtomicBool,
    /// Pipes that there are, and that there may be.
    pipes: AtomicUsize,
    pipes_max: AtomicUsize,
    /// Dead items that may be in the boxes.
    dead_max: AtomicUsize,
}

/// What another process has left.
#[derive(Debug, Default)]
pub struct Estate {
    /// Connections, and peers that wait for one, each with its descriptors.
    pub connections: Vec<Found>,
    /// Pipes that hold bytes: whose, how many, and both ends.
    pub pipes: Vec<(Owner, usize, Found)>,
    /// Slots that hold bytes.
    pub slots: Vec<(Owner, Box<Slot>)>,
    /// Connections that there is no room for; they are aborted.
    pub lost: usize,
}

impl Keeper {
    /// Begins without anything that could outlive the process.
    pub fn private() -> Result<Keeper, Errno> {
        Ok(Keeper::of(Arc::new(Ledger::private()?), None))
    }

    /// Begins with what can be passed on, once [`Keeper::begin`] has found that somebody takes it.
    pub fn new() -> Result<Keeper, Errno> {
        Ok(Keeper::of(Arc::new(Ledger::new()?), None))
    }

    fn of(ledger: Arc<Ledger>, boxes: Option<Boxes>) -> Keeper {
        Keeper {
            ledger,
            boxes: Mutex::new(boxes),
            pending: Mutex::default(),
            is_early: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            pipes: AtomicUsize::new(0),
            pipes_max: AtomicUsize::new(usize::MAX),
            dead_max: AtomicUsize::new(usize::MAX),
        }
    }

    /// Keeps within its share of the descriptors, so that there are enough for every connection.
    pub fn limit(&self, shares: &Shares) {
        self.pipes_max.store(shares.pipes, Ordering::Relaxed);
        self.dead_max.store(shares.dead, Ordering::Relaxed);
        if let Some(boxes) = &mut *self.boxes() {
            boxes.limit_dead(shares.dead);
        }
    }

    /// Tells whether one more pipe may be made; then it counts, until [`Keeper::pipe_closed`].
    pub fn may_make_pipe(&self) -> bool {
        let more =
            |count| Some(count + 1).filter(|_| count < self.pipes_max.load(Ordering::Relaxed));
        (self.pipes)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Counts a pipe that was there before.
    pub fn pipe_adopted(&self) {
        self.pipes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one pipe less.
    pub fn pipe_closed(&self) {
        self.pipes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Goes on with what another process has left in the store, under these names, with room for so many descriptors.
    ///
    /// Errors: why there is nothing to go on with; all of it is aborted and out of the store then.
    pub fn adopt(stored: Vec<(String, OwnedFd)>, room: usize) -> Result<(Keeper, Estate), String> {
        let adopted = inherit::adopt(stored, room);
        if adopted.is_err() {
            Boxes::NAMES.into_iter().for_each(notify::forget);
        }
        adopted
    }

    /// Gives empty boxes to systemd, with the ledger in them, unless it has them.
    ///
    /// Errors: `ENOTCONN` when systemd keeps no descriptors, or not enough of them (FileDescriptorStoreMax=); `ETIMEDOUT` when
    /// it has not read so far, and then this may be asked again.
    pub fn begin(&self, time: PollTimeout) -> Result<(), Errno> {
        let mut boxes = self.boxes();
        if boxes.is_some() {
            return Ok(());
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, storing) = match pending.take() {
            Some(pending) => pending,
            None => self.send_boxes()?,
        };
        match storing.confirm(time) {
            Ok(()) => *boxes = Some(new),
            Err(Errno::ETIMEDOUT) => {
                *pending = Some((new, storing));
                return Err(Errno::ETIMEDOUT);
            }
            Err(errno) => {
                Boxes::NAMES.into_iter().for_each(notify::forget);
                return Err(errno);
            }
        }
        Ok(())
    }

    fn send_boxes(&self) -> Result<(Boxes, Storing), Errno> {
        let file = self.ledger.file().ok_or(Errno::ENOTCONN)?;
        let mut new = Boxes::new()?;
        new.limit_dead(self.dead_max.load(Ordering::Relaxed));
        new.put_ledger(file)?;
        let storing = Storing::new(Boxes::NAMES.into_iter().zip(new.ends()))
            .inspect_err(|_| Boxes::NAMES.into_iter().for_each(notify::forget))?;
        Ok((new, storing))
    }

    /// Begins as [`Keeper::begin`] does, with nobody but the test to keep the boxes.
    #[cfg(test)]
    pub fn with_boxes() -> Keeper {
        Keeper::new().unwrap().in_boxes()
    }

    /// The same, as another version of the program might begin.
    #[cfg(test)]
    pub fn with_boxes_of_another_layout() -> Keeper {
        Keeper::of(Arc::new(Ledger::of_another_layout()), None).in_boxes()
    }

    #[cfg(test)]
    fn in_boxes(self) -> Keeper {
        let keeper = self;
        let mut boxes = Boxes::new().unwrap();
        let file = keeper.ledger.file().unwrap();
        boxes.put_ledger(file).unwrap();
        *keeper.boxes() = Some(boxes);
        keeper.keep_from_the_beginning();
        keeper
    }

    /// What the next process gets from the store.
    #[cfg(test)]
    pub fn stored(&self) -> Vec<(String, OwnedFd)> {
        let boxes = self.boxes();
        let ends = boxes.as_ref().unwrap().ends();
        let named = Boxes::NAMES.into_iter().zip(ends);
        named
            .map(|(name, end)| (name.to_owned(), end.try_clone_to_owned().unwrap()))
            .collect()
    }

    /// From now on what is new is put in at once, so that it survives a crash as well.
    pub fn keep_from_the_beginning(&self) {
        self.is_early.store(true, Ordering::Relaxed);
    }

    /// Gives the tables.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Puts descriptors in, for the next process.
    ///
    /// Errors: `ENOTCONN` when nobody keeps them; `EAGAIN` when the boxes are full; `ETOOMANYREFS` when more is in boxes of
    /// this user than RLIMIT_NOFILE allows to be open.
    pub fn put(&self, item: Item, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut boxes = self.boxes();
        let boxes = boxes.as_mut().ok_or(Errno::ENOTCONN)?;
        boxes.put(item, descriptors, &self.ledger)
    }

    /// Tells whether what is new is to be put in at once.
    pub fn is_early(&self) -> bool {
        self.is_early.load(Ordering::Relaxed)
    }

    /// Says once that something could not be put in.
    pub fn report(&self, errno: Errno) {
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            let cause = errno.desc();
            log::warn!(
                "more is open than can be kept, so some connections would not survive a crash: {cause}"
            );
        }
    }

    /// Tells that items have died in the ledger; true of those whose descriptors nobody else has any more.
    pub fn died(&self, items: &[Item]) -> Vec<bool> {
        if self.ledger.is_frozen() {
            return vec![false; items.len()];
        }
        match &mut *self.boxes() {
            Some(boxes) => boxes.died(items, &self.ledger),
            None => vec![true; items.len()],
        }
    }

    fn boxes(&self) -> MutexGuard<'_, Option<Boxes>> {
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estate_that_is_not_whole_is_refused() {
        let mut stored = Keeper::with_boxes().stored();
        stored.pop();
        assert_eq!(
            Keeper::adopt(stored, usize::MAX).unwrap_err(),
            "not all of it is there"
        );
    }

    #[test]
    fn a_ledger_of_another_format_is_refused_and_its_connections_are_aborted() {
        use std::io::Read;
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let keeper = Keeper::with_boxes();
        let ticket = keeper.ledger.open(Table::Records).unwrap();
        keeper.ledger.publish(Table::Records, ticket);
        let descriptors = [server.as_fd(), server.as_fd()];
        keeper.put(Item::Connection(ticket), &descriptors).unwrap();
        drop(server);
        keeper.ledger.set_format(1);
        let problem = Keeper::adopt(keeper.stored(), usize::MAX).unwrap_err();
        assert!(
            problem.starts_with("its layout 1 is not known"),
            "{problem}"
        );
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn connections_that_wait_are_counted_once_and_stay() {
        let keeper = Keeper::with_boxes();
        let (output, input) = nix::unistd::pipe().unwrap();
        let ends = [output.as_fd(), input.as_fd()];
        let ticket = || {
            let ticket = keeper.ledger.open(Table::Records).unwrap();
            keeper.ledger.publish(Table::Records, ticket);
            ticket
        };
        let (connected, connecting, over) = (ticket(), ticket(), ticket());
        keeper.put(Item::Peer(connected), &ends[..1]).unwrap();
        keeper.put(Item::Connection(connected), &ends).unwrap();
        keeper.put(Item::Peer(connecting), &ends[..1]).unwrap();
        keeper.put(Item::Connection(over), &ends).unwrap();
        keeper.ledger.close(Table::Records, over);
        for _ in 0..2 {
            assert_eq!(waiting(keeper.stored()), 2);
        }
        let (_, estate) = Keeper::adopt(keeper.stored(), usize::MAX).unwrap();
        assert_eq!(estate.connections.len(), 3);
        assert_eq!(waiting(Vec::new()), 0);
    }

    #[test]
    fn what_is_put_in_twice_is_found_once() {
        let keeper = Keeper::with_boxes();
        let (output, input) = nix::unistd::pipe().unwrap();
        let ticket = keeper.ledger.open(Table::Pipes).unwrap();
        keeper.ledger.publish(Table::Pipes, ticket);
        nix::unistd::write(&input, b"abc").unwrap();
        for _ in 0..2 {
            let ends = [output.as_fd(), input.as_fd()];
            keeper.put(Item::Pipe(ticket), &ends).unwrap();
        }
        let (_, estate) = Keeper::adopt(keeper.stored(), usize::MAX).unwrap();
        let found: Vec<usize> = estate.pipes.iter().map(|(_, count, _)| *count).collect();
        assert_eq!(found, [3]);
    }
}
