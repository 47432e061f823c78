//! A peer whose target is still being connected: nothing is read from it, and what epoll says is kept for later.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::connection::Connection;
use super::end::End;
use crate::accounting::Ending;
use crate::clock::Moment;
use crate::connect::{Attempt, Dialer, Readiness};
use crate::error::Result;
use crate::handover::Store;
use crate::peer::Side;
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
    /// The peer has asked for a machine by its name.
    is_asked_by_name: bool,
    held: Held,
}

/// The machine of a name that has answered, and may have lost the name in that very moment: it hears nothing before names
/// were read once more.
#[derive(Debug, Default)]
struct Held {
    stream: Option<Stream>,
    is_confirmed: bool,
}

impl Drop for Held {
    /// As of an [`Attempt`] that is not wanted any more.
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
    }
}

/// How far it has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Only an event or the deadline can change anything.
    Waiting,
    /// The machine of a name is held; see [`Dialing::confirm`].
    Held,
    /// That is the target.
    Connected(Stream),
}

impl Dialing {
    /// Begins to wait for the attempt.
    pub(crate) fn new(peer: Stream, attempt: Attempt, now: Moment) -> Dialing {
        Dialing::asked(End::new(peer), (0, false), attempt, now)
    }

    /// Begins to wait for the attempt on behalf of a peer that was heard before: so many of its bytes were its request, and
    /// whether that had the name of a machine.
    pub(crate) fn asked(
        peer: End<Stream>,
        (request, is_asked_by_name): (usize, bool),
        attempt: Attempt,
        now: Moment,
    ) -> Dialing {
        Dialing {
            peer,
            attempt,
            seen: EpollFlags::empty(),
            grace: Grace::new(now),
            request,
            is_asked_by_name,
            held: Held::default(),
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
    ) -> ControlFlow<Result<Ending>, Progress> {
        if let Some(errno) = self.grace.gone(&self.peer, self.request, now) {
            return ControlFlow::Break(Ok(Ending::Broken(Side::Peer, errno)));
        }
        if self.held.stream.is_some() {
            if !self.held.is_confirmed {
                return ControlFlow::Continue(Progress::Waiting);
            }
            if self.attempt.has_moved(dialer) {
                self.leave();
            }
        }
        if let Some(target) = self.held.stream.take() {
            return ControlFlow::Continue(Progress::Connected(target));
        }
        match (self.attempt).advance(dialer, readiness(self.seen), now, watch) {
            Ok(Some(target)) if self.is_asked_by_name || self.attempt.follows_name(dialer) => {
                self.held.stream = Some(target);
                ControlFlow::Continue(Progress::Held)
            }
            Ok(Some(target)) => ControlFlow::Continue(Progress::Connected(target)),
            Ok(None) => {
                self.seen = EpollFlags::empty();
                ControlFlow::Continue(Progress::Waiting)
            }
            Err(error) => ControlFlow::Break(Err(error)),
        }
    }

    /// Learns that names were read after the machine has answered that is held.
    pub(crate) fn confirm(&mut self) {
        self.held.is_confirmed = self.held.stream.is_some();
    }

    /// Makes another attempt instead, if it leads elsewhere.
    pub(crate) fn lead(&mut self, attempt: Attempt) {
        if !attempt.leads_as(&self.attempt) {
            self.leave();
            self.attempt = attempt;
        }
    }

    /// Leaves the machine that had the name; what epoll said of it is over.
    fn leave(&mut self) {
        self.held = Held::default();
        self.seen = EpollFlags::empty();
    }

    /// Returns whether a machine is held, and names were read since.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.held.is_confirmed
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
