//! When a connection moves so much that others should not wait behind it, and goes to a thread for bulk.
//!
//! A budget for each turn is not enough: with two operations of 256 KiB a turn, four streams on the loop keep a dialogue
//! waiting for 4 ms. Messages of 4 KiB reach the same rate, but nobody waits long behind one, and the main loop answers them
//! in half the time, because it looks for the next one ([`busy_poll`](super::busy_poll)): with one connection the median
//! round trip was 120 µs in a bulk thread and 55 in the loop over TCP, 97 and 45 over unix sockets. So one that has become
//! calm, such as a session behind a copy, goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Moment;

/// A connection that moves so many pages within such a time is a bulk transfer: 50 MiB a second.
const BULK_PAGES: u16 = 256;
const WINDOW_MILLISECONDS: u16 = 20;
/// What moves less in a turn does not count.
const MESSAGE_BYTES: u64 = 16 << 10;

/// How often is looked for those that have become calm.
pub(crate) const CALM_CHECK: Duration = Duration::from_secs(1);
/// One that moves less between two looks is calm: a quarter of the rate that made it a bulk transfer, so that none goes to
/// and fro.
const CALM_BYTES: u64 = 12 << 20;

const PAGE_BYTES: u64 = 4096;

/// Counts what one connection moves within a window. Four bytes, as each idle connection has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BulkDetector {
    /// Milliseconds of the clock, which wrap around: two windows that are 65 seconds apart may be taken for one.
    window_start: u16,
    window_pages: u16,
}

impl BulkDetector {
    /// Begins with a window in which nothing has moved.
    pub(crate) fn new(now: Moment) -> BulkDetector {
        BulkDetector {
            window_start: milliseconds(now),
            window_pages: 0,
        }
    }

    /// Learns how many bytes a turn has moved.
    pub(crate) fn moved(&mut self, count: u64, now: Moment) {
        if milliseconds(now).wrapping_sub(self.window_start) > WINDOW_MILLISECONDS {
            *self = BulkDetector::new(now);
        }
        if count >= MESSAGE_BYTES {
            let pages = u16::try_from(count / PAGE_BYTES).unwrap_or(u16::MAX);
            self.window_pages = self.window_pages.saturating_add(pages);
        }
    }

    pub(crate) fn is_bulk(self) -> bool {
        self.window_pages >= BULK_PAGES
    }
}

/// Finds those of a thread that have become calm.
#[derive(Debug)]
pub(crate) struct Calm<K> {
    /// How much each had moved when it was looked last.
    moved: BTreeMap<K, u64>,
}

impl<K: Copy + Ord> Calm<K> {
    pub(crate) fn new() -> Calm<K> {
        let moved = BTreeMap::new();
        Calm { moved }
    }

    /// Looks at how much each has moved in all, each [`CALM_CHECK`], and returns those that are calm. Who is new stays.
    pub(crate) fn look(&mut self, moved: impl Iterator<Item = (K, u64)>) -> Vec<K> {
        let before = std::mem::replace(&mut self.moved, moved.collect());
        let is_calm = |key: &K, moved: u64| {
            let before = before.get(key);
            before.is_some_and(|before| moved - before < CALM_BYTES)
        };
        let moved = self.moved.iter();
        let calm = moved.filter(|&(key, &moved)| is_calm(key, moved));
        calm.map(|(key, _)| *key).collect()
    }
}

fn milliseconds(at: Moment) -> u16 {
    (at.nanoseconds() / 1_000_000) as u16
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(turns: &[(u64, u64)]) -> BulkDetector {
        let start = Moment::now();
        let mut detector = BulkDetector::new(start);
        for &(milliseconds, count) in turns {
            detector.moved(count, start + Duration::from_millis(milliseconds));
        }
        detector
    }

    #[test]
    fn a_mebibyte_within_a_window_is_bulk() {
        assert!(after(&[(0, 1 << 19), (15, 1 << 19)]).is_bulk());
        assert!(!after(&[(0, 1 << 19), (40, 1 << 19)]).is_bulk());
    }

    /// However fast they follow, and however many there are.
    #[test]
    fn messages_are_no_bulk_transfer() {
        let turns = u64::from(BULK_PAGES) * PAGE_BYTES / MESSAGE_BYTES;
        assert!(!after(&vec![(1, MESSAGE_BYTES - 1); 10 * turns as usize]).is_bulk());
        assert!(after(&vec![(1, MESSAGE_BYTES); turns as usize]).is_bulk());
    }

    #[test]
    fn calm_ends_it() {
        assert!(!after(&[(0, 1 << 20), (30, 1)]).is_bulk());
    }

    #[test]
    fn those_that_move_little_between_two_looks_are_calm() {
        let mut calm = Calm::new();
        let looks = [
            ([(1, 0), (2, CALM_BYTES)], vec![]),
            ([(1, CALM_BYTES), (2, 2 * CALM_BYTES - 1)], vec![2]),
            ([(1, CALM_BYTES), (3, 0)], vec![1]),
        ];
        for (moved, expected) in looks {
            assert_eq!(calm.look(moved.into_iter()), expected);
        }
    }

    #[test]
    fn the_clock_may_wrap_around() {
        let end = Moment::from_nanoseconds(u64::from(u16::MAX) * 1_000_000 + 500_000);
        let mut detector = BulkDetector::new(end);
        detector.moved(1 << 19, end);
        detector.moved(1 << 19, end + Duration::from_millis(10));
        assert!(detector.is_bulk());
    }
}
