//! One peer from accept to close: first its target is reached, then bytes are relayed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::closing::Closing;
use super::connection::{Connection, Ending, Limits, Outcome, Stage};
use super::flow::Shared;
use super::inspection::Entry;
use super::interest::Interest;
use super::record;
use super::token::Side;
use super::wire::End;
use crate::clock::Moment;
use crate::connect::{Attempt, Caller, Dialer, Readiness};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::handover::{Kept, Kind, Store, Words};
use crate::peer::{Peer, inet_addr};
use crate::stream::{Stream, Tuning};

/// Fits into one segment of every network that carries IPv6 (RFC 8200, section 5), whatever the options of TCP.
const SEGMENT_BYTES: usize = 1024;

/// One peer and how far it has come.
#[derive(Debug)]
pub struct Session {
    /// Who it is.
    pub peer: Peer,
    /// Whether the gate has counted it in.
    pub is_counted: bool,
    /// When it was accepted.
    pub started: Moment,
    /// Whether it is in the ring of those that yielded.
    pub is_queued: bool,
    /// Whether it has lived long enough for the options that short connections do without.
    pub has_keepalive: bool,
    /// What the next process knows it by, if that is to have it.
    kept: Option<Kept>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The target is being connected; what epoll said of it meanwhile is kept.
    Dialing {
        peer: Box<End<Stream>>,
        attempt: Box<Attempt>,
        seen: EpollFlags,
        /// Until then a peer that has closed is dialled for all the same.
        grace: Option<Moment>,
    },
    /// Bytes are relayed.
    Relaying(Connection<Stream>),
    /// Only while one phase becomes the next.
    Gone,
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

/// A peer that connects and closes at once is seen by a target that can be reached within that time, as one over TCP is.
const GRACE: Duration = Duration::from_millis(100);

/// Returns why nobody waits for the target any more: the peer was reset, or has closed and left nothing to be delivered.
fn abandoned(peer: &End<Stream>, has_waited: bool) -> Option<Errno> {
    if peer.has_failed {
        return Some(peer.wire.take_error().unwrap_or(Errno::ECONNRESET));
    }
    (has_waited && peer.is_ended && peer.wire.is_abandoned()).then_some(Errno::EPIPE)
}

/// What a turn of a session came to.
#[derive(Debug)]
pub enum Progress {
    /// Only an event or the deadline can change anything.
    Waiting,
    /// There is more to do after the others.
    Yielded,
    /// It is over.
    Over(Ending),
    /// The target cannot be reached.
    Unreachable(Error),
}

/// How a session went, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Why it is over.
    pub ending: Ending,
    /// Bytes that the target took.
    pub inbound_bytes: u64,
    /// Bytes that the peer took.
    pub outbound_bytes: u64,
    /// From accept to close.
    pub duration: Duration,
}

/// A session that is over.
#[derive(Debug)]
pub struct Closed {
    /// Who it was.
    pub peer: Peer,
    /// Where it went, or should have gone.
    pub target: Endpoint,
    /// Whether the gate has counted it in.
    pub is_counted: bool,
    /// How it went, or why its target could not be reached.
    pub result: Result<Summary>,
}

impl Session {
    fn new(peer: Peer, phase: Phase, now: Moment) -> Session {
        Session {
            peer,
            is_counted: false,
            started: now,
            is_queued: false,
            has_keepalive: false,
            kept: None,
            phase,
        }
    }

    /// Begins to connect to the target on behalf of a peer, who is aborted if that cannot even begin.
    pub fn dial(
        stream: Stream,
        peer: Peer,
        destination: Option<SocketAddr>,
        (dialer, caller): (&Dialer, Caller),
        now: Moment,
    ) -> Result<Session> {
        match dialer.dial(&peer, destination, caller, now) {
            Ok(attempt) => {
                let stream = dialer.tuning.limit_writes(stream, peer.cid());
                let end = Box::new(End::new(stream));
                let phase = Phase::Dialing {
                    peer: end,
                    attempt: Box::new(attempt),
                    seen: EpollFlags::empty(),
                    grace: Some(now + GRACE),
                };
                Ok(Session::new(peer, phase, now))
            }
            Err(error) => {
                stream.abort();
                Err(error)
            }
        }
    }

    /// Begins to relay between two connected ends.
    pub fn relay(stream: Stream, peer: Peer, target: Stream, now: Moment) -> Session {
        target.reset_on_close(true);
        let connection = Connection::new(End::new(stream), End::new(target), now);
        Session::new(peer, Phase::Relaying(connection), now)
    }

    /// Goes on where another process has stopped.
    pub fn restore(
        connection: Connection<Stream>,
        peer: Peer,
        started: Moment,
        kept: Kept,
    ) -> Session {
        Session {
            kept: Some(kept),
            ..Session::new(peer, Phase::Relaying(connection), started)
        }
    }

    /// Has the next process find it, unless it does already, with all that is to be known of it.
    pub fn keep(&mut self, store: &Arc<Store>) -> std::result::Result<(), Errno> {
        if let Phase::Relaying(connection) = &mut self.phase {
            connection.keep_pipes()?;
        }
        let (peer, started) = (&self.peer, self.started);
        match (&self.kept, &self.phase) {
            (Some(kept), Phase::Relaying(connection)) => {
                record::write_progress(kept.words(), connection);
                connection.set_owners(kept.words());
            }
            (None, Phase::Relaying(connection)) => {
                let (peer_stream, target) = connection.streams();
                let write = |words: Words<'_>| {
                    record::write_peer(words, peer, started);
                    record::write_progress(words, connection);
                    // Before it is found: no process may go on with it and without the bytes that it holds.
                    connection.set_owners(words);
                };
                let descriptors = [peer_stream.input(), target.input()];
                self.kept = Some(store.keep(Kind::Connection, write, &descriptors)?);
            }
            (None, Phase::Dialing { peer: end, .. }) => {
                let write = |words: Words<'_>| record::write_peer(words, peer, started);
                self.kept = Some(store.keep(Kind::Peer, write, &[end.wire.input()])?);
            }
            (Some(_), Phase::Dialing { .. }) | (_, Phase::Gone) => {}
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Gives the connection, once the target is reached.
    pub fn connection(&self) -> Option<&Connection<Stream>> {
        match &self.phase {
            Phase::Relaying(connection) => Some(connection),
            _ => None,
        }
    }

    /// Takes over what epoll reported of one side.
    pub fn on_events(&mut self, side: Side, events: EpollFlags) {
        match &mut self.phase {
            Phase::Dialing { peer, .. } if side == Side::Peer => peer.on_events(events),
            Phase::Dialing { seen, .. } => *seen |= events,
            Phase::Relaying(connection) => connection.on_events(side, events),
            Phase::Gone => {}
        }
    }

    /// Gives those streams of which epoll is to report something else from now on.
    pub fn rewatch(&mut self) -> impl Iterator<Item = (Side, Interest, &Stream)> {
        let connection = match &mut self.phase {
            Phase::Relaying(connection) => Some(connection),
            _ => None,
        };
        connection.into_iter().flat_map(Connection::rewatch)
    }

    /// Goes on as far as possible. `watch` is told of each new stream to the target.
    pub fn advance(
        &mut self,
        dialer: &Dialer,
        shared: &mut Shared,
        now: Moment,
        watch: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> Progress {
        if let Phase::Dialing {
            peer,
            attempt,
            seen,
            grace,
        } = &mut self.phase
        {
            *grace = grace.filter(|&until| now < until);
            if let Some(errno) = abandoned(peer, grace.is_none()) {
                return Progress::Over(Ending::Broken(Side::Peer, errno));
            }
            match attempt.advance(dialer, readiness(*seen), now, watch) {
                Ok(None) => {
                    *seen = EpollFlags::empty();
                    return Progress::Waiting;
                }
                Err(error) => return Progress::Unreachable(error),
                Ok(Some(target)) => {
                    let store = shared.store();
                    if let Err(errno) = self.connected(target, dialer, store, now) {
                        let operation = "get memory for a header";
                        return Progress::Unreachable(Error::system(operation)(errno));
                    }
                    if store.keeps_at_once() {
                        // One that is not kept is served as well.
                        let _ = self.keep(store).inspect_err(|&errno| store.report(errno));
                    }
                    if let Phase::Relaying(connection) = &mut self.phase {
                        // Not before it is kept: no process may pass them on without the header.
                        connection.add_first_bytes(SEGMENT_BYTES);
                    }
                }
            }
        }
        let Phase::Relaying(connection) = &mut self.phase else {
            return Progress::Waiting;
        };
        let words = self.kept.as_ref().map(Kept::words);
        let outcome = connection.advance(shared, words, now);
        if let Some(words) = words {
            record::write_progress(words, connection);
        }
        match outcome {
            Outcome::Waiting => Progress::Waiting,
            Outcome::Yielded => Progress::Yielded,
            Outcome::Over(ending) => Progress::Over(ending),
        }
    }

    fn connected(
        &mut self,
        target: Stream,
        dialer: &Dialer,
        store: &Store,
        now: Moment,
    ) -> std::result::Result<(), Errno> {
        if let Phase::Dialing { peer, seen, .. } = std::mem::replace(&mut self.phase, Phase::Gone) {
            target.reset_on_close(true);
            let mut target = End::new(target);
            // The line of hybrid vsock was read until nothing more came; what is behind it is not reported again.
            let behind = if dialer.target.is_mux() {
                EpollFlags::EPOLLIN
            } else {
                EpollFlags::empty()
            };
            target.on_events(seen | behind);
            let header = dialer.header(&self.peer, &peer.wire);
            let connection = match header.is_empty() {
                true => Connection::new(*peer, target, now),
                false => {
                    let mut buffer = store.buffer()?;
                    buffer.load(&header);
                    Connection::holding((*peer, target), buffer, now)
                }
            };
            self.phase = Phase::Relaying(connection);
        }
        Ok(())
    }

    /// Gives both ends, the peer's first, once the target is reached.
    pub fn streams(&self) -> Option<(&Stream, &Stream)> {
        match &self.phase {
            Phase::Relaying(connection) => Some(connection.streams()),
            _ => None,
        }
    }

    /// Tells whether it has moved bytes since then.
    pub fn is_busy(&self, since: Moment) -> bool {
        matches!(&self.phase, Phase::Relaying(connection) if connection.active() >= since)
    }

    /// Sets what only connections of some age need, once the target is reached.
    pub fn set_keepalive(&mut self, tuning: &Tuning) {
        let Some((_, target)) = self.streams() else {
            return;
        };
        if let Err(errno) = tuning.apply_keepalive(target.input(), target.family()) {
            let cause = errno.desc();
            log::debug!("cannot set keepalive for {}: {cause}", self.peer);
        }
        self.has_keepalive = true;
    }

    /// Returns how it ends if one of its ends has not answered for so long, though bytes are on their way to it.
    pub fn silenced(&mut self, limit: Duration) -> Option<Ending> {
        match &mut self.phase {
            Phase::Relaying(connection) => connection.silenced(limit),
            _ => None,
        }
    }

    /// Tells whether one of its ends may still have to acknowledge something.
    pub fn is_owing(&self) -> bool {
        matches!(&self.phase, Phase::Relaying(connection) if connection.is_owing())
    }

    /// Gives the peer's stream.
    pub fn peer_stream(&self) -> Option<&Stream> {
        match &self.phase {
            Phase::Dialing { peer, .. } => Some(&peer.wire),
            Phase::Relaying(connection) => Some(connection.streams().0),
            Phase::Gone => None,
        }
    }

    /// Gives where a TCP peer connected to.
    pub fn destination(&self) -> Option<SocketAddr> {
        inet_addr(&self.peer_stream()?.local_address().ok()?)
    }

    /// Gives its numbers.
    pub fn entry(&self, destination: Option<SocketAddr>) -> Entry {
        let (stage, bytes, active) = match &self.phase {
            Phase::Relaying(connection) => (
                connection.stage(),
                connection.delivered_bytes(),
                connection.active(),
            ),
            _ => (Stage::Connecting, (0, 0), self.started),
        };
        Entry {
            peer: self.peer,
            destination,
            stage,
            bytes,
            started: self.started,
            active,
        }
    }

    /// Tells whether so much is moved that others should not wait behind it.
    pub fn is_bulk(&self) -> bool {
        matches!(&self.phase, Phase::Relaying(connection) if connection.is_bulk())
    }

    /// Tells when it must be looked at even if nothing became ready.
    pub fn deadline(&self, limits: &Limits) -> Option<Moment> {
        match &self.phase {
            Phase::Dialing {
                peer,
                attempt,
                grace,
                ..
            } => {
                let grace = grace.filter(|_| peer.is_ended);
                grace.into_iter().chain(attempt.deadline()).min()
            }
            Phase::Relaying(connection) => connection.deadline(limits),
            Phase::Gone => None,
        }
    }

    /// Tells which limit of a relayed connection has passed, if one has.
    pub fn expired(&mut self, limits: &Limits, now: Moment) -> Option<Ending> {
        match &mut self.phase {
            Phase::Relaying(connection) => connection.expired(limits, now),
            _ => None,
        }
    }

    /// Closes both ends, unless all is complete so that neither takes it for a clean end, and says how it went.
    ///
    /// Of one that is kept the sockets are left, to be closed with others.
    pub fn close(self, ending: Ending, now: Moment) -> (Summary, Option<Closing>) {
        let mut summary = Summary {
            ending,
            inbound_bytes: 0,
            outbound_bytes: 0,
            duration: now - self.started,
        };
        let mut closing = None;
        match (self.phase, self.kept) {
            (Phase::Dialing { .. }, _) => {}
            (Phase::Relaying(connection), kept) => {
                (summary.inbound_bytes, summary.outbound_bytes) = connection.delivered_bytes();
                let (ends, is_abort) = (connection.into_ends(), ending != Ending::Complete);
                // The last close resets, whoever it is done by and whenever, but for this.
                if !is_abort {
                    ends.iter().for_each(|end| end.wire.reset_on_close(false));
                }
                match kept {
                    Some(kept) => closing = Some(Closing::new(kept, ends.into(), is_abort)),
                    None => drop(ends),
                }
            }
            (Phase::Gone, _) => {}
        }
        (summary, closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_costs_little_memory() {
        // Two descriptors, its place in the table, and nothing on the heap besides, while it is idle.
        assert_eq!(size_of::<Session>(), 192);
    }
}
