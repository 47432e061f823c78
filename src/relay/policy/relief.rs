//! Tells when there is more to do than one thread can.
//!
//! Where others compete for the processors, one thread gets no more than one share of them: with two threads of clients and
//! servers on two processors the loop stood still for a quarter of the time, though 64 connections had something for it.
//! With two threads there were 40 % more messages of 4 KiB each way, on a machine that was busy with other things as well.

use std::time::Duration;

use crate::clock::Moment;

/// Shorter than anybody notices, and long enough for hundreds of events.
const WINDOW: Duration = Duration::from_millis(20);
/// A thread that sleeps for less than this part of a window has too much to do.
const SLEEP_PART: u32 = 10;

/// A thread that sleeps for more than such a part of a second has nothing that the main loop could not do as well.
const SPARE_PART: u32 = 10;

/// Returns whether a thread that slept so much of some time need not be.
pub(crate) fn is_spare(slept: Duration, time: Duration) -> bool {
    (time - slept.min(time)) * SPARE_PART < time
}

/// How much the main loop slept lately.
#[derive(Debug)]
pub(crate) struct Load {
    since: Moment,
    slept: Duration,
}

impl Load {
    pub(crate) fn new(now: Moment) -> Load {
        Load {
            since: now,
            slept: Duration::ZERO,
        }
    }

    /// Learns how long it has waited for events.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.slept += time;
    }

    /// At the end of a window with too much to do, tells when it began.
    pub(crate) fn too_much_since(&mut self, now: Moment) -> Option<Moment> {
        let (since, window) = (self.since, now - self.since);
        if window < WINDOW {
            return None;
        }
        let is_too_much = self.slept * SLEEP_PART < window;
        (self.since, self.slept) = (now, Duration::ZERO);
        is_too_much.then_some(since)
    }
}

/// Returns how many of the busy sessions of one thread are for `others`, which have so many sessions already.
pub(crate) fn surplus(busy: usize, theirs: usize, others: usize) -> usize {
    let share = (busy + theirs).div_ceil(1 + others);
    let surplus = busy.saturating_sub(share);
    // A few more or less are not worth the moving.
    if surplus * 4 >= busy { surplus } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_hardly_sleeps_has_too_much_to_do() {
        let start = Moment::now();
        let mut load = Load::new(start);
        load.slept(WINDOW / (SLEEP_PART + 1));
        assert_eq!(load.too_much_since(start + WINDOW / 2), None);
        assert_eq!(load.too_much_since(start + WINDOW), Some(start));
    }

    #[test]
    fn sleep_in_the_next_window_ends_it() {
        let start = Moment::now();
        let mut load = Load::new(start);
        let middle = start + WINDOW;
        assert_eq!(load.too_much_since(middle), Some(start));
        load.slept(WINDOW / SLEEP_PART);
        assert_eq!(load.too_much_since(middle + WINDOW), None);
    }

    #[test]
    fn a_thread_that_sleeps_nearly_all_the_time_is_spare() {
        let second = Duration::from_secs(1);
        assert!(is_spare(second * 95 / 100, second));
        assert!(!is_spare(second * 85 / 100, second));
        assert!(is_spare(2 * second, second));
    }

    #[test]
    fn the_busy_ones_are_shared_evenly_and_once() {
        assert_eq!(surplus(64, 0, 1), 32);
        assert_eq!(surplus(32, 32, 1), 0);
        assert_eq!(surplus(64, 0, 3), 48);
        assert_eq!(surplus(16, 100, 1), 0);
        assert_eq!(surplus(64, 0, 0), 0);
    }
}
