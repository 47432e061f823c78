//! Looks for the next event a little longer before it sleeps.
//!
//! Two wake-ups of 15 to 20 µs each are most of a relay's round trip. While events of a dialogue lately came within the time
//! of such a wake-up, looking again is faster than sleeping. Looks that are in vain soon become rare: one message each
//! 150 µs took 49 % of a processor when one near event was enough for the next look, 14 % now, and 17 without any; each
//! 500 µs 16, 6 and 6 %. Where many events come at a time, where peers come and go, on one processor, or while other threads
//! of ours have something to do, it would only keep those from working who send them: with 64 connections in turn
//! sleeping gives 3 to 5 % more messages.

use std::time::Duration;

use crate::clock::Moment;

/// How long is looked after an event: one dialogue of 64 bytes, beside 1 000 idle connections, had a median round trip of
/// 117 µs without looking, and of 55 with it.
const LOOK: Duration = Duration::from_micros(50);
/// An event after a longer sleep would not have been met by looking; with the wake-up included.
const NEAR: Duration = Duration::from_micros(80);
/// How many near events in a row there must be before a look: more than a short connection has.
const NEEDED_MIN: u32 = 8;
/// That is doubled for each look in vain behind another one, so many times at the most.
const DOUBLINGS_MAX: u32 = 6;

/// Of so many at a time there is no hurry to meet the next one.
const MANY: usize = 4;

/// Decides from the gaps between events.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    is_enabled: bool,
    /// Events in a row that looking would have met.
    near: u32,
    /// Looks in vain in a row.
    misses: u32,
    is_looking: bool,
    idle_since: Moment,
    /// Turns of the other threads when it was last asked.
    turns: u64,
}

impl BusyPoll {
    /// Begins without trust in the next event.
    pub(crate) fn new(is_wanted: bool, processors: usize, now: Moment) -> BusyPoll {
        BusyPoll {
            is_enabled: is_wanted && processors > 1,
            near: 0,
            misses: 0,
            is_looking: false,
            idle_since: now,
            turns: 0,
        }
    }

    /// Nothing is left to do: tells until when to look for events without sleeping. `turns`: of other threads so far.
    pub(crate) fn look_until(&mut self, turns: u64, now: Moment) -> Option<Moment> {
        self.idle_since = now;
        let is_alone = std::mem::replace(&mut self.turns, turns) == turns;
        self.is_looking = self.is_enabled && is_alone && self.near >= self.needed();
        self.is_looking.then(|| now + LOOK)
    }

    fn needed(&self) -> u32 {
        NEEDED_MIN << self.misses.saturating_sub(1).min(DOUBLINGS_MAX)
    }

    /// Looking was in vain.
    pub(crate) fn missed(&mut self) {
        self.is_looking = false;
        self.near = 0;
        self.misses = self.misses.saturating_add(1);
    }

    /// So many events came at a time.
    pub(crate) fn met(&mut self, count: usize, now: Moment) {
        let is_near = (1..MANY).contains(&count) && now - self.idle_since <= NEAR;
        self.near = if is_near {
            self.near.saturating_add(1)
        } else {
            0
        };
        if std::mem::take(&mut self.is_looking) {
            self.misses = 0;
        }
    }

    /// Somebody has come: what follows is no dialogue yet.
    pub(crate) fn forget(&mut self) {
        self.near = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(start: Moment) -> BusyPoll {
        BusyPoll::new(true, 2, start)
    }

    /// So many events, each so long after the one before was dealt with.
    fn events(poll: &mut BusyPoll, count: u32, each: usize, gap: Duration, start: Moment) {
        for _ in 0..count {
            poll.look_until(0, start);
            poll.met(each, start + gap);
        }
    }

    #[test]
    fn near_events_earn_looking_and_a_vain_look_ends_it() {
        let start = Moment::now();
        let mut poll = poll(start);
        events(&mut poll, NEEDED_MIN - 1, 1, LOOK, start);
        assert_eq!(poll.look_until(0, start), None);
        poll.met(1, start + LOOK);
        assert_eq!(poll.look_until(0, start), Some(start + LOOK));
        poll.missed();
        assert_eq!(poll.look_until(0, start), None);
    }

    #[test]
    fn looks_in_vain_become_rare_until_one_is_not() {
        let start = Moment::now();
        let mut poll = poll(start);
        let mut looks = 0;
        for _ in 0..10_000 {
            match poll.look_until(0, start) {
                Some(_) => poll.missed(),
                None => poll.met(1, start + NEAR),
            }
            looks += u32::from(poll.near == 0);
        }
        assert!((10..40).contains(&looks), "{looks}");
        events(&mut poll, NEEDED_MIN << DOUBLINGS_MAX, 1, LOOK, start);
        assert!(poll.look_until(0, start).is_some());
        poll.met(1, start);
        poll.forget();
        events(&mut poll, NEEDED_MIN, 1, LOOK, start);
        assert!(poll.look_until(0, start).is_some());
    }

    #[test]
    fn many_events_at_a_time_earn_nothing() {
        let start = Moment::now();
        let mut poll = poll(start);
        events(&mut poll, 100, 1, LOOK, start);
        events(&mut poll, 1, MANY, LOOK, start);
        assert_eq!(poll.look_until(0, start), None);
    }

    #[test]
    fn distant_events_earn_nothing() {
        let start = Moment::now();
        let mut poll = poll(start);
        events(&mut poll, 100, 1, 2 * NEAR, start);
        assert_eq!(poll.look_until(0, start), None);
    }

    #[test]
    fn peers_that_come_and_go_earn_nothing() {
        let start = Moment::now();
        let mut poll = poll(start);
        for _ in 0..100 {
            poll.forget();
            events(&mut poll, NEEDED_MIN - 1, 1, LOOK, start);
            assert_eq!(poll.look_until(0, start), None);
        }
    }

    #[test]
    fn nothing_is_looked_for_while_other_threads_have_something_to_do() {
        let start = Moment::now();
        let mut poll = poll(start);
        events(&mut poll, NEEDED_MIN, 1, LOOK, start);
        assert_eq!(poll.look_until(1, start), None);
        assert_eq!(poll.look_until(2, start), None);
        assert_eq!(poll.look_until(2, start), Some(start + LOOK));
    }
}
