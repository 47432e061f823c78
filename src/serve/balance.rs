//! Which sessions the main loop has, and which ones other threads.

use super::threads::{Job, Return};
use super::{Loop, Mode};
use crate::clock::Moment;
use crate::relay::connection::Connection;
use crate::relay::policy::relief;
use crate::relay::session::Session;

/// Fewer busy sessions are not worth another thread.
const MANY: usize = 8;

impl Loop {
    /// Takes what another thread gives back.
    pub(super) fn take_back(&mut self, one: Return, now: Moment) {
        match (one, self.mode) {
            (Return::Closed(closed), _) => self.account(&closed, now),
            (Return::Session(session), Mode::Serving | Mode::Draining(_)) if is_bulk(&session) => {
                self.give(Job::Bulk, *session, now);
            }
            // Else the threads have been asked for all they have, and are given nothing any more.
            (Return::Session(session), mode) => {
                self.worker.adopt(*session, now);
                if mode == Mode::Closing {
                    self.worker.close_all(now);
                }
            }
        }
    }

    /// Returns those that move much to bulk threads.
    pub(super) fn hand_over_bulk(&mut self, now: Moment) {
        // Without a thread they stay as they are: to take them out and back at each turn would cost more than they do.
        if !self.worker.has_bulk() || self.ready(Job::Bulk) == 0 {
            return self.worker.leave_bulk();
        }
        for session in self.worker.take_bulk() {
            self.give(Job::Bulk, session, now);
        }
    }

    /// Returns a session to a thread, if there is one.
    fn give(&mut self, job: Job, session: Session, now: Moment) {
        if self.ready(job) > 0 {
            self.threads.give(job, session);
        } else {
            self.worker.adopt(session, now);
        }
    }

    fn ready(&mut self, job: Job) -> usize {
        let (dialer, store) = (self.worker.dialer(), self.worker.store());
        self.threads.ready(job, dialer, store)
    }

    /// Shares the busy sessions with other threads when they are too much for this one.
    pub(super) fn seek_relief(&mut self, now: Moment) {
        let Some(since) = self.load.too_much_since(now) else {
            return;
        };
        let busy = self.worker.busy(since);
        if busy.len() < MANY {
            return;
        }
        let others = self.ready(Job::Relief);
        let surplus = relief::surplus(busy.len(), self.threads.relieved(), others);
        for key in busy.into_iter().take(surplus) {
            if let Some(session) = self.worker.release(key) {
                self.threads.give(Job::Relief, session);
            }
        }
    }
}

fn is_bulk(session: &Session) -> bool {
    session.connection().is_some_and(Connection::is_bulk)
}
