//! Keeps connections for the next process of the service, whatever happens to this one.
//!
//! Connections outlive the process because the kernel has all of them twice: as descriptors of the process, and in
//! queues that systemd has too (its descriptor store). What is to be known of them, and the bytes that are in no
//! socket at the moment, are in the memory of a file, the ledger, which is in a queue as well. Everything is up to date
//! after every instruction, so a planned restart is no more than a process that stops, and a crash no less.
//!
//! A connection is kept from the moment when its target is connected, before its first byte moves. What a kill can cost:
//! one that is accepted and has no target yet.

mod buffer;
mod inherit;
mod kept;
mod layout;
mod ledger;
mod queue;
mod queues;

#[cfg(test)]
use std::os::fd::AsFd;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::PollTimeout;

use crate::descriptors::Shares;
use crate::notify::{self, Storing};
pub(crate) use buffer::Buffer;
pub(crate) use inherit::waiting;
pub(crate) use kept::{Kept, Kind, Words};
use ledger::Ledger;
pub(crate) use ledger::Owner;
use queue::Item;
use queues::FdQueues;

/// Begins the names of all that is ours in the store.
pub(crate) const NAME: &str = "handover-";

/// The ledger and the queues of one process.
#[derive(Debug)]
pub(crate) struct Store {
    ledger: Arc<Ledger>,
    /// None while systemd keeps nothing for us.
    queues: Mutex<Option<FdQueues>>,
    /// What was sent to systemd, and not read by it yet.
    pending: Mutex<Option<(FdQueues, Storing)>>,
    is_at_once: AtomicBool,
    has_failed: AtomicBool,
    /// Pipes that there are, and that there may be.
    pipes: AtomicUsize,
    pipes_max: AtomicUsize,
    /// Dead items that may be in the queues.
    dead_max: AtomicUsize,
}

/// What another process has left.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Connections, each with the sockets of its peer and its target.
    pub connections: Vec<(Kept, Vec<OwnedFd>)>,
    /// Peers whose target is still to be connected.
    pub peers: Vec<(Kept, Vec<OwnedFd>)>,
    /// Pipes that hold bytes, with both ends.
    pub pipes: Vec<(Kept, Vec<OwnedFd>)>,
    /// Buffers that hold bytes, and whose these are.
    pub buffers: Vec<(Owner, Box<Buffer>)>,
    /// Connections that there is no room for; they are aborted.
    pub lost: usize,
}

impl Store {
    /// Begins without anything that could outlive the process.
    pub(crate) fn private() -> Result<Arc<Store>, Errno> {
        Ok(Arc::new(Store::of(Arc::new(Ledger::private()?), None)))
    }

    /// Begins with what can be passed on, once [`Store::register`] has found that somebody takes it.
    pub(crate) fn new() -> Result<Arc<Store>, Errno> {
        Ok(Arc::new(Store::of(Arc::new(Ledger::new()?), None)))
    }

    fn of(ledger: Arc<Ledger>, queues: Option<FdQueues>) -> Store {
        Store {
            ledger,
            queues: Mutex::new(queues),
            pending: Mutex::default(),
            is_at_once: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            pipes: AtomicUsize::new(0),
            pipes_max: AtomicUsize::new(usize::MAX),
            dead_max: AtomicUsize::new(usize::MAX),
        }
    }

    /// Keeps within its share of the descriptors, so that there are enough for every connection.
    pub(crate) fn limit(&self, shares: &Shares) {
        self.pipes_max.store(shares.pipes, Ordering::Relaxed);
        self.dead_max.store(shares.dead, Ordering::Relaxed);
        if let Some(queues) = &mut *self.queues() {
            queues.limit_dead(shares.dead);
        }
    }

    /// Returns whether one more pipe may be made; then it counts, until [`Store::pipe_closed`].
    pub(crate) fn may_make_pipe(&self) -> bool {
        let more =
            |count| Some(count + 1).filter(|_| count < self.pipes_max.load(Ordering::Relaxed));
        (self.pipes)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Counts a pipe that was there before.
    pub(crate) fn pipe_adopted(&self) {
        self.pipes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one pipe less.
    pub(crate) fn pipe_closed(&self) {
        self.pipes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives empty queues to systemd, with the ledger in them, unless it has them.
    ///
    /// Errors: `ENOTCONN` when systemd keeps no descriptors, or not enough of them (FileDescriptorStoreMax=); `ETIMEDOUT` when
    /// it has not read so far, and then this may be asked again.
    pub(crate) fn register(&self, time: PollTimeout) -> Result<(), Errno> {
        let mut queues = self.queues();
        if queues.is_some() {
            return Ok(());
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, storing) = match pending.take() {
            Some(pending) => pending,
            None => self.send_queues()?,
        };
        match storing.confirm(time) {
            Ok(()) => *queues = Some(new),
            Err(Errno::ETIMEDOUT) => {
                *pending = Some((new, storing));
                return Err(Errno::ETIMEDOUT);
            }
            Err(errno) => {
                FdQueues::NAMES.into_iter().for_each(notify::forget);
                return Err(errno);
            }
        }
        Ok(())
    }

    fn send_queues(&self) -> Result<(FdQueues, Storing), Errno> {
        let file = self.ledger.file().ok_or(Errno::ENOTCONN)?;
        let mut new = FdQueues::new()?;
        new.limit_dead(self.dead_max.load(Ordering::Relaxed));
        new.put_ledger(file)?;
        let storing = Storing::new(FdQueues::NAMES.into_iter().zip(new.ends()))
            .inspect_err(|_| FdQueues::NAMES.into_iter().for_each(notify::forget))?;
        Ok((new, storing))
    }

    /// Begins as [`Store::register`] does, with nobody but the test to keep the queues.
    #[cfg(test)]
    pub(crate) fn with_queues() -> Arc<Store> {
        Store::in_queues(Ledger::new().unwrap())
    }

    /// The same, as another version of the program might begin.
    #[cfg(test)]
    pub(crate) fn with_queues_of_another_layout() -> Arc<Store> {
        Store::in_queues(Ledger::of_another_layout())
    }

    #[cfg(test)]
    fn in_queues(ledger: Ledger) -> Arc<Store> {
        let mut queues = FdQueues::new().unwrap();
        queues.put_ledger(ledger.file().unwrap()).unwrap();
        let store = Store::of(Arc::new(ledger), Some(queues));
        store.keep_at_once();
        Arc::new(store)
    }

    /// What the next process gets from the store.
    #[cfg(test)]
    pub(crate) fn stored(&self) -> Vec<(String, OwnedFd)> {
        let queues = self.queues();
        let ends = queues.as_ref().unwrap().ends();
        let named = FdQueues::NAMES.into_iter().zip(ends);
        named
            .map(|(name, end)| (name.to_owned(), end.try_clone_to_owned().unwrap()))
            .collect()
    }

    /// From now on what is new is to be kept at once, so that it survives a crash as well.
    pub(crate) fn keep_at_once(&self) {
        self.is_at_once.store(true, Ordering::Relaxed);
    }

    /// Returns whether what is new is to be kept at once, and not only when the process is to stop.
    pub(crate) fn keeps_at_once(&self) -> bool {
        self.is_at_once.load(Ordering::Relaxed)
    }

    /// Leaves everything as it is from now on, for the next process.
    pub(crate) fn freeze(&self) {
        self.ledger.freeze();
    }

    /// Returns a word that belongs to no connection, and outlives the process.
    pub(crate) fn common(&self, number: usize) -> &AtomicU64 {
        self.ledger.common(number)
    }

    /// Returns an empty buffer whose bytes outlive the process.
    ///
    /// Errors: there is no memory for it.
    pub(crate) fn buffer(&self) -> Result<Box<Buffer>, Errno> {
        Buffer::new(&self.ledger)
    }

    fn put(&self, item: Item, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut queues = self.queues();
        let queues = queues.as_mut().ok_or(Errno::ENOTCONN)?;
        queues.put(item, descriptors, &self.ledger)
    }

    /// Says once that something could not be put in.
    pub(crate) fn report(&self, errno: Errno) {
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            let cause = errno.desc();
            log::warn!(
                "more is open than can be kept, so some connections would not survive a crash: {cause}"
            );
        }
    }

    fn queues(&self) -> MutexGuard<'_, Option<FdQueues>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inheritance_that_is_not_whole_is_refused() {
        let mut stored = Store::with_queues().stored();
        stored.pop();
        assert_eq!(
            Store::adopt(stored, usize::MAX).unwrap_err(),
            "not all of it is there"
        );
    }

    #[test]
    fn a_ledger_of_another_format_is_refused_and_its_connections_are_aborted() {
        use std::io::Read;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let store = Store::with_queues();
        let descriptors = [server.as_fd(), server.as_fd()];
        let _kept = store.keep(Kind::Connection, |_| {}, &descriptors).unwrap();
        drop(server);
        store.ledger.set_format(1);
        let problem = Store::adopt(store.stored(), usize::MAX).unwrap_err();
        assert!(
            problem.starts_with("its layout 1 is not known"),
            "{problem}"
        );
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn connections_that_wait_are_counted_once_and_stay() {
        let store = Store::with_queues();
        let (output, input) = nix::unistd::pipe().unwrap();
        let ends = [output.as_fd(), input.as_fd()];
        let keep = |kind, ends| store.keep(kind, |_| {}, ends).unwrap();
        // One that is connected meanwhile is in the queue as a peer, too, until its turn there comes.
        drop(keep(Kind::Peer, &ends[..1]));
        let _connected = keep(Kind::Connection, &ends);
        let _connecting = keep(Kind::Peer, &ends[..1]);
        drop(keep(Kind::Connection, &ends));
        for _ in 0..2 {
            assert_eq!(waiting(store.stored()), 2);
        }
        let (_, inherited) = Store::adopt(store.stored(), usize::MAX).unwrap();
        assert_eq!((inherited.connections.len(), inherited.peers.len()), (1, 1));
        assert_eq!(waiting(Vec::new()), 0);
    }

    #[test]
    fn what_is_put_in_twice_is_found_once() {
        let store = Store::with_queues();
        let (output, input) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&input, b"abc").unwrap();
        let ends = [output.as_fd(), input.as_fd()];
        let kept = store.keep(Kind::Pipe, |_| {}, &ends).unwrap();
        store.put(Item::Pipe(kept.ticket()), &ends).unwrap();
        let (_, inherited) = Store::adopt(store.stored(), usize::MAX).unwrap();
        assert_eq!(inherited.pipes.len(), 1);
    }
}
