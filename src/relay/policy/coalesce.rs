//! Lets small writes to vsock wait for each other while the other end does not answer.
//!
//! Each write is a packet of its own, and kernels since 6.1.176 and 6.12.94 count the overhead of each against the
//! receiver's buffer: some hundreds of packets of 128 to 300 bytes that nobody reads yet end the connection with
//! ENOBUFS, and 6.12.92 and 6.12.93 lose them (CVE-2026-53132 and its first mends). How much the other end has left
//! unread vsock does not tell (SIOCOUTQ counts what the transport has not taken), so an answer is taken for the sign
//! that it reads. A request, even one in several writes, never waits; a stream of small messages in one direction is
//! read a millisecond's worth at a time, and what comes meanwhile is put together by the source's own buffer.

use std::time::Duration;

/// Writes of that size cost no more overhead than payload.
const SMALL_BYTES: usize = 4096;
/// So many in a row may go unanswered before the next ones wait.
const UNANSWERED_MAX: u8 = 16;
/// How long.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// Counts the small writes of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coalesce {
    unanswered: u8,
    is_pausing: bool,
}

impl Coalesce {
    /// Returns whether the source is not to be read for now.
    pub(crate) fn is_pausing(self) -> bool {
        self.is_pausing
    }

    /// Learns of a write.
    pub(crate) fn wrote(&mut self, count: usize) {
        if count >= SMALL_BYTES {
            *self = Coalesce::default();
        } else if self.unanswered < UNANSWERED_MAX {
            self.unanswered += 1;
        } else {
            self.is_pausing = true;
        }
    }

    /// Bytes came the other way.
    pub(crate) fn answered(&mut self) {
        *self = Coalesce::default();
    }

    /// The pause is over.
    pub(crate) fn resume(&mut self) {
        self.is_pausing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unanswered(count: usize) -> Coalesce {
        let mut coalesce = Coalesce::default();
        (0..count).for_each(|_| coalesce.wrote(1));
        coalesce
    }

    #[test]
    fn small_writes_pause_only_after_many_without_answer() {
        assert!(!unanswered(16).is_pausing());
        assert!(unanswered(17).is_pausing());
    }

    #[test]
    fn after_a_pause_one_write_goes_out_before_the_next() {
        let mut coalesce = unanswered(17);
        coalesce.resume();
        assert!(!coalesce.is_pausing());
        coalesce.wrote(1);
        assert!(coalesce.is_pausing());
    }

    #[test]
    fn an_answer_or_a_large_write_begins_anew() {
        let mut answered = unanswered(17);
        answered.answered();
        let mut large = unanswered(17);
        large.wrote(SMALL_BYTES);
        for mut coalesce in [answered, large] {
            assert!(!coalesce.is_pausing());
            (0..16).for_each(|_| coalesce.wrote(1));
            assert!(!coalesce.is_pausing());
        }
    }
}
