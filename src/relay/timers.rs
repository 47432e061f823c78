//! Deadlines of connections: a heap that is never searched.
//!
//! An entry may be out of date, because the deadline has moved since; whoever owns it checks when it fires and
//! arms anew. So a byte that moves costs no work here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Moment;

/// Deadlines, each with the key of its owner.
#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<(Moment, K)>>,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Timers<K> {
        Timers {
            heap: BinaryHeap::new(),
        }
    }
}

impl<K: Ord> Timers<K> {
    /// Fires for the key at that time, besides what is armed for it already.
    pub fn arm(&mut self, at: Moment, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    /// Gives the earliest deadline.
    pub fn next(&self) -> Option<Moment> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the owner of a deadline that has passed, earliest first.
    pub fn expired(&mut self, now: Moment) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_fire_in_order_and_not_before_their_time() {
        let start = Moment::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        for (ms, key) in [(30, 'c'), (10, 'a'), (20, 'b')] {
            timers.arm(at(ms), key);
        }
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.expired(at(9)), None);
        assert_eq!(timers.expired(at(20)), Some('a'));
        assert_eq!(timers.expired(at(20)), Some('b'));
        assert_eq!(timers.expired(at(20)), None);
    }
}
