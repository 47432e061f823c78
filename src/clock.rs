//! Moments of the kernel's monotonic clock.
//!
//! A number instead of [`std::time::Instant`]: it takes half the room in what is kept for each connection, and means
//! the same in the next process, to which a connection may be given.

use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment, in nanoseconds since the clock began (CLOCK_MONOTONIC, clock_gettime(2)); it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

impl Moment {
    /// Reads the clock.
    pub(crate) fn now() -> Moment {
        // It fails only for a clock that the kernel does not have.
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Moment::from_nanoseconds(nanoseconds(time))
    }

    /// Takes what [`Moment::nanoseconds`] gave; the clock's very first moment is its second one.
    pub(crate) fn from_nanoseconds(count: u64) -> Moment {
        Moment(NonZeroU64::new(count).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the number of nanoseconds since the clock began.
    pub(crate) fn nanoseconds(self) -> u64 {
        self.0.get()
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(nanoseconds(time)))
    }
}

/// The moment so long before.
impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, time: Duration) -> Moment {
        Moment::from_nanoseconds(self.nanoseconds().saturating_sub(nanoseconds(time)))
    }
}

/// The time from the other moment until this one; none if that is later.
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.nanoseconds().saturating_sub(earlier.nanoseconds()))
    }
}

/// Ends in the year 2554, which is as good as never.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let first = Moment::now();
        assert!(Moment::now() >= first);
        assert!(Moment::now() - first < Duration::from_secs(3600));
    }

    #[test]
    fn times_add_and_subtract_and_stop_at_the_ends() {
        let start = Moment::from_nanoseconds(5_000_000_000);
        let second = Duration::from_secs(1);
        assert_eq!((start + second) - start, second);
        assert_eq!(start - (start + second), Duration::ZERO);
        assert_eq!((start + second) - second, start);
        assert!(start - Duration::MAX < start);
        assert!(start + Duration::MAX > start + 1000 * second);
        assert_eq!(Moment::from_nanoseconds(start.nanoseconds()), start);
    }
}
