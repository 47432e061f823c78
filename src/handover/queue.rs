//! Descriptors in the queue of a socket (SCM_RIGHTS, unix(7)), and what they belong to.
//!
//! A queue gives and forgets only what is first in it; all of it can be looked at.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

use super::ledger::{Ledger, Table, Ticket};
use crate::descriptors::PACKET_DESCRIPTORS;
use crate::sys;

/// What is asked for a queue; the kernel gives at most twice net.core.wmem_max.
const QUEUE_BYTES: usize = 8 << 20;

/// What descriptors in a queue belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// The file of the ledger.
    Ledger,
    /// A connection: its peer and its target.
    Connection(Ticket),
    /// A peer whose target is still being connected.
    Peer(Ticket),
    /// A pipe: the end that bytes come out of, and the one that they are put into.
    Pipe(Ticket),
}

impl Item {
    fn bytes(self) -> [u8; 8] {
        let (kind, ticket) = match self {
            Item::Ledger => return [0; 8],
            Item::Connection(ticket) => (1, ticket),
            Item::Peer(ticket) => (2, ticket),
            Item::Pipe(ticket) => (3, ticket),
        };
        let place = u64::from(ticket.index()) << 32 | u64::from(ticket.generation().get());
        (kind << 62 | place).to_le_bytes()
    }

    fn of(bytes: [u8; 8]) -> Item {
        let word = u64::from_le_bytes(bytes);
        let Some(generation) = NonZeroU32::new(word as u32) else {
            return Item::Ledger;
        };
        let ticket = |table| Ticket::new(table, (word >> 32) as u32 & (u32::MAX >> 2), generation);
        match word >> 62 {
            1 => Item::Connection(ticket(Table::Records)),
            2 => Item::Peer(ticket(Table::Records)),
            _ => Item::Pipe(ticket(Table::Pipes)),
        }
    }

    /// How many descriptors it has.
    pub(super) fn descriptors(self) -> usize {
        match self {
            Item::Ledger | Item::Peer(_) => 1,
            Item::Connection(_) | Item::Pipe(_) => 2,
        }
    }

    /// Returns its use of the ledger, if it is not that itself.
    pub(super) fn ticket(self) -> Option<Ticket> {
        match self {
            Item::Ledger => None,
            Item::Connection(ticket) | Item::Peer(ticket) | Item::Pipe(ticket) => Some(ticket),
        }
    }

    /// Returns whether it is still of use.
    pub(super) fn is_alive(self, ledger: &Ledger) -> bool {
        self.ticket().is_none_or(|ticket| ledger.is_live(ticket))
    }
}

/// An item with its descriptors, as another process put it in.
pub(super) type Found = (Item, Vec<OwnedFd>);

/// The two ends of a socket pair, and what is in its queue.
#[derive(Debug)]
pub(super) struct FdQueue {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub packets: VecDeque<Packet>,
}

/// Items that were put in at once. Those before `first` are dead, and stay so.
#[derive(Debug)]
pub(super) struct Packet {
    items: Items,
    first: u16,
}

#[derive(Debug)]
enum Items {
    One(Item),
    Many(Box<[Item]>),
}

impl Packet {
    fn new(items: &[Item]) -> Packet {
        let items = match items {
            [item] => Items::One(*item),
            items => Items::Many(items.into()),
        };
        Packet { items, first: 0 }
    }

    pub(super) fn items(&self) -> &[Item] {
        match &self.items {
            Items::One(item) => std::slice::from_ref(item),
            Items::Many(items) => items,
        }
    }

    fn is_dead(&mut self, ledger: &Ledger) -> bool {
        let left = self.items()[usize::from(self.first)..].iter();
        let dead = left.take_while(|item| !item.is_alive(ledger)).count();
        self.first += dead as u16;
        usize::from(self.first) == self.items().len()
    }
}

impl FdQueue {
    pub(super) fn new() -> Result<FdQueue, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (input, output) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // A smaller queue holds fewer items.
        let _ = setsockopt(&input, sockopt::SndBuf, &QUEUE_BYTES);
        Ok(FdQueue {
            input,
            output,
            packets: VecDeque::new(),
        })
    }

    /// Goes on with the queue of another process, of which [`FdQueue::look`] learns what is in it.
    pub(super) fn of(input: OwnedFd, output: OwnedFd) -> FdQueue {
        FdQueue {
            input,
            output,
            packets: VecDeque::new(),
        }
    }

    /// Looks at all that another process has put in; it stays in. Each item comes with those of its descriptors that there
    /// was room for, and they are open only as long as `see` keeps them: so no more room is needed than for one packet.
    pub(super) fn look(&mut self, mut see: impl FnMut(Found)) -> Result<(), Errno> {
        self.packets.clear();
        sys::peek_from_start(self.output.as_fd())?;
        loop {
            match sys::peek_packet(self.output.as_fd()) {
                Ok((bytes, descriptors)) => {
                    let words = bytes.chunks_exact(8);
                    let items: Vec<Item> = words
                        .filter_map(|word| Some(Item::of(word.try_into().ok()?)))
                        .collect();
                    self.packets.push_back(Packet::new(&items));
                    split(&items, descriptors).into_iter().for_each(&mut see);
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    pub(super) fn put(
        &mut self,
        items: &[Item],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let bytes: Vec<u8> = items.iter().flat_map(|item| item.bytes()).collect();
        sys::send_packet(self.input.as_fd(), &bytes, descriptors)?;
        self.packets.push_back(Packet::new(items));
        Ok(())
    }

    /// Takes dead packets out, as far as they are first; gives what was in them.
    pub(super) fn drop_dead(&mut self, ledger: &Ledger) -> Vec<Item> {
        let mut dropped = Vec::new();
        while let Some(packet) = self.packets.front_mut() {
            if !packet.is_dead(ledger) {
                break;
            }
            dropped.extend(packet.items());
            self.drop_first();
        }
        dropped
    }

    fn drop_first(&mut self) {
        self.packets.pop_front();
        // What is not in the queue cannot be taken out of it.
        let _ = sys::drop_packet(self.output.as_fd());
    }

    pub(super) fn put_all(&mut self, found: &[Found]) -> Result<(), Errno> {
        if found.is_empty() {
            return Ok(());
        }
        let items: Vec<Item> = found.iter().map(|(item, _)| *item).collect();
        let descriptors = found
            .iter()
            .flat_map(|(_, owned)| owned.iter().map(AsFd::as_fd));
        self.put(&items, &descriptors.collect::<Vec<_>>())
    }

    pub(super) fn drop(&mut self, packets: usize) {
        (0..packets).for_each(|_| self.drop_first());
    }

    /// Looks at living items at the front, as many as go into one packet, and tells how many packets they are in.
    ///
    /// Errors: `EMFILE` when there is no room for their descriptors.
    pub(super) fn gather(&mut self, ledger: &Ledger) -> Result<(Vec<Found>, usize), Errno> {
        sys::peek_from_start(self.output.as_fd())?;
        let (mut living, mut packets, mut descriptors) = (Vec::new(), 0, 0);
        for packet in &mut self.packets {
            let more = 2 * packet.items().len();
            if packet.is_dead(ledger) || packets > 0 && descriptors + more > PACKET_DESCRIPTORS {
                break;
            }
            let (_, owned) = sys::peek_packet(self.output.as_fd())?;
            for (item, owned) in split(packet.items(), owned) {
                match item.is_alive(ledger) {
                    true if owned.len() < item.descriptors() => return Err(Errno::EMFILE),
                    true => living.push((item, owned)),
                    false => {}
                }
            }
            (packets, descriptors) = (packets + 1, descriptors + more);
        }
        Ok((living, packets))
    }
}

/// Returns each item its descriptors.
fn split(items: &[Item], descriptors: Vec<OwnedFd>) -> Vec<Found> {
    let mut descriptors = descriptors.into_iter();
    let own = |item: &Item| {
        (
            *item,
            descriptors.by_ref().take(item.descriptors()).collect(),
        )
    };
    items.iter().map(own).collect()
}
