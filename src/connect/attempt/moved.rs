//! An attempt whose machine is another by now: its name was given away while it was connecting.

use super::{Attempt, Connecting, State};
use crate::clock::Moment;
use crate::connect::Dialer;
use crate::stream::Stream;

impl Attempt {
    /// Returns whether the name of the machine is another's since this round began, or nobody's any more.
    pub(crate) fn has_moved(&self, dialer: &Dialer) -> bool {
        let now = self.target(dialer).machine.as_ref();
        now.is_some_and(|now| self.addresses.as_ref().is_none_or(|own| own != now))
    }

    /// Returns whether it goes to the machine of a name, which may be another's at any time.
    pub(crate) fn follows_name(&self, dialer: &Dialer) -> bool {
        self.target(dialer).machine.is_some()
    }

    /// Returns whether it has the same addresses as another.
    pub(crate) fn leads_as(&self, other: &Attempt) -> bool {
        self.addresses == other.addresses
    }

    /// Leaves the machine that had the name, which may not learn of the peer any more.
    pub(super) fn start_over(&mut self, dialer: &Dialer, now: Moment) {
        if let Some(stream) = self.take_stream() {
            stream.abort();
        }
        self.next = 0;
        self.is_short = false;
        self.addresses = self.target(dialer).renewed();
        self.round_ends = now + dialer.timeout;
    }

    /// Returns the stream to a target that is not reached yet; what is tried next is an address.
    pub(super) fn take_stream(&mut self) -> Option<Stream> {
        match std::mem::replace(&mut self.state, State::Next) {
            State::Connecting(Connecting { stream, .. }) | State::Handshaking { stream, .. } => {
                Some(stream)
            }
            _ => None,
        }
    }
}
