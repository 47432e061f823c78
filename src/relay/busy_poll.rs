//! Looks for the next event a little longer before it sleeps.
//!
//! Two wake-ups of 15 to 20 µs each are most of a relay's round trip. While events lately came within the time of
//! such a wake-up, looking again is faster than sleeping; as soon as that fails, nothing is spent. Where many
//! events come at a time, on one processor, or while other threads of ours have connections, it would only keep
//! those from working who send them: with 64 connections in turn sleeping gives 3 to 5 % more messages.

use std::time::Duration;

use crate::clock::Moment;

/// How long is looked after an event.
const LOOK: Duration = Duration::from_micros(50);
/// An event after a longer sleep would not have been met by looking; with the wake-ups included.
const NEAR: Duration = Duration::from_micros(120);
/// How many failures in a row are borne, at the most.
const CREDIT_MAX: u32 = 8;

/// Of so many at a time there is no hurry to meet the next one.
const MANY: usize = 4;

/// Decides from the gaps between events.
#[derive(Debug)]
pub struct BusyPoll {
    is_enabled: bool,
    credit: u32,
    idle_since: Moment,
}

impl BusyPoll {
    /// Begins without trust in the next event.
    pub fn new(is_wanted: bool, processors: usize, now: Moment) -> BusyPoll {
        BusyPoll {
            is_enabled: is_wanted && processors > 1,
            credit: 0,
            idle_since: now,
        }
    }

    /// Nothing is left to do: tells until when to look for events without sleeping.
    pub fn look_until(&mut self, now: Moment) -> Option<Moment> {
        self.idle_since = now;
        (self.is_enabled && self.credit > 0).then(|| now + LOOK)
    }

    /// Looking was in vain.
    pub fn missed(&mut self) {
        self.credit = self.credit.saturating_sub(2);
    }

    /// So many events came at a time.
    pub fn met(&mut self, count: usize, now: Moment) {
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

    #[test]
    fn near_events_earn_looking_and_vain_looks_end_it() {
        let start = Moment::now();
        let mut poll = BusyPoll {
            is_enabled: true,
            credit: 0,
            idle_since: start,
        };
        assert_eq!(poll.look_until(start), None);
        poll.met(1, start + LOOK);
        assert_eq!(poll.look_until(start), Some(start + LOOK));
        poll.missed();
        assert_eq!(poll.look_until(start), None);
    }

    #[test]
    fn many_events_at_a_time_earn_nothing() {
        let start = Moment::now();
        let mut poll = BusyPoll {
            is_enabled: true,
            credit: 1,
            idle_since: start,
        };
        poll.met(MANY, start + LOOK);
        assert_eq!(poll.look_until(start), None);
    }

    #[test]
    fn distant_events_earn_nothing() {
        let start = Moment::now();
        let mut poll = BusyPoll {
            is_enabled: true,
            credit: 0,
            idle_since: start,
        };
        for _ in 0..100 {
            poll.look_until(start);
            poll.met(1, start + Duration::from_millis(1));
        }
        assert_eq!(poll.look_until(start), None);
    }
}
