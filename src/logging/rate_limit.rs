//! Cuts a flood of lines of one kind to a burst, and counts the rest; where peers cause the lines, each peer's on its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Moment;

/// Lets some lines of a kind through in each interval, and counts the others.
#[derive(Debug)]
pub(crate) struct RateLimit {
    burst: u32,
    begun: Option<Moment>,
    passed: u32,
    suppressed: u64,
}

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(5);

    /// Lets so many through in 5 seconds.
    pub(crate) fn new(burst: u32) -> RateLimit {
        RateLimit {
            burst,
            begun: None,
            passed: 0,
            suppressed: 0,
        }
    }

    /// Asks whether a line may be written now; gives the number of lines that were left out before it.
    pub(crate) fn admit(&mut self, now: Moment) -> Option<u64> {
        if self.is_over(now) {
            self.begun = Some(now);
            self.passed = 0;
        }
        if self.passed == self.burst {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    fn is_over(&self, now: Moment) -> bool {
        self.begun
            .is_none_or(|begun| begun + RateLimit::INTERVAL <= now)
    }
}

/// Peers that are told apart; all others are one.
const PEERS_MAX: usize = 100;

/// Limits the lines that one peer causes, so that none of them hides those of another.
#[derive(Debug)]
pub(crate) struct PeerRateLimit<K> {
    burst: u32,
    peers: HashMap<K, RateLimit>,
    others: RateLimit,
    /// For whoever is over its own.
    common: RateLimit,
}

impl<K: Eq + Hash> PeerRateLimit<K> {
    /// Lets so many of each peer through in 5 seconds, and so many more of all together.
    pub(crate) fn new(burst: u32, common: u32) -> PeerRateLimit<K> {
        PeerRateLimit {
            burst,
            peers: HashMap::new(),
            others: RateLimit::new(burst),
            common: RateLimit::new(common),
        }
    }

    /// Asks whether a line of a peer may be written now; gives the number of its lines that were left out before it.
    pub(crate) fn admit(&mut self, peer: K, now: Moment) -> Option<u64> {
        let own = match self.peers.get_mut(&peer) {
            Some(own) => own,
            None => {
                self.make_room(now);
                match self.peers.len() < PEERS_MAX {
                    true => (self.peers.entry(peer)).or_insert(RateLimit::new(self.burst)),
                    false => &mut self.others,
                }
            }
        };
        own.admit(now).or_else(|| {
            self.common.admit(now)?;
            Some(std::mem::take(&mut own.suppressed) - 1)
        })
    }

    /// Forgets those who have caused no line for a while, once there is no room; what was left out of theirs is counted.
    fn make_room(&mut self, now: Moment) {
        if self.peers.len() < PEERS_MAX {
            return;
        }
        let others = &mut self.others;
        self.peers.retain(|_, limit| {
            let is_over = limit.is_over(now);
            if is_over {
                others.suppressed += limit.suppressed;
            }
            !is_over
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_a_burst_and_counted() {
        let start = Moment::now();
        let mut limit = RateLimit::new(10);
        let passed = (0..1000).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(passed, 10);
        assert_eq!(limit.admit(start + RateLimit::INTERVAL), Some(990));
        assert_eq!(limit.admit(start + RateLimit::INTERVAL), Some(0));
    }

    #[test]
    fn a_flood_of_one_peer_hides_no_line_of_another() {
        let start = Moment::now();
        let mut limit = PeerRateLimit::new(10, 0);
        let passed = (0..1000).filter(|_| limit.admit(3, start).is_some());
        assert_eq!(passed.count(), 10);
        assert_eq!(limit.admit(4, start), Some(0));
        let later = start + RateLimit::INTERVAL;
        assert_eq!(limit.admit(4, later), Some(0));
        assert_eq!(limit.admit(3, later), Some(990));
    }

    #[test]
    fn what_is_common_is_for_whoever_comes_first() {
        let start = Moment::now();
        let mut limit = PeerRateLimit::new(10, 190);
        let passed = (0..1000).filter(|_| limit.admit(3, start).is_some());
        assert_eq!(passed.count(), 200);
        let passed = (0..1000).filter(|_| limit.admit(4, start).is_some());
        assert_eq!(passed.count(), 10);
    }

    #[test]
    fn peers_without_end_are_one_beyond_a_number_and_those_of_before_are_forgotten() {
        let start = Moment::now();
        let mut limit = PeerRateLimit::new(10, 0);
        let passed = (0..100_000).filter(|&peer| limit.admit(peer, start).is_some());
        assert_eq!(passed.count(), PEERS_MAX + 10);
        assert_eq!(limit.peers.len(), PEERS_MAX);
        (0..11).for_each(|_| assert!(limit.admit(7, start).is_none_or(|count| count == 0)));
        let later = start + RateLimit::INTERVAL;
        assert_eq!(limit.admit(100_001, later), Some(0));
        assert_eq!(limit.peers.len(), 1);
        let left_out = 100_000 - PEERS_MAX as u64 - 10 + 2;
        assert_eq!(limit.others.admit(later), Some(left_out));
    }
}
