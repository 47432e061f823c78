//! What another process has left in the store: found, counted and taken over, each connection by itself.
//!
//! There may be more in the queues than this process may have open: the dead, and the living if the limit is a lower one
//! now. So the ledger is looked for first; then each item is judged as soon as it is seen, and what is not taken over is
//! closed before the next packet is looked at. Whatever is lost is aborted, so that nobody takes it for a clean end.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::ledger::{Ledger, Owner, Table, Ticket};
use super::queue::{Found, Item};
use super::queues::FdQueues;
use super::{Buffer, Inherited, Kept, Store};
use crate::{notify, sys};

/// Counts the connections that wait in the store, and leaves them there.
pub(crate) fn waiting(stored: Vec<(String, OwnedFd)>) -> usize {
    let Ok((mut queues, Ok(ledger))) = open(stored) else {
        return 0;
    };
    let mut seen = HashSet::new();
    let count = queues.look(|(item, _)| {
        if let (Item::Connection(ticket) | Item::Peer(ticket), true) =
            (item, item.is_alive(&ledger))
        {
            seen.insert(ticket);
        }
    });
    count.map_or(0, |()| seen.len())
}

impl Store {
    /// Goes on with what another process has left in the store, under these names, with room for so many descriptors.
    ///
    /// Errors: why there is nothing to go on with; all of it is aborted and out of the store then.
    pub(crate) fn adopt(
        stored: Vec<(String, OwnedFd)>,
        room: usize,
    ) -> Result<(Arc<Store>, Inherited), String> {
        let adopted = adopt(stored, room);
        if adopted.is_err() {
            FdQueues::NAMES.into_iter().for_each(notify::forget);
        }
        adopted
    }
}

/// Takes over what there is room for, in descriptors.
///
/// Errors: why there is nothing to go on with; all of it is aborted then.
fn adopt(stored: Vec<(String, OwnedFd)>, room: usize) -> Result<(Arc<Store>, Inherited), String> {
    let (mut queues, ledger) = open(stored)?;
    let salvaged = ledger.and_then(|ledger| {
        let ledger = Arc::new(ledger);
        let buffers = Buffer::salvage(&ledger).map_err(text)?;
        Ok((ledger, buffers))
    });
    let (ledger, buffers) = salvaged.inspect_err(|_| {
        let _ = queues.look(|(_, descriptors)| abort(&descriptors));
    })?;
    let mut sorting = Sorting {
        ledger: &ledger,
        room,
        seen: HashSet::new(),
        robbed: HashSet::new(),
        found: Vec::new(),
        lost: 0,
    };
    match queues.look(|found| sorting.add(found)) {
        Ok(()) => sorting.forget_unseen(),
        Err(errno) => {
            let cause = errno.desc();
            log::warn!(
                "connections of the process before may be lost: they cannot be looked at: {cause}"
            );
        }
    }
    let (found, lost) = sorting.finish();
    queues.settle(&ledger);
    let store = Arc::new(Store::of(ledger, Some(queues)));
    let mut inherited = Inherited {
        buffers,
        lost,
        ..Inherited::default()
    };
    for (item, descriptors) in found {
        let list = match item {
            Item::Ledger => continue,
            Item::Connection(_) => &mut inherited.connections,
            Item::Peer(_) => &mut inherited.peers,
            Item::Pipe(_) => &mut inherited.pipes,
        };
        let kept = item.ticket().map(|ticket| Kept::adopt(&store, ticket));
        list.extend(kept.map(|kept| (kept, descriptors)));
    }
    Ok((store, inherited))
}

/// The queues, and the ledger that is in them.
type Opened = (FdQueues, Result<Ledger, String>);

fn open(mut stored: Vec<(String, OwnedFd)>) -> Result<Opened, String> {
    // The process before may have been killed when it had just begun.
    let count = stored.len();
    stored.retain(|(name, _)| name != notify::PROBE);
    if stored.len() < count {
        notify::forget(notify::PROBE);
    }
    let ends = FdQueues::NAMES.map(|wanted| {
        let place = stored.iter().position(|(name, _)| name == wanted);
        place.map(|place| stored.swap_remove(place).1)
    });
    let [Some(a), Some(b), Some(c), Some(d)] = ends else {
        return Err("not all of it is there".to_owned());
    };
    let mut queues = FdQueues::of([a, b, c, d]);
    let mut file = None;
    let looked = queues.look(|(item, descriptors)| {
        if item == Item::Ledger {
            file = descriptors.into_iter().next().or(file.take());
        }
    });
    let ledger = looked.map_err(text);
    let ledger = ledger.and_then(|()| file.ok_or_else(|| "the ledger is missing".to_owned()));
    Ok((queues, ledger.and_then(Ledger::adopt)))
}

fn text(errno: Errno) -> String {
    errno.desc().to_owned()
}

/// Ends connections at once; pipes, and sockets that are not TCP, have no other end than that of the last descriptor.
fn abort(descriptors: &[OwnedFd]) {
    for descriptor in descriptors {
        let _ = sys::disconnect(descriptor.as_fd());
    }
}

/// What was seen so far.
struct Sorting<'a> {
    ledger: &'a Ledger,
    /// For so many descriptors more.
    room: usize,
    /// What was being moved from one queue to the other is in both.
    seen: HashSet<Item>,
    /// Connections whose bytes were in a pipe that is lost.
    robbed: HashSet<Ticket>,
    /// What can be gone on with.
    found: Vec<Found>,
    /// Connections that were aborted.
    lost: usize,
}

impl Sorting<'_> {
    fn add(&mut self, (item, descriptors): Found) {
        if item == Item::Ledger || !item.is_alive(self.ledger) || self.seen.contains(&item) {
            return;
        }
        let count = descriptors.len();
        if count < item.descriptors() || count > self.room {
            return self.lose(item, &descriptors);
        }
        self.seen.insert(item);
        if let Item::Pipe(ticket) = item {
            let bytes_in = |output: &OwnedFd| sys::readable_bytes(output.as_fd()).unwrap_or(0);
            if descriptors.first().map_or(0, bytes_in) == 0 {
                return self.ledger.close(ticket);
            }
        }
        self.room -= count;
        self.found.push((item, descriptors));
    }

    fn lose(&mut self, item: Item, descriptors: &[OwnedFd]) {
        match item {
            Item::Ledger => return,
            Item::Pipe(ticket) => {
                let word = self.ledger.word(ticket, 0);
                let owner = Owner::of(word.load(Ordering::Acquire));
                self.robbed.extend(owner.ticket());
            }
            Item::Connection(_) | Item::Peer(_) => {
                abort(descriptors);
                self.lost += 1;
            }
        }
        item.ticket()
            .into_iter()
            .for_each(|ticket| self.ledger.close(ticket));
    }

    /// Frees the places of what was written down, and never put in: the process was killed between the two.
    fn forget_unseen(&mut self) {
        let seen: HashSet<Ticket> = self.seen.iter().filter_map(|item| item.ticket()).collect();
        let live = [Table::Records, Table::Pipes].map(|table| self.ledger.live(table));
        let unseen = live
            .iter()
            .flatten()
            .filter(|ticket| !seen.contains(ticket));
        unseen.for_each(|ticket| self.ledger.close(*ticket));
    }

    /// Returns what can go on whole, and how many connections were aborted.
    fn finish(mut self) -> (Vec<Found>, usize) {
        let found = std::mem::take(&mut self.found);
        let (robbed, whole): (Vec<Found>, Vec<Found>) = found.into_iter().partition(
            |(item, _)| matches!(item, Item::Connection(ticket) if self.robbed.contains(ticket)),
        );
        for (item, descriptors) in robbed {
            self.lose(item, &descriptors);
        }
        (whole, self.lost)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::handover::{Kind, Words};

    /// A kept connection between sockets of the test, and the client at its far end.
    fn keep(store: &Arc<Store>, listener: &TcpListener) -> (Kept, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let descriptors = [server.as_fd(), server.as_fd()];
        let kept = store.keep(Kind::Connection, |_| {}, &descriptors).unwrap();
        (kept, client)
    }

    fn is_reset(mut client: &TcpStream) -> bool {
        client.set_nonblocking(true).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        error.kind() == std::io::ErrorKind::ConnectionReset
    }

    #[test]
    fn those_that_there_is_no_room_for_are_aborted_and_the_others_go_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = Store::with_queues();
        let clients: Vec<_> = (0..5).map(|_| keep(&store, &listener)).collect();
        let (_, inherited) = adopt(store.stored(), 6).unwrap();
        assert_eq!((inherited.connections.len(), inherited.lost), (3, 2));
        let reset = clients
            .iter()
            .filter(|(_, client)| is_reset(client))
            .count();
        assert_eq!(reset, 2);
    }

    #[test]
    fn one_whose_bytes_were_in_a_pipe_that_is_lost_is_aborted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = Store::with_queues();
        let (robbed, client) = keep(&store, &listener);
        let (_goes_on, other) = keep(&store, &listener);
        let (output, input) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&input, b"abc").unwrap();
        let owner = robbed.words().flow(true).word();
        let ends = [output.as_fd(), input.as_fd()];
        let write = |words: Words<'_>| words.set(0, owner);
        let _pipe = store.keep(Kind::Pipe, write, &ends).unwrap();
        let (_, inherited) = adopt(store.stored(), 5).unwrap();
        assert_eq!((inherited.connections.len(), inherited.lost), (1, 1));
        assert!(is_reset(&client) && !is_reset(&other));
    }

    #[test]
    fn what_was_written_down_and_not_put_in_leaves_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = Store::with_queues();
        let _client = keep(&store, &listener);
        for table in [Table::Records, Table::Pipes] {
            let ticket = store.ledger.open(table).unwrap();
            store.ledger.publish(ticket);
        }
        let (next, inherited) = adopt(store.stored(), usize::MAX).unwrap();
        assert_eq!(inherited.connections.len(), 1);
        assert_eq!(next.ledger.live(Table::Records).len(), 1);
        assert_eq!(next.ledger.live(Table::Pipes), []);
    }

    #[test]
    fn the_dead_need_no_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = Store::with_queues();
        let _first = keep(&store, &listener);
        for _ in 0..300 {
            let (kept, _) = keep(&store, &listener);
            store.ledger.close(kept.ticket());
        }
        let (_, inherited) = adopt(store.stored(), 2).unwrap();
        assert_eq!((inherited.connections.len(), inherited.lost), (1, 0));
    }
}
