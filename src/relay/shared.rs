//! What all connections of a thread share: one buffer, pipes, and the store that outlives the process.

use std::sync::Arc;

use nix::errno::Errno;

use super::pipes::{Pipe, Pool};
use crate::handover::{Buffer, Owner, Store};

/// The means to move bytes of one connection after the other.
#[derive(Debug)]
pub(crate) struct Shared {
    store: Arc<Store>,
    /// The buffer that bytes are copied through, while no flow holds it.
    buffer: Option<Box<Buffer>>,
    pool: Pool,
}

impl Shared {
    pub(crate) fn new(store: Arc<Store>) -> Shared {
        Shared {
            store,
            buffer: None,
            pool: Pool::default(),
        }
    }

    /// Returns what keeps connections for the next process.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Returns an empty buffer, which the next process takes for that flow's.
    pub(crate) fn take_buffer(&mut self, owner: Owner) -> Result<Box<Buffer>, Errno> {
        let mut buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => self.store.buffer()?,
        };
        buffer.clear(owner);
        Ok(buffer)
    }

    /// Takes a buffer back, and with it what nobody wants any more.
    pub(crate) fn give_buffer(&mut self, mut buffer: Box<Buffer>) {
        if buffer.held_bytes() > 0 {
            buffer.clear(Owner::NOBODY);
        }
        self.buffer.get_or_insert(buffer);
    }

    /// Returns an empty pipe, which the next process takes for that flow's; none when there is none to be had.
    pub(crate) fn take_pipe(&mut self, owner: Owner) -> Option<Box<Pipe>> {
        let mut pipe = self.pool.take(&self.store)?;
        // The next process would go on with the connection, without what is in a pipe that it does not find.
        if owner != Owner::NOBODY && pipe.keep().is_err() {
            self.pool.give_back(pipe);
            return None;
        }
        pipe.set_owner(owner);
        Some(pipe)
    }
}
