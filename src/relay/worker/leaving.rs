//! Sessions that leave a worker: for another thread, or for the next process.

use nix::errno::Errno;

use super::Worker;
use crate::accounting::Ending;
use crate::clock::Moment;
use crate::relay::connection::Connection;
use crate::relay::session::Session;
use crate::relay::token::Key;
use crate::stream::Stream;

impl Worker {
    /// Returns whether there are some that move bulk data. Those that nobody takes are found again when they move more.
    pub(crate) fn has_bulk(&self) -> bool {
        self.bulk.as_ref().is_some_and(|keys| !keys.is_empty())
    }

    /// Lets them stay where they are.
    pub(crate) fn leave_bulk(&mut self) {
        self.bulk.iter_mut().for_each(Vec::clear);
    }

    /// Takes those out that move bulk data.
    pub(crate) fn take_bulk(&mut self) -> Vec<Session> {
        let keys = self.bulk.as_mut().map(std::mem::take).unwrap_or_default();
        self.release_each(keys)
    }

    /// Returns the sessions that have moved bytes since then.
    pub(crate) fn busy(&self, since: Moment) -> Vec<Key> {
        let is_busy = |connection: &Connection<Stream>| connection.active() >= since;
        (self.sessions).keys_of(|session| session.connection().is_some_and(is_busy))
    }

    /// Returns how many bytes each session has moved.
    pub(crate) fn moved(&self) -> impl Iterator<Item = (Key, u64)> {
        self.sessions.iter_with_keys().filter_map(|(key, session)| {
            let (inbound, outbound) = session.connection()?.delivered_bytes();
            Some((key, inbound + outbound))
        })
    }

    /// Lets all sessions go.
    pub(crate) fn release_all(&mut self) -> Vec<Session> {
        let keys = self.sessions.keys_of(|_| true);
        self.release_each(keys)
    }

    /// Lets some sessions go.
    pub(crate) fn release_each(&mut self, keys: Vec<Key>) -> Vec<Session> {
        let sessions = keys.into_iter().filter_map(|key| self.release(key));
        sessions.collect()
    }

    /// Lets a session go, which nobody watches then.
    pub(crate) fn release(&mut self, key: Key) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        if let Some(connection) = session.connection() {
            let (peer, target) = connection.ends();
            let inputs = [&peer.wire, &target.wire].map(Stream::input).into_iter();
            for fd in inputs.chain(peer.wire.separate_output()) {
                // A file was never watched; nothing else can fail for a descriptor that is open.
                let _ = self.epoll.delete(fd);
            }
        }
        Some(session)
    }

    /// Makes sure that the next process has every session, with all that is to be known of it. Returns those that it will not
    /// have, which are closed, and why.
    pub(crate) fn keep_all(&mut self, now: Moment) -> Vec<(Key, Errno)> {
        let store = self.store().clone();
        let keep = |(key, session): (Key, &mut Session)| Some((key, session.keep(&store).err()?));
        let unkept: Vec<(Key, Errno)> = self.sessions.with_keys().filter_map(keep).collect();
        for (key, errno) in &unkept {
            self.close(*key, Ok(Ending::NotKept(*errno)), now);
        }
        self.close_kept();
        unkept
    }

    /// Closes the descriptors of all sessions, which another process has as well; no peer notices.
    pub(crate) fn forget_all(&mut self) {
        drop(self.sessions.drain());
    }

    pub(crate) fn sessions(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut()
    }
}
