//! All sessions of a loop: their table, their deadlines, and the ring of those that yielded.
//!
//! A session has one deadline at most, which is never late: one that comes nearer is set anew, and one that moved away,
//! as it does with each byte, costs nothing before it has passed and its session is asked again.

use std::collections::{BTreeSet, VecDeque};

use slab::Slab;

use super::connection::Limits;
use super::session::Session;
use super::token::Key;
use crate::clock::Moment;

/// The table; a key finds a session until it is removed, and never its successor.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Slab<Place>,
    serial: u32,
    /// What [`Place::armed`] says, earliest first.
    deadlines: BTreeSet<(Moment, Key)>,
    yielded: VecDeque<Key>,
}

#[derive(Debug)]
struct Place {
    serial: u32,
    /// When the session is woken.
    armed: Option<Moment>,
    session: Session,
}

impl Sessions {
    pub(crate) fn count(&self) -> usize {
        self.table.len()
    }

    /// Returns the key that the next session will get.
    pub(crate) fn next_key(&self) -> Key {
        Key::new(self.table.vacant_key(), self.serial)
    }

    /// Adds a session under [`Sessions::next_key`].
    pub(crate) fn insert(&mut self, session: Session) -> Key {
        let key = self.next_key();
        self.serial = self.serial.wrapping_add(1);
        self.table.insert(Place {
            serial: key.serial,
            armed: None,
            session,
        });
        key
    }

    fn place(&mut self, key: Key) -> Option<&mut Place> {
        let place = self.table.get_mut(key.index as usize)?;
        (place.serial == key.serial).then_some(place)
    }

    pub(crate) fn get(&mut self, key: Key) -> Option<&mut Session> {
        self.place(key).map(|place| &mut place.session)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Session> {
        let armed = self.place(key)?.armed;
        self.disarm(armed, key);
        Some(self.table.remove(key.index as usize).session)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.table.iter().map(|(_, place)| &place.session)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.table.iter_mut().map(|(_, place)| &mut place.session)
    }

    pub(crate) fn iter_with_keys(&self) -> impl Iterator<Item = (Key, &Session)> {
        let places = self.table.iter();
        places.map(|(index, place)| (Key::new(index, place.serial), &place.session))
    }

    pub(crate) fn with_keys(&mut self) -> impl Iterator<Item = (Key, &mut Session)> {
        let places = self.table.iter_mut();
        places.map(|(index, place)| (Key::new(index, place.serial), &mut place.session))
    }

    /// Returns the keys of those that are meant.
    pub(crate) fn keys_of(&self, is_meant: impl Fn(&Session) -> bool) -> Vec<Key> {
        let meant = (self.iter_with_keys()).filter(|(_, session)| is_meant(session));
        meant.map(|(key, _)| key).collect()
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Session> {
        self.deadlines.clear();
        self.table.drain().map(|place| place.session)
    }

    /// Puts a session at the end of the ring, unless it is in it.
    pub(crate) fn queue(&mut self, key: Key) {
        if let Some(session) = self.get(key).filter(|session| !session.is_queued) {
            session.is_queued = true;
            self.yielded.push_back(key);
        }
    }

    /// Returns how many are in the ring.
    pub(crate) fn queued(&self) -> usize {
        self.yielded.len()
    }

    pub(crate) fn unqueue(&mut self) -> Option<Key> {
        let key = self.yielded.pop_front()?;
        if let Some(session) = self.get(key) {
            session.is_queued = false;
        }
        Some(key)
    }

    /// Sees to it that the session is woken at its deadline, if it has one.
    pub(crate) fn arm(&mut self, key: Key, limits: &Limits) {
        let Some(place) = self.place(key) else {
            return;
        };
        let Some(deadline) = place.session.deadline(limits) else {
            return;
        };
        if place.armed.is_none_or(|armed| deadline < armed) {
            let armed = place.armed.replace(deadline);
            self.disarm(armed, key);
            self.deadlines.insert((deadline, key));
        }
    }

    fn disarm(&mut self, armed: Option<Moment>, key: Key) {
        if let Some(at) = armed {
            self.deadlines.remove(&(at, key));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes the session whose deadline passed first, to be armed again if it goes on.
    pub(crate) fn woken(&mut self, now: Moment) -> Option<Key> {
        if self.deadline()? > now {
            return None;
        }
        let (_, key) = self.deadlines.pop_first()?;
        if let Some(place) = self.place(key) {
            place.armed = None;
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::peer::{Family, Peer};
    use crate::stream::Stream;

    fn session(now: Moment) -> Session {
        let (one, other) = UnixStream::pair().unwrap();
        let stream = |own: UnixStream| Stream::passed(own.into(), Family::Unix).unwrap();
        Session::relay(stream(one), Peer::Unix(None), stream(other), now)
    }

    fn idle(ms: u64) -> Limits {
        Limits {
            idle: Some(Duration::from_millis(ms)),
            half_close: None,
        }
    }

    #[test]
    fn deadlines_pass_in_order_and_not_before_their_time() {
        let start = Moment::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut sessions = Sessions::default();
        let keys = [30, 10, 20].map(|ms| {
            let key = sessions.insert(session(start));
            sessions.arm(key, &idle(ms));
            key
        });
        assert_eq!(sessions.deadline(), Some(at(10)));
        assert_eq!(sessions.woken(at(9)), None);
        assert_eq!(sessions.woken(at(20)), Some(keys[1]));
        assert_eq!(sessions.woken(at(20)), Some(keys[2]));
        assert_eq!(sessions.woken(at(20)), None);
    }

    #[test]
    fn a_session_has_one_deadline_and_leaves_none_behind() {
        let start = Moment::now();
        let mut sessions = Sessions::default();
        let key = sessions.insert(session(start));
        for ms in [1000, 1, 1000, 2, 1] {
            sessions.arm(key, &idle(ms));
            assert_eq!(sessions.deadlines.len(), 1);
        }
        assert_eq!(sessions.deadline(), Some(start + Duration::from_millis(1)));
        assert_eq!(sessions.woken(start + Duration::from_secs(1)), Some(key));
        sessions.arm(key, &idle(1000));
        drop(sessions.remove(key));
        assert_eq!(sessions.deadline(), None);
    }
}
