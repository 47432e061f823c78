//! All sessions of a loop: their table, their deadlines, and the ring of those that yielded.

use std::collections::VecDeque;

use slab::Slab;

use super::connection::Limits;
use super::session::Session;
use super::timers::Timers;
use super::token::Key;

use crate::clock::Moment;

/// The table; a key finds a session until it is removed, and never its successor.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Slab<(u32, Session)>,
    serial: u32,
    timers: Timers<Key>,
    yielded: VecDeque<Key>,
}

impl Sessions {
    /// Tells how many there are.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// Gives the key that the next session will get.
    pub fn next_key(&self) -> Key {
        Key::new(self.table.vacant_key(), self.serial)
    }

    /// Adds a session under [`Sessions::next_key`].
    pub fn insert(&mut self, session: Session) -> Key {
        let key = self.next_key();
        self.serial = self.serial.wrapping_add(1);
        self.table.insert((key.serial, session));
        key
    }

    /// Finds a session.
    pub fn get(&mut self, key: Key) -> Option<&mut Session> {
        let (serial, session) = self.table.get_mut(key.index as usize)?;
        (*serial == key.serial).then_some(session)
    }

    /// Takes a session out.
    pub fn remove(&mut self, key: Key) -> Option<Session> {
        self.get(key)?;
        Some(self.table.remove(key.index as usize).1)
    }

    /// Goes through all.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.table.iter().map(|(_, (_, session))| session)
    }

    /// Goes through all.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.table.iter_mut().map(|(_, (_, session))| session)
    }

    /// Gives the keys of those that are meant.
    pub fn keys_of(&self, is_meant: impl Fn(&Session) -> bool) -> Vec<Key> {
        let meant = self
            .table
            .iter()
            .filter(|(_, (_, session))| is_meant(session));
        meant
            .map(|(index, (serial, _))| Key::new(index, *serial))
            .collect()
    }

    /// Takes all out.
    pub fn drain(&mut self) -> impl Iterator<Item = Session> {
        self.table.drain().map(|(_, session)| session)
    }

    /// Puts a session at the end of the ring, unless it is in it.
    pub fn queue(&mut self, key: Key) {
        if let Some(session) = self.get(key).filter(|session| !session.is_queued) {
            session.is_queued = true;
            self.yielded.push_back(key);
        }
    }

    /// Tells how many are in the ring.
    pub fn queued(&self) -> usize {
        self.yielded.len()
    }

    /// Takes the first out of the ring.
    pub fn unqueue(&mut self) -> Option<Key> {
        let key = self.yielded.pop_front()?;
        if let Some(session) = self.get(key) {
            session.is_queued = false;
        }
        Some(key)
    }

    /// Wakes the session at its deadline, if it has one.
    pub fn arm(&mut self, key: Key, limits: &Limits) {
        if let Some(at) = self.get(key).and_then(|session| session.deadline(limits)) {
            self.timers.arm(at, key);
        }
    }

    /// Gives the earliest deadline.
    pub fn deadline(&self) -> Option<Moment> {
        self.timers.next()
    }

    /// Takes a session whose deadline may have passed.
    pub fn woken(&mut self, now: Moment) -> Option<Key> {
        self.timers.expired(now)
    }
}
