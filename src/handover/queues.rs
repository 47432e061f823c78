//! Descriptors in systemd's store: two sockets whose queues hold them (SCM_RIGHTS, unix(7)).
//!
//! systemd compares each new descriptor with all that it has, so thousands of them would block it for minutes. It gets
//! the two ends of each socket pair instead, and what is put into the queue afterwards it never sees.
//!
//! A queue gives and forgets only what is first in it. New items go one by one into the young queue, where most of them are
//! dead before they come to the front; those that live longer are moved together, dozens in a packet, into the old
//! queue, which is gone round when most of it is dead. An item is always put in anew before it is taken out.
//!
//! With 2 000 connections open and 20 000 that came and went, 80 items were moved in 3 packets; with one queue 18 288 in 576
//! packets, in 2.4 times the time (a debug build, beside other load).

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::ledger::{Ledger, Ticket};
use super::queue::{FdQueue, Found, Item, Packet};

/// Packets in the young queue, of a few hundred that it has room for even with the smallest net.core.wmem_max.
const YOUNG_PACKETS: usize = 128;
/// Dead items that are not yet worth a round through the old queue, which moves all that live in it.
const OLD_DEAD: usize = 512;

/// Both queues.
#[derive(Debug)]
pub(super) struct FdQueues {
    young: FdQueue,
    old: FdQueue,
    /// Dead items in the old queue, about.
    old_dead: usize,
    /// Packets in the young queue at which it is tidied up.
    tidy_at: usize,
    /// Dead items that there may be, as they count against the limit of descriptors in flight.
    dead_max: usize,
}

impl FdQueues {
    /// The names that [`FdQueues::ends`] have in the store.
    pub(super) const NAMES: [&str; 4] = [
        "handover-young-in",
        "handover-young-out",
        "handover-old-in",
        "handover-old-out",
    ];

    /// Begins with empty ones.
    pub(super) fn new() -> Result<FdQueues, Errno> {
        Ok(FdQueues {
            young: FdQueue::new()?,
            old: FdQueue::new()?,
            old_dead: 0,
            tidy_at: YOUNG_PACKETS,
            dead_max: usize::MAX,
        })
    }

    /// Keeps no more dead items than so many.
    pub(super) fn limit_dead(&mut self, dead_max: usize) {
        self.dead_max = dead_max;
        self.tidy_at = self.young_max();
    }

    /// Packets that come into the young queue between two times that it is tidied up.
    fn young_max(&self) -> usize {
        YOUNG_PACKETS.min(self.dead_max / 2).max(1)
    }

    /// Returns what is to be stored, in the order of the names.
    pub(super) fn ends(&self) -> [BorrowedFd<'_>; 4] {
        [
            &self.young.input,
            &self.young.output,
            &self.old.input,
            &self.old.output,
        ]
        .map(AsFd::as_fd)
    }

    /// Goes on with those of another process.
    pub(super) fn of(ends: [OwnedFd; 4]) -> FdQueues {
        let [young_in, young_out, old_in, old_out] = ends;
        FdQueues {
            young: FdQueue::of(young_in, young_out),
            old: FdQueue::of(old_in, old_out),
            old_dead: 0,
            tidy_at: YOUNG_PACKETS,
            dead_max: usize::MAX,
        }
    }

    /// Looks at all that is in them; see [`FdQueue::look`].
    pub(super) fn look(&mut self, mut see: impl FnMut(Found)) -> Result<(), Errno> {
        self.old.look(&mut see)?;
        self.young.look(see)
    }

    /// Learns from the ledger of another process what is dead already, and forgets what can be forgotten.
    pub(super) fn settle(&mut self, ledger: &Ledger) {
        self.release(&[], ledger);
        let items = self.old.packets.iter().flat_map(Packet::items);
        self.old_dead = items.filter(|item| !item.is_alive(ledger)).count();
    }

    /// Puts the ledger in, which never dies.
    pub(super) fn put_ledger(&mut self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.old.put(&[Item::Ledger], &[file])
    }

    /// Puts an item in.
    ///
    /// Errors: `EAGAIN` when the queue is full; `ETOOMANYREFS` when there is more in queues of this user than RLIMIT_NOFILE
    /// allows to be open.
    pub(super) fn put(
        &mut self,
        item: Item,
        descriptors: &[BorrowedFd<'_>],
        ledger: &Ledger,
    ) -> Result<(), Errno> {
        if self.young.packets.len() >= self.tidy_at {
            self.tidy_if_possible(ledger);
        }
        match self.young.put(&[item], descriptors) {
            // Others of this user have used up what it may have in flight; the dead need none of it.
            Err(Errno::ETOOMANYREFS) => {
                self.old_dead = usize::MAX;
                self.tidy_if_possible(ledger);
                self.young.put(&[item], descriptors)
            }
            result => result,
        }
    }

    /// Tidies up; the young queue may have room though the old one has not, or nothing can be looked at now.
    fn tidy_if_possible(&mut self, ledger: &Ledger) {
        let _ = self.tidy(ledger);
        self.tidy_at = self.young.packets.len() + self.young_max();
    }

    /// Forgets what is dead in front; of each of these uses that are over returns whether its descriptors are out, so that a
    /// close of ours is the last one.
    pub(super) fn release(&mut self, tickets: &[Ticket], ledger: &Ledger) -> Vec<bool> {
        let dropped = [self.young.drop_dead(ledger), self.old.drop_dead(ledger)].concat();
        let out: HashSet<Ticket> = dropped.into_iter().filter_map(Item::ticket).collect();
        let is_out: Vec<bool> = tickets.iter().map(|ticket| out.contains(ticket)).collect();
        // Some of them are behind others in the young queue, from where they are dropped in time: then the old queue is gone
        // round too early, which costs little.
        let behind = is_out.iter().filter(|is_out| !**is_out).count();
        self.old_dead = self.old_dead.saturating_add(behind);
        is_out
    }

    /// Moves what has lived on into the old queue, and goes round that if it is worth it.
    ///
    /// Nothing can be taken out of the middle of a queue, only looked at (MSG_PEEK with SO_PEEK_OFF, unix(7)), which makes
    /// new descriptors of the same sockets. So what lives is put in once more, behind, and only then the front is dropped:
    /// a process that is killed between the two leaves it twice, and the next one takes the first that it sees.
    fn tidy(&mut self, ledger: &Ledger) -> Result<(), Errno> {
        self.young.drop_dead(ledger);
        while !self.young.packets.is_empty() {
            let (living, packets) = self.young.gather(ledger)?;
            self.old.put_all(&living)?;
            self.young.drop(packets);
            self.young.drop_dead(ledger);
        }
        let items: usize = self
            .old
            .packets
            .iter()
            .map(|packet| packet.items().len())
            .sum();
        if self.old_dead > OLD_DEAD.max(items / 2).min(self.dead_max / 2) {
            self.go_round(ledger)?;
        }
        Ok(())
    }

    /// Puts in anew what lives in the old queue, behind what is in it now.
    fn go_round(&mut self, ledger: &Ledger) -> Result<(), Errno> {
        self.old_dead = 0;
        let mut left = self.old.packets.len();
        while left > 0 {
            let before = self.old.packets.len();
            self.old.drop_dead(ledger);
            left = left.saturating_sub(before - self.old.packets.len());
            let (living, packets) = self.old.gather(ledger)?;
            self.old.put_all(&living)?;
            self.old.drop(packets);
            left = left.saturating_sub(packets);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::handover::ledger::Table;
    use nix::unistd::{pipe, read, write};

    /// A connection whose descriptors are two ends of pipes; the third is the far end of the first.
    fn connection(ledger: &Ledger) -> (Ticket, OwnedFd, OwnedFd, OwnedFd) {
        let ticket = ledger.open(Table::Records).unwrap();
        ledger.publish(ticket);
        let (far, near) = pipe().unwrap();
        let (other, _) = pipe().unwrap();
        (ticket, near, other, far)
    }

    /// What another process would find alive.
    fn found(queues: &FdQueues, ledger: &Ledger) -> Vec<Found> {
        let ends = queues.ends().map(|end| end.try_clone_to_owned().unwrap());
        let mut found = Vec::new();
        let see = |seen: Found| found.extend(seen.0.is_alive(ledger).then_some(seen));
        FdQueues::of(ends).look(see).unwrap();
        found
    }

    #[test]
    fn an_item_is_found_until_it_dies_and_then_closed() {
        let (ledger, mut queues) = (Ledger::private().unwrap(), FdQueues::new().unwrap());
        let (ticket, near, other, far) = connection(&ledger);
        let item = Item::Connection(ticket);
        queues
            .put(item, &[near.as_fd(), other.as_fd()], &ledger)
            .unwrap();
        drop(near);
        let mut there = found(&queues, &ledger);
        assert_eq!((there.len(), there[0].0, there[0].1.len()), (1, item, 2));
        write(&there[0].1[0], b"x").unwrap();
        there.clear();
        ledger.close(ticket);
        assert_eq!(queues.release(&[ticket], &ledger), [true]);
        assert_eq!(read(&far, &mut [0; 2]), Ok(1));
        assert_eq!(read(&far, &mut [0; 2]), Ok(0));
    }

    #[test]
    fn thousands_come_and_go_and_the_living_are_all_found() {
        let (ledger, mut queues) = (Ledger::private().unwrap(), FdQueues::new().unwrap());
        let mut living: VecDeque<(Ticket, OwnedFd)> = VecDeque::new();
        for number in 0..5000u32 {
            let (ticket, near, other, far) = connection(&ledger);
            let descriptors = [near.as_fd(), other.as_fd()];
            queues
                .put(Item::Connection(ticket), &descriptors, &ledger)
                .unwrap();
            living.push_back((ticket, far));
            // The first stay; of the others nine of ten go at once, and the tenth when there are 300.
            let gone = match number {
                0..200 => None,
                _ if number % 10 > 0 => living.pop_back(),
                _ if living.len() > 300 => living.remove(250),
                _ => None,
            };
            if let Some((ticket, _)) = gone {
                ledger.close(ticket);
                queues.release(&[ticket], &ledger);
            }
        }
        let there = found(&queues, &ledger);
        for (ticket, _) in &living {
            let item = Item::Connection(*ticket);
            assert!(there.iter().any(|(found, _)| *found == item), "{ticket:?}");
        }
        assert_eq!(there.len(), living.len());
        let packets = queues.young.packets.len() + queues.old.packets.len();
        assert!(packets < 2 * YOUNG_PACKETS, "{packets} packets");
    }

    #[test]
    fn the_dead_in_the_old_queue_make_room() {
        let (ledger, mut queues) = (Ledger::private().unwrap(), FdQueues::new().unwrap());
        for _ in 0..30 {
            let mut tickets = Vec::new();
            for _ in 0..300 {
                let (ticket, near, other, _) = connection(&ledger);
                let descriptors = [near.as_fd(), other.as_fd()];
                queues
                    .put(Item::Connection(ticket), &descriptors, &ledger)
                    .unwrap();
                tickets.push(ticket);
            }
            // The first of each three hundred stays: every packet has a living one.
            for ticket in tickets.into_iter().skip(1) {
                ledger.close(ticket);
                queues.release(&[ticket], &ledger);
            }
        }
        assert_eq!(found(&queues, &ledger).len(), 30);
        let items: usize = queues
            .old
            .packets
            .iter()
            .map(|packet| packet.items().len())
            .sum();
        assert!(items < 4 * OLD_DEAD, "{items} items");
    }
}
