//! A connection whose target is reached: two ends and the two flows between them.

use std::ops::ControlFlow;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::end::{End, Interest};
use super::ending::{self, View};
use super::flow::{Flow, State, Turn};
use super::policy::bulk::BulkDetector;
use super::policy::coalesce;
use super::shared::Shared;
use super::wire::Wire;
use crate::accounting::Ending;
use crate::accounting::snapshot::Stage;
use crate::clock::Moment;
use crate::handover::{Buffer, Owner, Words};
use crate::peer::Side;
use crate::stream::Stream;

/// Time limits of a relayed connection; none is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Without a byte or an end in either direction.
    pub idle: Option<Duration>,
    /// After one direction has ended, without a byte in the other.
    pub half_close: Option<Duration>,
}

/// Two ends and two flows.
#[derive(Debug)]
pub(crate) struct Connection<W> {
    peer: End<W>,
    target: End<W>,
    inbound: Flow,
    outbound: Flow,
    /// When the last byte moved, or a direction ended.
    active: Moment,
    bulk: BulkDetector,
    /// Of the bytes that the target takes, those at the beginning that are not the peer's.
    header_bytes: u16,
    /// Something was written since all was last known to be acknowledged.
    is_owing: bool,
}

impl<W: Wire> Connection<W> {
    pub(crate) fn new(peer: End<W>, target: End<W>, now: Moment) -> Connection<W> {
        Connection::restore((peer, target), Default::default(), 0, now)
    }

    /// Begins to relay with a header for the target, which is not counted.
    pub(crate) fn holding(
        ends: (End<W>, End<W>),
        header: Box<Buffer>,
        now: Moment,
    ) -> Connection<W> {
        let header_bytes = header.held_bytes() as u16;
        let flows = (Flow::holding(header), Flow::default());
        Connection::restore(ends, flows, header_bytes, now)
    }

    /// Goes on where another process has stopped; the peer's end and the inbound flow come first.
    pub(crate) fn restore(
        (peer, target): (End<W>, End<W>),
        (inbound, outbound): (Flow, Flow),
        header_bytes: u16,
        active: Moment,
    ) -> Connection<W> {
        Connection {
            peer,
            target,
            inbound,
            outbound,
            active,
            bulk: BulkDetector::new(active),
            header_bytes,
            is_owing: true,
        }
    }

    /// Returns both ends, the peer's first.
    pub(crate) fn ends(&self) -> (&End<W>, &End<W>) {
        (&self.peer, &self.target)
    }

    pub(crate) fn end_mut(&mut self, side: Side) -> &mut End<W> {
        match side {
            Side::Peer => &mut self.peer,
            Side::Target => &mut self.target,
        }
    }

    /// Returns both flows, the inbound one first.
    pub(crate) fn flows(&self) -> (&Flow, &Flow) {
        (&self.inbound, &self.outbound)
    }

    /// Returns what epoll is to report of one end from now on.
    pub(crate) fn wanted(&self, side: Side) -> Interest {
        match side {
            Side::Peer => self.peer.wanted(self.inbound.is_held_up(&self.target)),
            Side::Target => self.target.wanted(self.outbound.is_held_up(&self.peer)),
        }
    }

    /// Takes over what epoll reported of one end.
    pub(crate) fn on_events(&mut self, side: Side, events: EpollFlags) {
        self.end_mut(side).on_events(events);
    }

    /// Returns the bytes delivered to the target and to the peer, without the header.
    pub(crate) fn delivered_bytes(&self) -> (u64, u64) {
        let inbound = self.inbound.delivered_bytes();
        (
            inbound.saturating_sub(self.header_bytes.into()),
            self.outbound.delivered_bytes(),
        )
    }

    pub(crate) fn header_bytes(&self) -> u16 {
        self.header_bytes
    }

    pub(crate) fn active(&self) -> Moment {
        self.active
    }

    pub(crate) fn stage(&self) -> Stage {
        if self.is_half_closed() {
            Stage::HalfClosed
        } else {
            Stage::Open
        }
    }

    /// Lets both directions go on as far as they can; breaks when it is over.
    ///
    /// `kept`: the words by which the next process knows it, if that is to have it.
    pub(crate) fn advance(
        &mut self,
        shared: &mut Shared,
        kept: Option<Words<'_>>,
        now: Moment,
    ) -> ControlFlow<Ending, Turn> {
        if self.pause_ends().is_some_and(|at| at <= now) {
            self.inbound.coalesce().resume();
            self.outbound.coalesce().resume();
        }
        let before = (self.delivered_bytes(), self.is_half_closed());
        let owner = |is_inbound| kept.map_or(Owner::NOBODY, |words| words.flow(is_inbound));
        let (peer, target) = (&mut self.peer, &mut self.target);
        let is_last = self.outbound.state() == State::Finished;
        let inbound = (self.inbound).advance(peer, target, shared, owner(true), is_last);
        let is_last = self.inbound.state() == State::Finished;
        let outbound = (self.outbound).advance(target, peer, shared, owner(false), is_last);
        self.note_progress(before, now);
        let broken = |side| move |errno| Ending::Broken(side, errno);
        let inbound = inbound.map_err(broken(Side::Peer));
        let outbound = outbound.map_err(broken(Side::Target));
        match inbound.and_then(|inbound| outbound.map(|outbound| inbound.and(outbound))) {
            Ok(turn) => (self.ending()).map_or(ControlFlow::Continue(turn), ControlFlow::Break),
            Err(ending) => ControlFlow::Break(ending),
        }
    }

    /// Compares with how far it had come before this turn.
    fn note_progress(&mut self, before: ((u64, u64), bool), now: Moment) {
        let (was, is) = (before.0, self.delivered_bytes());
        if (is, self.is_half_closed()) == before {
            return;
        }
        self.active = now;
        self.is_owing = true;
        self.bulk.moved(is.0 - was.0 + is.1 - was.1, now);
        // Bytes of one direction answer those of the other.
        if is.0 != was.0 {
            self.outbound.coalesce().answered();
        }
        if is.1 != was.1 {
            self.inbound.coalesce().answered();
        }
    }

    /// Returns whether so much is moved that others should not wait behind it.
    pub(crate) fn is_bulk(&self) -> bool {
        self.bulk.is_bulk()
    }

    /// Begins anew to watch whether much is moved.
    pub(crate) fn set_calm(&mut self, now: Moment) {
        self.bulk = BulkDetector::new(now);
    }

    fn is_half_closed(&self) -> bool {
        self.inbound.is_over() || self.outbound.is_over()
    }

    fn ending(&self) -> Option<Ending> {
        let (inbound, outbound) = (&self.inbound, &self.outbound);
        let view = |side, end, from, towards| View {
            side,
            end,
            from,
            towards,
        };
        ending::of(
            &view(Side::Peer, &self.peer, inbound, outbound),
            &view(Side::Target, &self.target, outbound, inbound),
        )
    }

    /// Returns how it ends if one of the ends has not answered for so long, though bytes are on their way to it, or if all
    /// that it still waited for is acknowledged.
    pub(crate) fn silenced(&mut self, limit: Duration) -> Option<Ending> {
        let ends = [(Side::Peer, &self.peer), (Side::Target, &self.target)];
        let owing = ends.map(|(side, end)| (!end.wire.is_acknowledged()).then_some((side, end)));
        self.is_owing = owing.iter().any(Option::is_some);
        let is_silent = |end: &End<W>| end.wire.silence().is_some_and(|time| time >= limit);
        let silent = (owing.into_iter().flatten()).find(|(_, end)| is_silent(end));
        // No event tells of an acknowledgement that was waited for.
        silent.map_or_else(
            || self.ending(),
            |(side, _)| Some(Ending::Broken(side, Errno::ETIMEDOUT)),
        )
    }

    /// Returns whether an end may still have to acknowledge something.
    pub(crate) fn is_owing(&self) -> bool {
        self.is_owing
    }

    /// Returns when [`Connection::expired`] and [`Connection::advance`] must be asked.
    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Moment> {
        let (idle, half_close) = self.deadlines(limits);
        let deadlines = [idle, half_close, self.pause_ends()];
        deadlines.into_iter().flatten().min()
    }

    /// Returns when a direction that waits for more bytes goes on; the wait began when the last byte moved.
    fn pause_ends(&self) -> Option<Moment> {
        let is_pausing = self.inbound.is_pausing() || self.outbound.is_pausing();
        is_pausing.then(|| self.active + coalesce::PAUSE)
    }

    /// Returns which limit has passed, if one has.
    pub(crate) fn expired(&mut self, limits: &Limits, now: Moment) -> Option<Ending> {
        self.passed(limits, now)?;
        // A slow reader may be at what the kernel has of it for long: that moves as well, and an abort would drop it.
        let ends = [&self.peer, &self.target].into_iter();
        let moving = ends.filter(|end| !end.wire.is_acknowledged());
        if let Some(ago) = moving.filter_map(|end| end.wire.stillness()).min() {
            self.active = self.active.max(now - ago);
        }
        self.passed(limits, now)
    }

    fn passed(&self, limits: &Limits, now: Moment) -> Option<Ending> {
        let (idle, half_close) = self.deadlines(limits);
        if idle.is_some_and(|at| at <= now) {
            return Some(Ending::Idle);
        }
        half_close
            .filter(|&at| at <= now)
            .map(|_| Ending::HalfClosed)
    }

    /// Both count from the last byte, the second not before one direction has ended.
    fn deadlines(&self, limits: &Limits) -> (Option<Moment>, Option<Moment>) {
        let half_close = limits.half_close.filter(|_| self.is_half_closed());
        let after = |limit: Option<Duration>| limit.map(|limit| self.active + limit);
        (after(limits.idle), after(half_close))
    }
}

impl Connection<Stream> {
    /// Adds what the peer has sent already to the header, so that both go out in one segment of so many bytes.
    pub(crate) fn add_first_bytes(&mut self, segment_bytes: usize) {
        let Some(buffer) = self.inbound.buffer() else {
            return;
        };
        match buffer.receive_until(self.peer.wire.input(), segment_bytes) {
            // An end is there for the next read as well, an error is not.
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => {
                self.peer.failure = Some(errno);
                self.peer.is_readable = true;
            }
        }
    }

    /// Has the next process find the pipes that the flows hold.
    pub(crate) fn keep_pipes(&mut self) -> Result<(), Errno> {
        self.inbound.keep_pipe()?;
        self.outbound.keep_pipe()
    }

    /// Writes down that what the flows hold is of the connection with these words.
    pub(crate) fn set_owners(&self, words: Words<'_>) {
        self.inbound.set_owner(words.flow(true));
        self.outbound.set_owner(words.flow(false));
    }

    /// Lets both ends go, the peer's first.
    pub(crate) fn into_ends(self) -> [End<Stream>; 2] {
        [self.peer, self.target]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Store;
    use crate::peer::Family;
    use crate::relay::fake::Fake;

    fn connection(peer: Fake, target: Fake, now: Moment) -> Connection<Fake> {
        let mut connection = Connection::new(End::new(peer), End::new(target), now);
        let ready = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        connection.on_events(Side::Peer, ready);
        connection.on_events(Side::Target, ready);
        connection
    }

    fn run(connection: &mut Connection<Fake>, now: Moment) -> ControlFlow<Ending, Turn> {
        let mut shared = Shared::new(Store::private().unwrap());
        loop {
            match connection.advance(&mut shared, None, now) {
                ControlFlow::Continue(Turn::Yielded) => {}
                outcome => return outcome,
            }
        }
    }

    #[test]
    fn both_ends_make_it_complete_in_either_order() {
        let now = Moment::now();
        let mut both = connection(
            Fake::sending(&[Ok(b"ab"), Ok(b"")]),
            Fake::sending(&[Ok(b"c"), Ok(b"")]),
            now,
        );
        assert_eq!(run(&mut both, now), ControlFlow::Break(Ending::Complete));
        assert_eq!(both.delivered_bytes(), (2, 1));
    }

    #[test]
    fn the_end_of_one_direction_leaves_the_other_open() {
        let now = Moment::now();
        let mut half = connection(Fake::sending(&[Ok(b"")]), Fake::sending(&[Ok(b"c")]), now);
        assert_eq!(run(&mut half, now), ControlFlow::Continue(Turn::Waiting));
        assert_eq!(
            (
                half.target.wire.finished.get(),
                half.peer.wire.finished.get()
            ),
            (1, 0)
        );
        assert_eq!(half.delivered_bytes(), (0, 1));
    }

    #[test]
    fn a_reset_peer_ends_all_at_once_though_the_target_is_silent() {
        let now = Moment::now();
        let mut broken = connection(
            Fake::sending(&[Err(Errno::ECONNRESET)]),
            Fake::sending(&[]),
            now,
        );
        assert_eq!(
            run(&mut broken, now),
            ControlFlow::Break(Ending::Broken(Side::Peer, Errno::ECONNRESET))
        );
    }

    #[test]
    fn a_target_that_ends_and_then_fails_ends_all() {
        let now = Moment::now();
        let mut half = connection(Fake::sending(&[]), Fake::sending(&[Ok(b"")]), now);
        assert_eq!(run(&mut half, now), ControlFlow::Continue(Turn::Waiting));
        half.target.wire = Fake::sending(&[]).hiding(Errno::ECONNRESET);
        half.on_events(Side::Target, EpollFlags::EPOLLERR);
        // What it has sent is on its way to the peer.
        assert_eq!(run(&mut half, now), ControlFlow::Continue(Turn::Waiting));
        assert_eq!(half.silenced(Duration::ZERO), None);
        half.peer.wire.is_acknowledged.set(true);
        let ending = Ending::Broken(Side::Target, Errno::ECONNRESET);
        assert_eq!(half.silenced(Duration::ZERO), Some(ending));
    }

    #[test]
    fn a_target_that_ended_and_failed_is_not_complete_when_the_peer_ends_too() {
        let now = Moment::now();
        let target = Fake::sending(&[Ok(b"answer"), Ok(b"")]);
        let mut broken = connection(Fake::sending(&[]), target, now);
        assert_eq!(run(&mut broken, now), ControlFlow::Continue(Turn::Waiting));
        broken.target.wire = Fake::sending(&[]).hiding(Errno::EPIPE);
        broken.peer.wire = Fake::sending(&[Ok(b"too late"), Ok(b"")]);
        broken.peer.wire.is_acknowledged.set(true);
        broken.on_events(Side::Target, EpollFlags::EPOLLERR);
        broken.on_events(Side::Peer, EpollFlags::EPOLLIN);
        let ending = Ending::Broken(Side::Target, Errno::EPIPE);
        assert_eq!(run(&mut broken, now), ControlFlow::Break(ending));
    }

    #[test]
    fn a_target_that_takes_no_more_is_read_to_its_end_and_that_arrives_before_the_abort() {
        let now = Moment::now();
        let target = Fake::sending(&[Ok(b"answer"), Ok(b"")]).failing(Errno::EPIPE);
        let mut broken = connection(Fake::sending(&[Ok(b"too much")]), target, now);
        assert_eq!(run(&mut broken, now), ControlFlow::Continue(Turn::Waiting));
        assert_eq!(broken.peer.wire.taken(), b"answer");
        broken.peer.wire.is_acknowledged.set(true);
        let ending = Ending::Refused(Side::Target, Errno::EPIPE);
        assert_eq!(run(&mut broken, now), ControlFlow::Break(ending));
    }

    #[test]
    fn a_target_that_has_sent_all_and_takes_nothing_is_done_with_a_stdin_that_is_silent() {
        let now = Moment::now();
        let stdio = |chunks: &[Result<&[u8], Errno>]| Fake::sending(chunks).of_family(Family::File);
        let left = || {
            let target = Fake::sending(&[Ok(b"answer"), Ok(b"")]);
            target.takes_nothing.set(true);
            target
        };
        let mut silent = connection(stdio(&[]), left(), now);
        assert_eq!(run(&mut silent, now), ControlFlow::Break(Ending::Complete));
        assert_eq!(silent.peer.wire.taken(), b"answer");
        // One that only ended its direction, and a socket as the peer, which may still be sent to.
        let half = Fake::sending(&[Ok(b"answer"), Ok(b"")]);
        for mut open in [
            connection(stdio(&[]), half, now),
            connection(Fake::sending(&[]), left(), now),
        ] {
            assert_eq!(run(&mut open, now), ControlFlow::Continue(Turn::Waiting));
        }
        // There is more to come than was heard of.
        let mut behind = Connection::new(End::new(stdio(&[Ok(b"more")])), End::new(left()), now);
        behind.on_events(Side::Target, EpollFlags::EPOLLIN);
        assert_eq!(run(&mut behind, now), ControlFlow::Continue(Turn::Waiting));
    }

    #[test]
    fn unanswered_small_writes_wait_for_a_millisecond_at_a_time() {
        let start = Moment::now();
        let stream = Fake::sending(&[Ok(&b"x"[..]); 40]);
        let mut one_way = connection(stream, Fake::taking(&[9; 40]), start);
        let (limits, pause) = (Limits::default(), coalesce::PAUSE);
        assert_eq!(
            run(&mut one_way, start),
            ControlFlow::Continue(Turn::Waiting)
        );
        let before = one_way.delivered_bytes().0;
        assert!(before < 40);
        assert_eq!(one_way.deadline(&limits), Some(start + pause));
        assert_eq!(
            run(&mut one_way, start + pause / 2),
            ControlFlow::Continue(Turn::Waiting)
        );
        assert_eq!(one_way.delivered_bytes().0, before);
        assert_eq!(
            run(&mut one_way, start + pause),
            ControlFlow::Continue(Turn::Waiting)
        );
        assert!(one_way.delivered_bytes().0 > before);
    }

    #[test]
    fn answered_small_writes_never_wait() {
        let now = Moment::now();
        let messages = [Ok(&b"x"[..]); 100];
        let ends = || Fake::sending(&messages);
        let mut dialogue = connection(ends(), ends(), now);
        assert_eq!(
            run(&mut dialogue, now),
            ControlFlow::Continue(Turn::Waiting)
        );
        assert_eq!(dialogue.delivered_bytes(), (100, 100));
        assert_eq!(dialogue.deadline(&Limits::default()), None);
    }

    #[test]
    fn bytes_that_the_kernel_still_delivers_are_no_idle_time() {
        let (start, second) = (Moment::now(), Duration::from_secs(1));
        let limits = Limits {
            idle: Some(10 * second),
            half_close: None,
        };
        let mut slow = connection(Fake::sending(&[]), Fake::sending(&[]), start);
        slow.peer.wire.stillness.set(Some(4 * second));
        assert_eq!(slow.expired(&limits, start + 10 * second), None);
        assert_eq!(slow.deadline(&limits), Some(start + 16 * second));
        slow.peer.wire.stillness.set(Some(11 * second));
        let ending = Some(Ending::Idle);
        assert_eq!(slow.expired(&limits, start + 17 * second), ending);
        slow.peer.wire.stillness.set(Some(Duration::ZERO));
        slow.peer.wire.is_acknowledged.set(true);
        assert_eq!(slow.expired(&limits, start + 17 * second), ending);
    }

    #[test]
    fn limits_expire_from_the_last_byte_and_from_the_first_end() {
        let start = Moment::now();
        let second = Duration::from_secs(1);
        let limits = Limits {
            idle: Some(10 * second),
            half_close: Some(2 * second),
        };
        let mut half = connection(Fake::sending(&[Ok(b"")]), Fake::sending(&[]), start);
        assert_eq!(half.deadline(&limits), Some(start + 10 * second));
        let _ = run(&mut half, start + second);
        assert_eq!(half.deadline(&limits), Some(start + 3 * second));
        assert_eq!(half.expired(&limits, start + 2 * second), None);
        assert_eq!(
            half.expired(&limits, start + 3 * second),
            Some(Ending::HalfClosed)
        );
        assert_eq!(
            half.expired(&limits, start + 11 * second),
            Some(Ending::Idle)
        );
    }
}
