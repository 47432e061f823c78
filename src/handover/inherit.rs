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
use super::{Buffer, Inherited, Store};
use crate::{notify, sys};

/// Counts the connections that wait in the store, and leaves them there.
pub fn waiting(stored: Vec<(String, OwnedFd)>) -> usize {
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

/// Takes over what there is room for, in descriptors.
///
/// Errors: why there is nothing to go on with; all of it is aborted then.
pub fn adopt(stored: Vec<(String, OwnedFd)>, room: usize) -> Result<(Store, Inherited), String> {
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
        inherited: Inherited {
            buffers,
            ..Inherited::default()
        },
    };
    let looked = queues.look(|found| sorting.add(found));
    match looked {
        Ok(()) => sorting.forget_unseen(),
        Err(errno) => {
            let cause = errno.desc();
            log::warn!(
                "connections of the process before may be lost: they cannot be looked at: {cause}"
            );
        }
    }
    let inherited = sorting.finish();
    queues.settle(&ledger);
    Ok((Store::of(ledger, Some(queues)), inherited))
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
    inherited: Inherited,
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
        let Item::Pipe(ticket) = item else {
            self.room -= count;
            return self.inherited.connections.push((item, descriptors));
        };
        let owner = Owner::of(self.ledger.pipe_owner(ticket).load(Ordering::Acquire));
        let bytes_in = |output: &OwnedFd| sys::readable_bytes(output.as_fd()).unwrap_or(0);
        match descriptors.first().map_or(0, bytes_in) {
            0 => self.ledger.close(Table::Pipes, ticket),
            held_bytes => {
                self.room -= count;
                let pipe = (owner, held_bytes, (item, descriptors));
                self.inherited.pipes.push(pipe);
            }
        }
    }

    fn lose(&mut self, item: Item, descriptors: &[OwnedFd]) {
        match item {
            Item::Ledger => {}
            Item::Pipe(ticket) => {
                let owner = Owner::of(self.ledger.pipe_owner(ticket).load(Ordering::Acquire));
                self.robbed.extend(owner.ticket());
                self.ledger.close(Table::Pipes, ticket);
            }
            Item::Connection(ticket) | Item::Peer(ticket) => {
                abort(descriptors);
                self.inherited.lost += 1;
                self.ledger.close(Table::Records, ticket);
            }
        }
    }

    /// Frees the places of what was written down, and never put in: the process was killed between the two.
    fn forget_unseen(&mut self) {
        for ticket in self.ledger.live(Table::Records) {
            let items = [Item::Connection(ticket), Item::Peer(ticket)];
            if !items.iter().any(|item| self.seen.contains(item)) {
                self.ledger.close(Table::Records, ticket);
            }
        }
        for ticket in self.ledger.live(Table::Pipes) {
            if !self.seen.contains(&Item::Pipe(ticket)) {
                self.ledger.close(Table::Pipes, ticket);
            }
        }
    }

    /// Gives what can go on whole.
    fn finish(mut self) -> Inherited {
        let connections = std::mem::take(&mut self.inherited.connections);
        for (item, descriptors) in connections {
            match item {
                Item::Connection(ticket) if self.robbed.contains(&ticket) => {
                    self.lose(item, &descriptors);
                }
                _ => self.inherited.connections.push((item, descriptors)),
            }
        }
        self.inherited
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A kept connection between sockets of the test, and the client at its far end.
    fn keep(store: &Store, listener: &TcpListener) -> (Ticket, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let ticket = store.ledger().open(Table::Records).unwrap();
        store.ledger().publish(Table::Records, ticket);
        let descriptors = [server.as_fd(), server.as_fd()];
        let item = Item::Connection(ticket);
        store.put(item, &descriptors).unwrap();
        (ticket, client)
    }

    fn is_reset(mut client: &TcpStream) -> bool {
        client.set_nonblocking(true).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        error.kind() == std::io::ErrorKind::ConnectionReset
    }

    #[test]
    fn those_that_there_is_no_room_for_are_aborted_and_the_others_go_on() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let store = Store::with_queues();
        let clients: Vec<TcpStream> = (0..5).map(|_| keep(&store, &listener).1).collect();
        let (_, inherited) = adopt(store.stored(), 6).unwrap();
        assert_eq!((inherited.connections.len(), inherited.lost), (3, 2));
        let reset = clients.iter().filter(|client| is_reset(client)).count();
        assert_eq!(reset, 2);
    }

    #[test]
    fn one_whose_bytes_were_in_a_pipe_that_is_lost_is_aborted() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let store = Store::with_queues();
        let (robbed, client) = keep(&store, &listener);
        let (_, other) = keep(&store, &listener);
        let (output, input) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&input, b"abc").unwrap();
        let pipe = store.ledger().open(Table::Pipes).unwrap();
        let owner = Owner::flow(robbed, true).word();
        let word = store.ledger().pipe_owner(pipe);
        word.store(owner, Ordering::Release);
        store.ledger().publish(Table::Pipes, pipe);
        let ends = [output.as_fd(), input.as_fd()];
        store.put(Item::Pipe(pipe), &ends).unwrap();
        let (_, inherited) = adopt(store.stored(), 5).unwrap();
        assert_eq!((inherited.connections.len(), inherited.lost), (1, 1));
        assert!(is_reset(&client) && !is_reset(&other));
    }

    #[test]
    fn what_was_written_down_and_not_put_in_leaves_its_place() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let store = Store::with_queues();
        let _client = keep(&store, &listener);
        for table in [Table::Records, Table::Pipes] {
            let ticket = store.ledger().open(table).unwrap();
            store.ledger().publish(table, ticket);
        }
        let (next, inherited) = adopt(store.stored(), usize::MAX).unwrap();
        assert_eq!(inherited.connections.len(), 1);
        assert_eq!(next.ledger().live(Table::Records).len(), 1);
        assert_eq!(next.ledger().live(Table::Pipes), []);
    }

    #[test]
    fn the_dead_need_no_room() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let store = Store::with_queues();
        let _first = keep(&store, &listener);
        for _ in 0..300 {
            let (ticket, _) = keep(&store, &listener);
            store.ledger().close(Table::Records, ticket);
        }
        let (_, inherited) = adopt(store.stored(), 2).unwrap();
        assert_eq!((inherited.connections.len(), inherited.lost), (1, 0));
    }
}
