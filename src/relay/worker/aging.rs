//! What a worker does now and then for what is old: sessions that live for long, and pipes that nobody uses.

use std::time::Duration;

use super::Worker;
use crate::clock::Moment;

/// A connection of that age gets TCP keepalive towards its target, and is looked at for a dead end as often. Most are over
/// before: a short one has 20 calls, and keepalive would be four more.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// A pipe that nobody has used for so long goes.
const IDLE_PIPE: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn trim_pipes(&mut self, now: Moment) {
        let pool = self.shared.pool();
        if self.next_trim.is_some_and(|at| at <= now) {
            self.next_trim = None;
            pool.trim();
        }
        if !pool.is_empty() {
            self.next_trim.get_or_insert(now + IDLE_PIPE);
        }
    }

    pub(super) fn check_later(&mut self, now: Moment) {
        if self.dialer.tuning.keepalive.is_some() {
            self.next_check.get_or_insert(now + CHECK_INTERVAL);
        }
    }

    /// Looks after sessions that have lived for a while: they get what short ones do without, and those whose other end has
    /// died with bytes on their way to it are closed.
    pub(super) fn check_old(&mut self, now: Moment) {
        self.next_check = None;
        let tuning = self.dialer.tuning;
        let Some(limit) = tuning.silence_limit() else {
            return;
        };
        let (mut silent, mut is_due) = (Vec::new(), false);
        for (key, session) in self.sessions.with_keys() {
            if !session.has_keepalive && session.started + CHECK_INTERVAL <= now {
                session.set_keepalive(&tuning);
            }
            let has_keepalive = session.has_keepalive;
            let connection = session.connection_mut();
            match connection.map(|connection| (connection.silenced(limit), connection.is_owing())) {
                Some((Some(ending), _)) => silent.push((key, ending)),
                Some((None, is_owing)) => is_due |= !has_keepalive || is_owing,
                None => is_due = true,
            }
        }
        for (key, ending) in silent {
            self.close(key, Ok(ending), now);
        }
        if is_due {
            self.check_later(now);
        }
    }
}
