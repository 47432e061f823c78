//! What another process has left in the store: found, counted and taken over, each connection by itself.
//!
//! There may be more in the boxes than this process may have open: the dead, and the living if the limit is a lower one
//! now. So the ledger is looked for first; then each item is judged as soon as it is seen, and what is not taken over is
//! closed before the next packet is looked at. Whatever is lost is aborted, so that nobody takes it for a clean end.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::boxes::Boxes;
use super::ledger::{Ledger, Owner, Table, Ticket};
use super::queue::{Found, Item};
use super::{Estate, Keeper, Slot};
use crate::{notify, sys};

/// Counts the connections that wait in the store, and leaves them there.
pub fn waiting(stored: Vec<(String, OwnedFd)>) -> usize {
    let Ok((mut boxes, Ok(ledger))) = open(stored) else {
        return 0;
    };
    let mut seen = HashSet::new();
    let count = boxes.look(|(item, _)| {
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
pub fn adopt(stored: Vec<(String, OwnedFd)>, room: usize) -> Result<(Keeper, Estate), String> {
    let (mut boxes, ledger) = open(stored)?;
    let salvaged = ledger.and_then(|ledger| {
        let ledger = Arc::new(ledger);
        let slots = Slot::salvage(&ledger).map_err(text)?;
        Ok((ledger, slots))
    });
    let (ledger, slots) = salvaged.inspect_err(|_| {
        let _ = boxes.look(|(_, descriptors)| abort(&descriptors));
    })?;
    let mut sorting = Sorting {
        ledger: &ledger,
        room,
        seen: HashSet::new(),
        robbed: HashSet::new(),
        estate: Estate {
            slots,
            ..Estate::default()
        },
    };
    let looked = boxes.look(|found| sorting.add(found));
    match looked {
        Ok(()) => sorting.forget_unseen(),
        Err(errno) => {
            let cause = errno.desc();
            log::warn!(
                "connections of the process before may be lost: they cannot be looked at: {cause}"
            );
        }
    }
    let estate = sorting.finish();
    boxes.settle(&ledger);
    Ok((Keeper::of(ledger, Some(boxes)), estate))
}

/// The boxes, and the ledger that is in them.
type Opened = (Boxes, Result<Ledger, String>);

fn open(mut stored: Vec<(String, OwnedFd)>) -> Result<Opened, String> {
    // The process before may have been killed when it had just begun.
    let count = stored.len();
    stored.retain(|(name, _)| name != notify::PROBE);
    if stored.len() < count {
        notify::forget(notify::PROBE);
    }
    let ends = Boxes::NAMES.map(|wanted| {
        let place = stored.iter().position(|(name, _)| name == wanted);
        place.map(|place| stored.swap_remove(place).1)
    });
    let [Some(a), Some(b), Some(c), Some(d)] = ends else {
        return Err("not all of it is there".to_owned());
    };
    let mut boxes = Boxes::of([a, b, c, d]);
    let mut file = None;
    let looked = boxes.look(|(item, descriptors)| {
        if item == Item::Ledger {
            file = descriptors.into_iter().next().or(file.take());
        }
    });
    let ledger = looked.map_err(text);
    let ledger = ledger.and_then(|()| file.ok_or_else(|| "the ledger is missing".to_owned()));
    Ok((boxes, ledger.and_then(Ledger::adopt)))
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
    /// What was being moved from one box to the other is in both.
    seen: HashSet<Item>,
    /// Connections whose bytes were in a pipe that is lost.
    robbed: HashSet<Ticket>,
    estate: Estate,
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
            return self.estate.connections.push((item, descriptors));
        };
        let owner = Owner::of(self.ledger.pipe_owner(ticket).load(Ordering::Acquire));
        let bytes_in = |output: &OwnedFd| sys::readable_bytes(output.as_fd()).unwrap_or(0);
        match descriptors.first().map_or(0, bytes_in) {
            0 => self.ledger.close(Table::Pipes, ticket),
            held_bytes => {
                self.room -= count;
                let pipe = (owner, held_bytes, (item, descriptors));
                self.estate.pipes.push(pipe);
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
                self.estate.lost += 1;
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
    fn finish(mut self) -> Estate {
        let connections = std::mem::take(&mut self.estate.connections);
        for (item, descriptors) in connections {
            match item {
                Item::Connection(ticket) if self.robbed.contains(&ticket) => {
                    self.lose(item, &descriptors);
                }
                _ => self.estate.connections.push((item, descriptors)),
            }
        }
        self.estate
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A kept connection between sockets of the test, and the client at its far end.
    fn keep(keeper: &Keeper, listener: &TcpListener) -> (Ticket, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let ticket = keeper.ledger().open(Table::Records).unwrap();
        keeper.ledger().publish(Table::Records, ticket);
        let descriptors = [server.as_fd(), server.as_fd()];
        let item = Item::Connection(ticket);
        keeper.put(item, &descriptors).unwrap();
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
        let keeper = Keeper::with_boxes();
        let clients: Vec<TcpStream> = (0..5).map(|_| keep(&keeper, &listener).1).collect();
        let (_, estate) = adopt(keeper.stored(), 6).unwrap();
        assert_eq!((estate.connections.len(), estate.lost), (3, 2));
        let reset = clients.iter().filter(|client| is_reset(client)).count();
        assert_eq!(reset, 2);
    }

    #[test]
    fn one_whose_bytes_were_in_a_pipe_that_is_lost_is_aborted() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let keeper = Keeper::with_boxes();
        let (robbed, client) = keep(&keeper, &listener);
        let (_, other) = keep(&keeper, &listener);
        let (output, input) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&input, b"abc").unwrap();
        let pipe = keeper.ledger().open(Table::Pipes).unwrap();
        let owner = Owner::flow(robbed, true).word();
        let word = keeper.ledger().pipe_owner(pipe);
        word.store(owner, Ordering::Release);
        keeper.ledger().publish(Table::Pipes, pipe);
        let ends = [output.as_fd(), input.as_fd()];
        keeper.put(Item::Pipe(pipe), &ends).unwrap();
        let (_, estate) = adopt(keeper.stored(), 5).unwrap();
        assert_eq!((estate.connections.len(), estate.lost), (1, 1));
        assert!(is_reset(&client) && !is_reset(&other));
    }

    #[test]
    fn what_was_written_down_and_not_put_in_leaves_its_place() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let keeper = Keeper::with_boxes();
        let _client = keep(&keeper, &listener);
        for table in [Table::Records, Table::Pipes] {
            let ticket = keeper.ledger().open(table).unwrap();
            keeper.ledger().publish(table, ticket);
        }
        let (next, estate) = adopt(keeper.stored(), usize::MAX).unwrap();
        assert_eq!(estate.connections.len(), 1);
        assert_eq!(next.ledger().live(Table::Records).len(), 1);
        assert_eq!(next.ledger().live(Table::Pipes), []);
    }

    #[test]
    fn the_dead_need_no_room() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let keeper = Keeper::with_boxes();
        let _first = keep(&keeper, &listener);
        for _ in 0..300 {
            let (ticket, _) = keep(&keeper, &listener);
            keeper.ledger().close(Table::Records, ticket);
        }
        let (_, estate) = adopt(keeper.stored(), 2).unwrap();
        assert_eq!((estate.connections.len(), estate.lost), (1, 0));
    }
}
