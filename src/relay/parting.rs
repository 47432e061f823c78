//! Closes sockets that the queues have as well.
//!
//! A close of ours ends a connection only if the queue gives its descriptors up. It does so from its front, so that is tried
//! once for all that are over at the end of a round; those that are not first are ended by a call of their own.

use super::wire::End;
use crate::handover::{Item, Store, Table};
use crate::stream::Stream;

/// Sockets of a connection that is over.
#[derive(Debug)]
pub struct Parting {
    item: Item,
    ends: Vec<End<Stream>>,
    is_abort: bool,
}

impl Parting {
    /// Prepares the close.
    pub fn new(item: Item, ends: Vec<End<Stream>>, is_abort: bool) -> Parting {
        Parting {
            item,
            ends,
            is_abort,
        }
    }
}

/// Closes all of them, so that their other ends see it.
pub fn close(store: &Store, partings: Vec<Parting>) {
    if partings.is_empty() {
        return;
    }
    let items: Vec<Item> = partings.iter().map(|parting| parting.item).collect();
    items.iter().for_each(|item| bury(store, *item));
    for (parting, is_ours) in partings.iter().zip(store.died(&items)) {
        if !is_ours {
            // An end that was sent need not be sent again.
            let is_due = |end: &&End<Stream>| parting.is_abort || !end.is_finished;
            let due = parting.ends.iter().filter(is_due);
            due.for_each(|end| end.wire.part(parting.is_abort));
        }
    }
}

/// Takes an item back whose descriptors go on.
pub fn forget(store: &Store, item: Item) {
    bury(store, item);
    store.died(&[item]);
}

fn bury(store: &Store, item: Item) {
    if let Item::Connection(ticket) | Item::Peer(ticket) = item {
        store.ledger().close(Table::Records, ticket);
    }
}
