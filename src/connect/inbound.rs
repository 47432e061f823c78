//! Machines that the gateway of the host brings: how many connections each of them has.
//!
//! To the gate all of them are the host's, so that one of them could take the places of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::vsock::Cid;

/// What all connections of a bridge share that the gateway brings.
#[derive(Debug)]
pub(crate) struct Inbound {
    limit: usize,
    open: Mutex<HashMap<Cid, usize>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    inbound: Arc<Inbound>,
    cid: Cid,
}

impl Inbound {
    /// Begins with nobody. `limit`: connections of one machine.
    pub(crate) fn new(limit: usize) -> Inbound {
        Inbound {
            limit,
            open: Mutex::default(),
        }
    }

    /// Counts one more.
    ///
    /// Errors: [`Error::PeerFull`].
    pub(crate) fn enter(self: &Arc<Inbound>, cid: Cid) -> Result<Counted> {
        let mut open = self.open();
        let count = open.entry(cid).or_default();
        if *count >= self.limit {
            return Err(Error::PeerFull {
                cid,
                limit: self.limit,
            });
        }
        *count += 1;
        Ok(self.counted(cid))
    }

    /// Counts one that was let in by the process before this one.
    pub(crate) fn enter_again(self: &Arc<Inbound>, cid: Cid) -> Counted {
        *self.open().entry(cid).or_default() += 1;
        self.counted(cid)
    }

    /// Returns who has connections, and how many.
    pub(crate) fn machines(&self) -> Vec<(Cid, usize)> {
        let open = self.open();
        open.iter().map(|(cid, count)| (*cid, *count)).collect()
    }

    fn counted(self: &Arc<Inbound>, cid: Cid) -> Counted {
        Counted {
            inbound: self.clone(),
            cid,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Cid, usize>> {
        // Whoever panicked has left nothing half done in it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.inbound.open();
        if let Some(count) = open.get_mut(&self.cid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.cid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_has_places_of_its_own_and_none_is_left_behind() {
        let inbound = Arc::new(Inbound::new(2));
        let (web, db) = (Cid::new(3).unwrap(), Cid::new(4).unwrap());
        let first = inbound.enter(web).unwrap();
        let _second = inbound.enter(web).unwrap();
        let error = inbound.enter(web).unwrap_err().report();
        assert!(error.contains("--max-connections-per-peer=2"), "{error}");
        drop(inbound.enter(db).unwrap());
        drop(first);
        let _third = inbound.enter(web).unwrap();
        assert_eq!(inbound.machines(), [(web, 2)]);
        // Over the limit, since it is there.
        let again = inbound.enter_again(web);
        assert_eq!(inbound.machines(), [(web, 3)]);
        drop(again);
        assert_eq!(inbound.machines(), [(web, 2)]);
    }
}
