//! Closes sockets that the queues of the store have as well.
//!
//! A close of ours ends a connection only if the queue gives its descriptors up. It does so from its front, so that is tried
//! once for all that are over at the end of a round; those that are not first are ended by a call of their own.

use super::end::End;
use crate::handover::{Kept, Store};
use crate::stream::Stream;

/// Sockets of a connection that is over.
#[derive(Debug)]
pub(crate) struct Closing {
    kept: Kept,
    ends: Vec<End<Stream>>,
    is_abort: bool,
}

impl Closing {
    /// Prepares the close.
    pub(crate) fn new(kept: Kept, ends: Vec<End<Stream>>, is_abort: bool) -> Closing {
        Closing {
            kept,
            ends,
            is_abort,
        }
    }
}

/// Closes all of them, so that their other ends see it.
pub(crate) fn close(store: &Store, closings: Vec<Closing>) {
    if closings.is_empty() {
        return;
    }
    let (kept, sockets): (Vec<Kept>, Vec<_>) = closings
        .into_iter()
        .map(|closing| (closing.kept, (closing.ends, closing.is_abort)))
        .unzip();
    for ((ends, is_abort), is_last) in sockets.into_iter().zip(store.release(kept)) {
        if !is_last {
            // An end that was sent need not be sent again.
            let due = ends.iter().filter(|end| is_abort || !end.is_finished);
            due.for_each(|end| end.wire.shut_down(is_abort));
        }
    }
}
