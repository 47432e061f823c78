//! One peer from accept to close: first its target is reached, then bytes are relayed.

use std::ops::ControlFlow;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::asking::{self, Asking};
use super::closing::Closing;
use super::connection::{Connection, Limits};
use super::details::{self, Before};
use super::dialing::{Dialing, Progress};
use super::end::End;
use super::flow::Turn;
use super::record;
use super::shared::Shared;
use crate::accounting::closed::who;
use crate::accounting::snapshot::{Entry, Stage};
use crate::accounting::{Closed, Ending, counters};
use crate::clock::Moment;
use crate::connect::{Attempt, Caller, Dialer, Errand};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::gateway::step::Form;
use crate::handover::{Kept, Kind, Store, Words};
use crate::peer::{Destination, Peer, Side, endpoint};
use crate::stream::{Stream, Tuning};
use crate::sys;

/// Fits into one segment of every network that carries IPv6 (RFC 8200, section 5), whatever the options of TCP: a header
/// and a first request that fits beside it reach the target together, where a server may answer the first of two alone.
const SEGMENT_BYTES: usize = 1024;

/// A peer that was let in.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Its socket.
    pub stream: Stream,
    /// Who it is.
    pub peer: Peer,
    /// Where it connected to.
    pub destination: Destination,
    /// The gateway of the process before has answered its greeting.
    pub has_greeted: bool,
}

/// One peer and how far it has come.
#[derive(Debug)]
pub(crate) struct Session {
    /// Who it is.
    pub peer: Peer,
    /// When it was accepted.
    pub started: Moment,
    /// Whether it is in the ring of those that yielded.
    pub is_queued: bool,
    /// Whether its target has TCP keepalive, which short connections do without.
    pub has_keepalive: bool,
    /// What the next process finds of it, if that is to have it.
    kept: Option<Kept>,
    /// What it has asked for, if it is the gateway's, or what the process before has left of that.
    errand: Option<Box<Errand>>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// It says where it wants to go.
    Asking(Box<Asking>),
    /// The target is being connected.
    Dialing(Box<Dialing>),
    /// Bytes are relayed.
    Relaying(Connection<Stream>),
    /// Only while the one becomes the other.
    Between,
}

impl Session {
    fn new(peer: Peer, phase: Phase, started: Moment) -> Session {
        Session {
            peer,
            started,
            is_queued: false,
            has_keepalive: false,
            kept: None,
            errand: None,
            phase,
        }
    }

    /// Begins to connect to the target on behalf of a peer, who is aborted if that cannot even begin; or to wait for what it
    /// asks of the gateway.
    pub(crate) fn begin(
        arrival: Arrival,
        (dialer, caller): (&Dialer, impl FnOnce(usize) -> Caller),
        now: Moment,
    ) -> Result<Session> {
        let Arrival {
            stream,
            peer,
            destination,
            has_greeted,
        } = arrival;
        if let Some((target, asks)) = dialer.asked_by(&peer, destination) {
            let stream = dialer.tuning.limit_writes(stream, peer.cid());
            let name = caller(target).name;
            let asking = Asking::new(stream, (target, asks), name, has_greeted, now);
            return Ok(Session::new(peer, Phase::Asking(Box::new(asking)), now));
        }
        match dialer.dial(&peer, destination, caller, now) {
            Ok(attempt) => {
                let stream = dialer.tuning.limit_writes(stream, peer.cid());
                let dialing = Box::new(Dialing::new(stream, attempt, now));
                Ok(Session::new(peer, Phase::Dialing(dialing), now))
            }
            Err(error) => {
                stream.abort();
                Err(error)
            }
        }
    }

    /// Begins to relay between two connected ends.
    pub(crate) fn relay(stream: Stream, peer: Peer, target: Stream, now: Moment) -> Session {
        stream.reset_on_close(true);
        target.reset_on_close(true);
        let connection = Connection::new(End::new(stream), End::new(target), now);
        Session::new(peer, Phase::Relaying(connection), now)
    }

    /// Goes on where another process has stopped.
    pub(crate) fn restore(
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

    /// Finds what is known of whom it was brought by, and where to: later its socket does not tell any more.
    pub(crate) fn recall(&mut self, dialer: &Dialer) {
        let errand = dialer.recall(&self.peer, self.reached());
        self.errand = errand.map(Box::new);
    }

    /// Has the next process find it, unless it does already, with all that is to be known of it.
    pub(crate) fn keep(&mut self, store: &Arc<Store>) -> std::result::Result<(), Errno> {
        if let Phase::Relaying(connection) = &mut self.phase {
            connection.keep_pipes()?;
        }
        // Whoever has no target yet says once more who it brings, and a socket tells again which machine is behind it.
        let is_brought = |errand: &Errand| errand.form == Form::Proxy;
        let who = match self.errand().is_some_and(is_brought) {
            true => &self.who(),
            false => &self.peer,
        };
        let (peer, started) = (&self.peer, self.started);
        match (&self.kept, &self.phase) {
            (Some(kept), Phase::Relaying(connection)) => {
                record::write_progress(kept.words(), connection);
                connection.set_owners(kept.words());
            }
            (None, Phase::Relaying(connection)) => {
                let (peer_end, target) = connection.ends();
                let write = |words: Words<'_>| {
                    record::write_peer(words, who, started);
                    record::write_progress(words, connection);
                    // Before it is found: no process may go on with it and without the bytes that it holds.
                    connection.set_owners(words);
                };
                let descriptors = [peer_end.wire.input(), target.wire.input()];
                self.kept = Some(store.keep(Kind::Connection, write, &descriptors)?);
            }
            (None, Phase::Asking(asking)) => {
                let write = |words: Words<'_>| {
                    record::write_peer(words, peer, started);
                    record::write_greeted(words, asking.has_greeted());
                };
                self.kept = Some(store.keep(Kind::Peer, write, &[asking.peer().input()])?);
            }
            (None, Phase::Dialing(dialing)) => {
                let is_socks = |errand: &Errand| errand.form == Form::Socks;
                let has_greeted = self.errand.as_deref().is_some_and(is_socks);
                let write = |words: Words<'_>| {
                    record::write_peer(words, peer, started);
                    record::write_greeted(words, has_greeted);
                };
                self.kept = Some(store.keep(Kind::Peer, write, &[dialing.peer().input()])?);
            }
            (Some(_), Phase::Asking(_) | Phase::Dialing(_)) | (_, Phase::Between) => {}
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Returns the connection, once the target is reached.
    pub(crate) fn connection(&self) -> Option<&Connection<Stream>> {
        match &self.phase {
            Phase::Relaying(connection) => Some(connection),
            _ => None,
        }
    }

    /// Returns the connection, once the target is reached.
    pub(crate) fn connection_mut(&mut self) -> Option<&mut Connection<Stream>> {
        match &mut self.phase {
            Phase::Relaying(connection) => Some(connection),
            _ => None,
        }
    }

    /// Takes over what epoll reported of one side.
    pub(crate) fn on_events(&mut self, side: Side, events: EpollFlags) {
        details::event(&self.peer, side, events);
        match &mut self.phase {
            Phase::Asking(asking) => asking.on_events(side, events),
            Phase::Dialing(dialing) => dialing.on_events(side, events),
            Phase::Relaying(connection) => connection.on_events(side, events),
            Phase::Between => {}
        }
    }

    /// Goes on as far as possible; breaks when it is over. `watch` is called with each new stream to the target.
    pub(crate) fn advance(
        &mut self,
        dialer: &Dialer,
        shared: &mut Shared,
        now: Moment,
        watch: &mut dyn FnMut(&Stream) -> Result<()>,
    ) -> ControlFlow<Result<Ending>, Turn> {
        if let Phase::Asking(asking) = &mut self.phase {
            match asking.advance(dialer, &self.peer, &mut self.errand, now)? {
                Some(attempt) => self.asked(attempt, now),
                None => return ControlFlow::Continue(Turn::Waiting),
            }
        }
        if let Phase::Dialing(dialing) = &mut self.phase {
            if let Some(errand) = &mut self.errand {
                asking::renew(dialing, dialer, &self.peer, errand, now)?;
            }
            let step = dialing.advance(dialer, now, watch);
            if let (ControlFlow::Break(Err(error)), Some(errand)) = (&step, &self.errand) {
                errand.tell_failure(dialing.peer(), error);
            }
            let target = match step? {
                Progress::Connected(target) => target,
                Progress::Held => return ControlFlow::Continue(Turn::Reached),
                Progress::Waiting => return ControlFlow::Continue(Turn::Waiting),
            };
            if let Some(errand) = &mut self.errand {
                errand.address = reached(&target);
                if let Err(errno) = errand.tell_reached(dialing.peer()) {
                    target.abort();
                    return ControlFlow::Break(Ok(Ending::Broken(Side::Peer, errno)));
                }
            }
            if let Err(errno) = self.connected(target, dialer, shared.store(), now) {
                let error = Error::system("get memory for a header")(errno);
                return ControlFlow::Break(Err(error));
            }
        }
        self.relay_on(shared, now).map_break(Ok)
    }

    /// Learns that names were read after its machine has answered; [`Session::advance`] goes on.
    pub(crate) fn confirm(&mut self) {
        if let Phase::Dialing(dialing) = &mut self.phase {
            dialing.confirm();
        }
    }

    /// It is known what to connect to.
    fn asked(&mut self, attempt: Attempt, now: Moment) {
        if let Phase::Asking(asking) = std::mem::replace(&mut self.phase, Phase::Between) {
            let dialing = asking.into_dialing(self.errand.as_deref(), attempt, now);
            self.phase = Phase::Dialing(Box::new(dialing));
        }
    }

    /// The target is reached. The order matters to a kill: the header is in a buffer first, then the connection is kept with
    /// it, and only then may anything be sent, so that no process passes bytes of the peer on without the header.
    fn connected(
        &mut self,
        target: Stream,
        dialer: &Dialer,
        store: &Arc<Store>,
        now: Moment,
    ) -> std::result::Result<(), Errno> {
        if let Phase::Dialing(dialing) = std::mem::replace(&mut self.phase, Phase::Between) {
            let own = (self.errand.as_mut()).map(|errand| std::mem::take(&mut errand.header));
            let header = (own.filter(|header| !header.is_empty()))
                .unwrap_or_else(|| dialer.header(&self.who(), dialing.peer()));
            let connection = dialing.connected(target, &header, dialer, store, now)?;
            self.phase = Phase::Relaying(connection);
            // By the clock: the round may have begun before the peer came.
            let time = Moment::now() - self.started;
            counters::count_connect(store, time);
            details::connected(&self.peer, time);
        }
        if store.keeps_at_once() {
            // One that is not kept is served as well.
            let _ = self.keep(store).inspect_err(|&errno| store.report(errno));
        }
        if let Phase::Relaying(connection) = &mut self.phase {
            connection.add_first_bytes(SEGMENT_BYTES);
        }
        Ok(())
    }

    fn relay_on(&mut self, shared: &mut Shared, now: Moment) -> ControlFlow<Ending, Turn> {
        let Phase::Relaying(connection) = &mut self.phase else {
            return ControlFlow::Continue(Turn::Waiting);
        };
        let words = self.kept.as_ref().map(Kept::words);
        let before = Before::of(connection);
        let turn = connection.advance(shared, words, now);
        if let Some(before) = before {
            before.tell(&self.peer, connection);
        }
        if let Some(words) = words {
            record::write_progress(words, connection);
        }
        turn
    }

    /// Sets what only connections of some age need, once the target is reached.
    pub(crate) fn set_keepalive(&mut self, tuning: &Tuning) {
        let Some(connection) = self.connection() else {
            return;
        };
        let target = &connection.ends().1.wire;
        if let Err(errno) = tuning.apply_keepalive(target.input(), target.family()) {
            let cause = errno.desc();
            log::debug!("cannot set keepalive for {}: {cause}", self.peer);
        }
        self.has_keepalive = true;
    }

    /// Returns who it is to people and to its target: whom the gateway brings, else the peer.
    pub(crate) fn who(&self) -> Peer {
        let machine = match &self.phase {
            Phase::Asking(asking) => asking.machine(&self.peer),
            _ => None,
        };
        who(&machine.unwrap_or(self.peer), self.errand())
    }

    /// Returns what it has asked the gateway for.
    pub(crate) fn errand(&self) -> Option<&Errand> {
        self.errand.as_deref()
    }

    /// Returns where the peer connected to.
    pub(crate) fn destination(&self) -> Destination {
        let stream = match &self.phase {
            Phase::Asking(asking) => asking.peer(),
            Phase::Dialing(dialing) => dialing.peer(),
            Phase::Relaying(connection) => &connection.ends().0.wire,
            Phase::Between => return Destination::Unnamed,
        };
        stream.destination()
    }

    pub(crate) fn entry(&self, target: Option<Endpoint>) -> Entry {
        let (stage, bytes, active) = match self.connection() {
            Some(connection) => (
                connection.stage(),
                connection.delivered_bytes(),
                connection.active(),
            ),
            None => (Stage::Connecting, (0, 0), self.started),
        };
        Entry {
            peer: self.who(),
            target,
            stage,
            bytes,
            started: self.started,
            active,
        }
    }

    /// Returns where it is connected to, as the socket has it.
    pub(crate) fn reached(&self) -> Option<Endpoint> {
        reached(&self.connection()?.ends().1.wire)
    }

    /// Returns when it must be looked at even if nothing became ready.
    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Moment> {
        match &self.phase {
            Phase::Asking(asking) => Some(asking.deadline()),
            Phase::Dialing(dialing) => dialing.deadline(),
            Phase::Relaying(connection) => connection.deadline(limits),
            Phase::Between => None,
        }
    }

    /// Closes both ends, unless all is complete so that neither takes it for a clean end, and says how it went. One that
    /// never came to relay is aborted.
    ///
    /// Of one that is kept the sockets are left, to be closed with others.
    pub(crate) fn close(
        self,
        result: Result<Ending>,
        target: Option<Endpoint>,
        now: Moment,
    ) -> (Closed, Option<Closing>) {
        let mut closed = Closed::new(self.peer, target, result, now - self.started);
        if let Phase::Asking(asking) = &self.phase {
            closed.machine = asking.machine(&closed.peer);
        }
        closed.errand = self.errand;
        let Phase::Relaying(connection) = self.phase else {
            return (closed, None);
        };
        (closed.inbound_bytes, closed.outbound_bytes) = connection.delivered_bytes();
        let is_abort = !matches!(closed.result, Ok(Ending::Complete));
        let ends = connection.into_ends();
        // The last close resets, whoever it is done by and whenever, but for this.
        if !is_abort {
            ends.iter().for_each(|end| end.wire.reset_on_close(false));
        }
        let closing = (self.kept).map(|kept| Closing::new(kept, ends.into(), is_abort));
        (closed, closing)
    }
}

fn reached(target: &Stream) -> Option<Endpoint> {
    let address = sys::peer_address(target.input()).ok()?;
    endpoint(&address)
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
