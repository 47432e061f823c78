//! A peer whose target is still being connected: nothing is read from it, and what epoll says is kept for later.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::connection::Connection;
use super::end::End;
use super::ending::Ending;
use super::token::Side;
use crate::clock::Moment;
use crate::connect::{Attempt, Dialer, Readiness};
use crate::error::Result;
use crate::handover::Store;
use crate::stream::Stream;

/// A peer that connects and closes at once is seen by a target that can be reached within that time, as one over TCP is.
const GRACE: Duration = Duration::from_millis(100);

/// Until when a peer that has closed is taken to its target all the same.
#[derive(Debug)]
pub(super) struct Grace(Option<Moment>);

impl Grace {
    pub(super) fn new(now: Moment) -> Grace {
        Grace(Some(now + GRACE))
    }

    /// Returns why nobody waits for the target any more: the peer was reset, or has closed and left nothing to be delivered.
    /// So many of its first bytes, which are still there, are a request.
    pub(super) fn gone(
        &mut self,
        peer: &End<Stream>,
        request: usize,
        now: Moment,
    ) -> Option<Errno> {
        self.0 = self.0.filter(|&until| now < until);
        if peer.has_failed {
            return Some(peer.wire.take_error().unwrap_or(Errno::ECONNRESET));
        }
        let has_waited = self.0.is_none();
        (has_waited && peer.is_ended && peer.wire.is_abandoned(request)).then_some(Errno::EPIPE)
    }

    /// Returns when [`Grace::gone`] must be asked again.
    pub(super) fn deadline(&self, peer: &End<Stream>) -> Option<Moment> {
        self.0.filter(|_| peer.is_ended)
    }
}

/// The peer's end, and the attempt to reach its target.
#[derive(Debug)]
pub(crate) struct Dialing {
    peer: End<Stream>,
    attempt: Attempt,
    /// What epoll said of the stream to the target since the last step.
    seen: EpollFlags,
    grace: Grace,
    /// Bytes of a request, which stay in the peer's socket until the target is reached.
    request: usize,
}

impl Dialing {
    /// Begins to wait for the attempt.
    pub(crate) fn new(peer: Stream, attempt: Attempt, now: Moment) -> Dialing {
        Dialing::asked(End::new(peer), 0, attempt, now)
    }

    /// Begins to wait for the attempt on behalf of a peer that was heard before: so many of its bytes were its request.
    pub(crate) fn asked(
        peer: End<Stream>,
        request: usize,
        attempt: Attempt,
        now: Moment,
    ) -> Dialing {
        Dialing {
            peer,
            attempt,
            seen: EpollFlags::empty(),
            grace: Grace::new(now),
            request,
        }
    }

    pub(crate) fn peer(&self) -> &Stream {
        &self.peer.wire
    }

    /// Takes over what epoll reported of one side.
    pub(crate) fn on_events(&mut self, side: Side, events: EpollFlags) {
        match side {
            Side::Peer => self.peer.on_events(events),
            Side::Target => self.seen |= events,
        }
    }

    /// Goes on as far as possible: returns the target once it is connected, and breaks when that is not to be any more.
    /// `watch` is called with each new stream to the target.
    pub(crate) fn advance(
        &mut self,
        dialer: &Dialer,
        now: Moment,
        watch: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> ControlFlow<Result<Ending>, Option<Stream>> {
        if let Some(errno) = self.grace.gone(&self.peer, self.request, now) {
            return ControlFlow::Break(Ok(Ending::Broken(Side::Peer, errno)));
        }
        match (self.attempt).advance(dialer, readiness(self.seen), now, watch) {
            Ok(Some(target)) => ControlFlow::Continue(Some(target)),
            Ok(None) => {
                self.seen = EpollFlags::empty();
                ControlFlow::Continue(None)
            }
            Err(error) => ControlFlow::Break(Err(error)),
        }
    }

    /// Becomes a connection, which begins with a header for the target if there is one.
    ///
    /// Errors: there is no memory for the header.
    pub(crate) fn connected(
        self,
        target: Stream,
        header: &[u8],
        dialer: &Dialer,
        store: &Arc<Store>,
        now: Moment,
    ) -> std::result::Result<Connection<Stream>, Errno> {
        target.reset_on_close(true);
        let mut target = End::new(target);
        target.on_events(self.seen);
        if self.attempt.has_handshake(dialer) {
            // What was said before was read until nothing more came; what is behind it is not reported again.
            target.on_events(EpollFlags::EPOLLIN);
        }
        if header.is_empty() {
            return Ok(Connection::new(self.peer, target, now));
        }
        let mut buffer = store.buffer()?;
        buffer.load(header);
        Ok(Connection::holding((self.peer, target), buffer, now))
    }

    /// Returns when it must be looked at even if nothing became ready.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let grace = self.grace.deadline(&self.peer);
        grace.into_iter().chain(self.attempt.deadline()).min()
    }
}

fn readiness(seen: EpollFlags) -> Readiness {
    if seen.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
        Readiness::Failed
    } else if seen.is_empty() {
        Readiness::Waiting
    } else {
        Readiness::Ready
    }
}
