//! What a peer is told that has asked where to go.

use nix::errno::Errno;

use super::Errand;
use crate::error::Error;
use crate::stream::Stream;

/// Bytes of a peer that was told no which are read so that its answer arrives.
const DISCARD_MAX: usize = 256 << 10;

impl Errand {
    /// Tells a peer that its target is reached: takes its request out of the socket, and answers it in one write.
    ///
    /// Errors: the peer does not even take that.
    pub(crate) fn tell_reached(&self, peer: &Stream) -> Result<(), Errno> {
        peer.discard(self.length)?;
        match &self.form.connected()[..] {
            [] => Ok(()),
            reply => tell(peer, reply),
        }
    }

    /// Tells a peer why it does not get there.
    pub(crate) fn tell_failure(&self, peer: &Stream, error: &Error) {
        dismiss(peer, &self.form.failed(error, &self.asked));
    }
}

/// Answers a peer. One of a unix socket that has closed by now takes none, and what it sent before that goes on to its target.
pub(crate) fn tell(peer: &Stream, reply: &[u8]) -> Result<(), Errno> {
    match peer.write_at_once(reply) {
        Err(Errno::EPIPE) => Ok(()),
        result => result,
    }
}

/// Tells a peer no, and lets it have that before the end. Without an answer it is reset.
pub(crate) fn dismiss(peer: &Stream, reply: &[u8]) {
    // TCP sends a reset at the close of a socket with unread bytes, which may overtake the answer.
    let is_told = !reply.is_empty() && peer.write_at_once(reply).is_ok();
    if is_told && peer.discard(DISCARD_MAX) == Err(Errno::EAGAIN) {
        peer.reset_on_close(false);
        // A peer that has gone needs none.
        let _ = peer.finish_output();
    }
}
