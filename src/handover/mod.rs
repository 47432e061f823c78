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
mod ledger;
mod queue;
mod slot;

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::notify;
use crate::sys;
use boxes::Boxes;
pub use ledger::{Ledger, Owner, Table, Ticket};
pub use queue::{Found, Item};
pub use slot::Slot;

/// Begins the names of all that is ours in the store.
pub const NAME: &str = "handover-";

/// The ledger and the boxes of one process.
#[derive(Debug)]
pub struct Keeper {
    ledger: Arc<Ledger>,
    /// None while systemd keeps nothing for us.
    boxes: Mutex<Option<Boxes>>,
    /// Items are put in as soon as they are there, not only when the process is to stop.
    is_early: AtomicBool,
    has_failed: AtomicBool,
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
            is_early: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Goes on with what another process has left in the store, under these names.
    ///
    /// Errors: why there is nothing to go on with; all of it is out of the store then.
    pub fn adopt(stored: Vec<(String, OwnedFd)>) -> Result<(Keeper, Estate), String> {
        let adopted = adopt(stored);
        if adopted.is_err() {
            Boxes::NAMES.into_iter().for_each(notify::forget);
        }
        adopted
    }

    /// Gives empty boxes to systemd, with the ledger in them.
    ///
    /// Errors: `ENOTCONN` when systemd keeps no descriptors, or not enough of them (FileDescriptorStoreMax=).
    pub fn begin(&self) -> Result<(), Errno> {
        let mut boxes = self.boxes();
        if boxes.is_some() {
            return Ok(());
        }
        let file = self.ledger.file().ok_or(Errno::ENOTCONN)?;
        let mut new = Boxes::new()?;
        new.put_ledger(file)?;
        let ends = new.ends();
        let result = notify::store(Boxes::NAMES.into_iter().zip(ends));
        match result {
            Ok(()) => *boxes = Some(new),
            Err(_) => Boxes::NAMES.into_iter().for_each(notify::forget),
        }
        result
    }

    /// Begins as [`Keeper::begin`] does, with nobody but the test to keep the boxes.
    #[cfg(test)]
    pub fn with_boxes() -> Keeper {
        let keeper = Keeper::new().unwrap();
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

/// Counts the connections that wait in the store, and leaves them there.
pub fn waiting(stored: Vec<(String, OwnedFd)>) -> usize {
    let Ok((_, found, ledger)) = open(stored) else {
        return 0;
    };
    let Ok(ledger) = ledger.and_then(Ledger::adopt) else {
        return 0;
    };
    let alive = found.iter().filter(|(item, _)| item.is_alive(&ledger));
    let tickets = alive.filter_map(|(item, _)| match item {
        Item::Connection(ticket) | Item::Peer(ticket) => Some(ticket),
        Item::Ledger | Item::Pipe(_) => None,
    });
    tickets.collect::<HashSet<_>>().len()
}

/// The boxes, what is in them, and the file of the ledger.
type Opened = (Boxes, Vec<Found>, Result<OwnedFd, String>);

fn open(mut stored: Vec<(String, OwnedFd)>) -> Result<Opened, String> {
    let ends = Boxes::NAMES.map(|wanted| {
        let place = stored.iter().position(|(name, _)| name == wanted);
        place.map(|place| stored.swap_remove(place).1)
    });
    let [Some(a), Some(b), Some(c), Some(d)] = ends else {
        return Err("not all of it is there".to_owned());
    };
    let text = |errno: Errno| errno.desc().to_owned();
    let (boxes, mut found) = Boxes::adopt([a, b, c, d]).map_err(text)?;
    let place = found.iter().position(|(item, _)| *item == Item::Ledger);
    let file = place.and_then(|place| found.swap_remove(place).1.pop());
    let ledger = file.ok_or_else(|| "the ledger is missing".to_owned());
    Ok((boxes, found, ledger))
}

fn adopt(stored: Vec<(String, OwnedFd)>) -> Result<(Keeper, Estate), String> {
    let (boxes, found, ledger) = open(stored)?;
    let text = |errno: Errno| errno.desc().to_owned();
    let ledger = Arc::new(ledger.and_then(Ledger::adopt).inspect_err(|_| {
        for descriptor in found.iter().flat_map(|(_, descriptors)| descriptors) {
            // So that nobody takes it for a clean end; pipes, and sockets that are not TCP, have no other.
            let _ = sys::disconnect(descriptor.as_fd());
        }
    })?);
    let mut estate = Estate {
        slots: Slot::salvage(&ledger).map_err(text)?,
        ..Estate::default()
    };
    // What was being moved from one box to the other is in both.
    let mut seen = HashSet::new();
    for (item, descriptors) in found {
        if !item.is_alive(&ledger) || !seen.insert(item) {
            continue;
        }
        match item {
            Item::Pipe(ticket) => {
                let owner = Owner::of(ledger.pipe_owner(ticket).load(Ordering::Acquire));
                let bytes_in = |output: &OwnedFd| sys::readable_bytes(output.as_fd()).unwrap_or(0);
                let count = descriptors.first().map_or(0, bytes_in);
                estate.pipes.push((owner, count, (item, descriptors)));
            }
            _ => estate.connections.push((item, descriptors)),
        }
    }
    Ok((Keeper::of(ledger, Some(boxes)), estate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estate_that_is_not_whole_is_refused() {
        let mut stored = Keeper::with_boxes().stored();
        stored.pop();
        assert_eq!(Keeper::adopt(stored).unwrap_err(), "not all of it is there");
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
        let problem = Keeper::adopt(keeper.stored()).unwrap_err();
        assert!(problem.starts_with("its format is 1, not "), "{problem}");
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
        let (_, estate) = Keeper::adopt(keeper.stored()).unwrap();
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
        let (_, estate) = Keeper::adopt(keeper.stored()).unwrap();
        let found: Vec<usize> = estate.pipes.iter().map(|(_, count, _)| *count).collect();
        assert_eq!(found, [3]);
    }
}
