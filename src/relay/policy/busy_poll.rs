//! Looks for the next event a little longer before it sleeps.
//!
//! Two wake-ups of 15 to 20 µs each are most of a relay's round trip. While events lately came within the time of
//! such a wake-up, looking again is faster than sleeping; as soon as that fails, nothing is spent. Where many
//! events come at a time, on one processor, or while other threads of ours have something to do, it would only keep
//! those from working who send them: with 64 connections in turn sleeping gives 3 to 5 % more messages.

use std::time::Duration;

use crate::clock::Moment;

/// How long is looked after an event: one dialogue of 64 bytes, beside 1 000 idle connections, had a median round trip of
/// 117 µs without looking, and of 55 with it.
const LOOK: Duration = Duration::from_micros(50);
/// An event after a longer sleep would not have been met by looking; with the wake-ups included.
const NEAR: Duration = Duration::from_micros(120);
/// How many failures in a row are borne, at the most.
const CREDIT_MAX: u32 = 8;

/// Of so many at a time there is no hurry to meet the next one.
const MANY: usize = 4;

/// Decides from the gaps between events.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    is_enabled: bool,
    credit: u32,
    idle_since: Moment,
    /// Turns of the other threads when it was last asked.
    turns: u64,
}

impl BusyPoll {
    /// Begins without trust in the next event.
    pub(crate) fn new(is_wanted: bool, processors: usize, now: Moment) -> BusyPoll {
        BusyPoll {
            is_enabled: is_wanted && processors > 1,
            credit: 0,
            idle_since: now,
            turns: 0,
        }
    }

    /// Nothing is left to do: tells until when to look for events without sleeping. `turns`: of other threads so far.
    pub(crate) fn look_until(&mut self, turns: u64, now: Moment) -> Option<Moment> {
        self.idle_since = now;
        let is_alone = std::mem::replace(&mut self.turns, turns) == turns;
        (self.is_enabled && is_alone && self.credit > 0).then(|| now + LOOK)
    }

    /// Looking was in vain.
    pub(crate) fn missed(&mut self) {
        self.credit = self.credit.saturating_sub(2);
    }

    /// So many events came at a time.
    pub(crate) fn met(&mut self, count: usize, now: Moment) {
        if (1..MANY).contains(&count) && now - self.idle_since <= NEAR {
            self.credit = (self.credit + 1).min(CREDIT_MAX);
        } else {
            self.credit = self.credit.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(credit: u32, start: Moment) -> BusyPoll {
        BusyPoll {
            is_enabled: true,
            credit,
            idle_since: start,
            turns: 0,
        }
    }

    #[test]
    fn near_events_earn_looking_and_vain_looks_end_it() {
        let start = Moment::now();
        let mut poll = poll(0, start);
        assert_eq!(poll.look_until(0, start), None);
        poll.met(1, start + LOOK);
        assert_eq!(poll.look_until(0, start), Some(start + LOOK));
        poll.missed();
        assert_eq!(poll.look_until(0, start), None);
    }

    #[test]
    fn many_events_at_a_time_earn_nothing() {
        let start = Moment::now();
        let mut poll = poll(1, start);
        poll.met(MANY, start + LOOK);
        assert_eq!(poll.look_until(0, start), None);
    }

    #[test]
    fn distant_events_earn_nothing() {
        let start = Moment::now();
        let mut poll = poll(0, start);
        for _ in 0..100 {
            poll.look_until(0, start);
            poll.met(1, start + Duration::from_millis(1));
        }
        assert_eq!(poll.look_until(0, start), None);
    }

    #[test]
    fn nothing_is_looked_for_while_other_threads_have_something_to_do() {
        let start = Moment::now();
        let mut poll = poll(1, start);
        assert_eq!(poll.look_until(1, start), None);
        assert_eq!(poll.look_until(2, start), None);
        assert_eq!(poll.look_until(2, start), Some(start + LOOK));
    }
}
