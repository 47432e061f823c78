//! Cuts a flood of lines of one kind to a burst, and counts the rest.

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
        if self
            .begun
            .is_none_or(|begun| begun + RateLimit::INTERVAL <= now)
        {
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
}
