//! How an attempt waits for room at its target: when its turn is, and for how long it has patience.
//!
//! What it tells the queue, and what the queue tells it; the queue itself knows no targets.

use std::time::Duration;

use super::{Attempt, State};
use crate::clock::Moment;
use crate::connect::queue::Caller;
use crate::connect::{Address, Dialer};
use crate::stream::Stream;

impl Attempt {
    /// Returns until when the address may be silent. One that nothing can delay has no room if it is.
    pub(super) fn patience(&self, dialer: &Dialer, now: Moment) -> Moment {
        let share = self.share(dialer, now);
        let Some(caller) = (self.caller.as_ref()).filter(|_| self.address(dialer).is_prompt())
        else {
            return share;
        };
        let patience = match &self.place {
            Some(place) => place.patience(self.started, now),
            None => caller.queue.patience(),
        };
        share.min(now + patience)
    }

    /// Returns whether others wait who came before, and this one does not yet.
    pub(super) fn has_others_before(&self, now: Moment) -> bool {
        let has_waiting = |caller: &Caller| caller.queue.has_waiting(now);
        self.place.is_none() && self.caller.as_ref().is_some_and(has_waiting)
    }

    /// Waits for room behind those that wait already.
    pub(super) fn line_up(&mut self, dialer: &Dialer, now: Moment) {
        let Some(caller) = &self.caller else {
            return;
        };
        let place = self.place.get_or_insert_with(|| caller.join());
        place.rest(self.is_short);
        self.next_try = match place.is_first() {
            true => now + place.pause(self.started, now),
            false => now,
        };
        let until = self.turn(dialer, now);
        self.state = State::Queued { until };
    }

    /// Returns when to try again: at once for one whose turn has come, and for the last time when nobody was taken for as
    /// long as one may have to wait.
    pub(super) fn turn(&self, dialer: &Dialer, now: Moment) -> Moment {
        let has_turn = (self.place.as_ref()).is_none_or(|place| place.has_turn(now));
        let end = self.patience_ends(dialer);
        if has_turn {
            self.next_try.min(end)
        } else {
            end
        }
    }

    /// Returns when nothing is waited for any more; as long as the target takes others that is put off.
    pub(super) fn patience_ends(&self, dialer: &Dialer) -> Moment {
        let since = match &self.caller {
            Some(caller) => caller.queue.since(self.started),
            None => self.started,
        };
        (since + dialer.timeout).max(self.retry_until)
    }

    /// Returns when a monitor must have answered: not before it has been silent to all for the time that one may take.
    pub(super) fn answer_due(&self, dialer: &Dialer, deadline: Moment) -> Moment {
        let since = |caller: &Caller| caller.queue.unserved_since(self.started);
        let since = self.caller.as_ref().map_or(self.started, since);
        deadline.max(since + dialer.timeout)
    }

    /// Lets nobody overtake it until there is an answer.
    pub(super) fn keep_place(&mut self, now: Moment) {
        match (&self.place, &self.caller) {
            (Some(place), _) => place.resume(now),
            (None, Some(caller)) => self.place = Some(caller.try_at(now)),
            (None, None) => {}
        }
    }

    /// Lets the next one try: this one was taken.
    pub(super) fn found_room(&mut self, now: Moment) {
        if let Some(caller) = &self.caller {
            caller.queue.progress(now);
        }
        self.place = None;
    }

    /// Returns whether the stream is its own other end, which it can only be where nobody listens.
    pub(super) fn is_itself(&self, address: &Address, stream: &Stream, now: Moment) -> bool {
        let queue = self.caller.as_ref().map(|caller| &caller.queue);
        if queue.is_some_and(|queue| queue.has_listener(now)) {
            return false;
        }
        let is_itself = address.is_itself(stream);
        if let Some(queue) = queue {
            queue.note_listener(!is_itself, now);
        }
        is_itself
    }

    pub(super) fn learn(&self, answer: Duration) {
        if let Some(caller) = &self.caller {
            caller.queue.learn(answer);
        }
    }
}
