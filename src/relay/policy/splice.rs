//! When bytes go through a pipe instead of the shared buffer, and how many are asked for at once.
//!
//! Copying is cheaper for messages: two calls, and no pages change hands. For bulk, splice(2) spares both copies: TCP
//! to TCP it takes two thirds of the processor time of copying, TCP to unix a third. From unix to TCP copying wins by a
//! factor of two. vsock has no splice of its own: the kernel copies once, into pages that it allocates for the whole
//! length asked and frees again (copy_splice_read in fs/splice.c), so from there no more is asked than lately came.

use crate::peer::Family;
use crate::relay::pipes::PIPE_BYTES;

/// What a splice must move to be followed by another one.
const WORTHWHILE_BYTES: usize = 32 * 1024;
/// The least and the most that is asked for where asking costs.
const CAUTIOUS_BYTES: std::ops::RangeInclusive<usize> = 64 * 1024..=256 * 1024;

const PAGE_BYTES: usize = 4096;

/// How much the next splice asks for; nothing while bytes are copied.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Splice {
    pages: u16,
}

impl Splice {
    /// Returns how many bytes the next splice is to ask for; none: copy.
    pub(crate) fn splice_bytes(self) -> Option<usize> {
        (self.pages > 0).then(|| usize::from(self.pages) * PAGE_BYTES)
    }

    /// Learns of a read; one that filled the buffer begins a burst.
    pub(crate) fn after_read(&mut self, is_full: bool, source: Family, sink: Family) {
        if is_full && is_spliced(source, sink) {
            self.ask(match source {
                Family::Vsock => *CAUTIOUS_BYTES.start(),
                _ => PIPE_BYTES,
            });
        }
    }

    /// Learns what a splice moved; little ends the burst.
    pub(crate) fn after_splice(&mut self, count: usize, source: Family) {
        if count < WORTHWHILE_BYTES {
            self.pages = 0;
        } else if source == Family::Vsock {
            // Twice what came: it grows while all that was asked for was there.
            self.ask((2 * count).clamp(*CAUTIOUS_BYTES.start(), *CAUTIOUS_BYTES.end()));
        }
    }

    fn ask(&mut self, bytes: usize) {
        self.pages = (bytes / PAGE_BYTES) as u16;
    }
}

fn is_spliced(source: Family, sink: Family) -> bool {
    !matches!(
        (source, sink),
        (Family::File, _) | (_, Family::File) | (Family::Unix, Family::Tcp)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_read_begins_a_burst_and_a_small_splice_ends_it() {
        let mut burst = Splice::default();
        burst.after_read(false, Family::Tcp, Family::Tcp);
        assert_eq!(burst.splice_bytes(), None);
        burst.after_read(true, Family::Tcp, Family::Tcp);
        assert_eq!(burst.splice_bytes(), Some(PIPE_BYTES));
        burst.after_splice(WORTHWHILE_BYTES, Family::Tcp);
        assert_eq!(burst.splice_bytes(), Some(PIPE_BYTES));
        burst.after_splice(WORTHWHILE_BYTES - 1, Family::Tcp);
        assert_eq!(burst.splice_bytes(), None);
    }

    #[test]
    fn files_and_unix_to_tcp_are_copied() {
        for (source, sink) in [
            (Family::Unix, Family::Tcp),
            (Family::File, Family::Tcp),
            (Family::Tcp, Family::File),
        ] {
            let mut burst = Splice::default();
            burst.after_read(true, source, sink);
            assert_eq!(burst.splice_bytes(), None, "{source:?} to {sink:?}");
        }
    }

    #[test]
    fn from_vsock_no_more_is_asked_than_lately_came() {
        let mut burst = Splice::default();
        burst.after_read(true, Family::Vsock, Family::Tcp);
        assert_eq!(burst.splice_bytes(), Some(64 << 10));
        burst.after_splice(64 << 10, Family::Vsock);
        assert_eq!(burst.splice_bytes(), Some(128 << 10));
        burst.after_splice(128 << 10, Family::Vsock);
        burst.after_splice(256 << 10, Family::Vsock);
        assert_eq!(burst.splice_bytes(), Some(256 << 10));
        burst.after_splice(40 << 10, Family::Vsock);
        assert_eq!(burst.splice_bytes(), Some(80 << 10));
    }
}
