//! A connection whose target is reached: two ends and the two flows between them.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::flow::{Flow, Shared, State, Turn};
use super::interest::Interest;
use super::policy::coalesce;
use super::token::Side;
use super::wire::{End, Wire};
use crate::clock::Moment;
use crate::handover::{Buffer, Owner, Words};
use crate::peer::Family;
use crate::stream::Stream;

/// A connection that moves so many bytes within such a time is a bulk transfer: 50 MiB a second.
const BULK_BYTES: u32 = 1 << 20;
const BULK_TIME: Duration = Duration::from_millis(20);
/// What moves less at a time does not count: messages of 4 KiB reach that rate as well, but nobody waits long behind one,
/// and the main loop answers them in half the time, because it looks for the next one ([`busy_poll`](super::policy::busy_poll)).
const MESSAGE_BYTES: u64 = 16 << 10;

/// Time limits of a relayed connection; none is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Without a byte or an end in either direction.
    pub idle: Option<Duration>,
    /// After one direction has ended, without a byte in the other.
    pub half_close: Option<Duration>,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The target is being connected.
    Connecting,
    /// Both directions are open.
    Open,
    /// One direction has ended.
    HalfClosed,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended, and every byte was taken.
    Complete,
    /// An end failed or refused bytes.
    Broken(Side, Errno),
    /// No byte moved for the idle time.
    Idle,
    /// The second direction did not end in time after the first.
    HalfClosed,
    /// The program stops, and the drain time is over.
    Stopped,
    /// The program is restarted, and the next process cannot have it.
    NotKept(Errno),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Complete => write!(f, "complete"),
            Ending::Broken(Side::Peer, errno) => write!(f, "aborted by the peer: {}", errno.desc()),
            Ending::Broken(Side::Target, errno) => {
                write!(f, "aborted by the target: {}", errno.desc())
            }
            Ending::Idle => write!(f, "closed: no byte within --idle-timeout"),
            Ending::HalfClosed => write!(f, "closed: no second end within --half-close-timeout"),
            Ending::Stopped => write!(f, "closed: still open after --drain-timeout"),
            Ending::NotKept(errno) => {
                write!(f, "closed: cannot be handed over: {}", errno.desc())
            }
        }
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Only an event or the deadline can change anything.
    Waiting,
    /// There is more to do after the others.
    Yielded,
    /// It is over; close it.
    Over(Ending),
}

/// Two ends and two flows.
#[derive(Debug)]
pub struct Connection<W> {
    peer: End<W>,
    target: End<W>,
    inbound: Flow,
    outbound: Flow,
    /// When the last byte moved, or a direction ended.
    active: Moment,
    burst_begun: Moment,
    burst_bytes: u32,
    /// Of the bytes that the target takes, those at the beginning that are not the peer's.
    header_bytes: u16,
    /// Something was written since all was last known to be acknowledged.
    is_owing: bool,
}

impl<W: Wire> Connection<W> {
    /// Begins to relay.
    pub fn new(peer: End<W>, target: End<W>, now: Moment) -> Connection<W> {
        let (inbound, outbound) = (Flow::default(), Flow::default());
        Connection {
            peer,
            target,
            inbound,
            outbound,
            active: now,
            burst_begun: now,
            burst_bytes: 0,
            header_bytes: 0,
            is_owing: true,
        }
    }

    /// Begins to relay with a header for the target, which is not counted.
    pub fn holding(ends: (End<W>, End<W>), header: Box<Buffer>, now: Moment) -> Connection<W> {
        Connection {
            header_bytes: header.held_bytes() as u16,
            inbound: Flow::holding(header),
            ..Connection::new(ends.0, ends.1, now)
        }
    }

    /// Goes on where another process has stopped; the peer's end and the inbound flow come first.
    pub fn restore(
        ends: (End<W>, End<W>),
        flows: (Flow, Flow),
        header_bytes: u16,
        active: Moment,
    ) -> Connection<W> {
        let (inbound, outbound) = flows;
        Connection {
            inbound,
            outbound,
            header_bytes,
            ..Connection::new(ends.0, ends.1, active)
        }
    }

    /// Gives both ends, the peer's first.
    pub fn ends(&self) -> (&End<W>, &End<W>) {
        (&self.peer, &self.target)
    }

    /// Gives those ends of which epoll is to report something else from now on.
    pub fn rewatch(&mut self) -> impl Iterator<Item = (Side, Interest, &W)> {
        let is_peer_held_up = self.inbound.is_held_up(&self.target);
        let is_target_held_up = self.outbound.is_held_up(&self.peer);
        let ends = [
            (Side::Peer, &mut self.peer, is_peer_held_up),
            (Side::Target, &mut self.target, is_target_held_up),
        ];
        // A file has one descriptor for each direction, and what it is watched for stays.
        ends.into_iter()
            .filter(|(_, end, _)| end.wire.family() != Family::File)
            .filter_map(|(side, end, is_held_up)| Some((side, end.rewatch(is_held_up)?, &end.wire)))
    }

    /// Gives both flows, the inbound one first.
    pub fn flows(&self) -> (&Flow, &Flow) {
        (&self.inbound, &self.outbound)
    }

    /// Takes over what epoll reported of one end.
    pub fn on_events(&mut self, side: Side, events: EpollFlags) {
        match side {
            Side::Peer => self.peer.on_events(events),
            Side::Target => self.target.on_events(events),
        }
    }

    /// Gives the bytes delivered to the target and to the peer, without the header.
    pub fn delivered_bytes(&self) -> (u64, u64) {
        let inbound = self.inbound.delivered_bytes();
        (
            inbound.saturating_sub(self.header_bytes.into()),
            self.outbound.delivered_bytes(),
        )
    }

    /// Gives the length of the header for the target.
    pub fn header_bytes(&self) -> u16 {
        self.header_bytes
    }

    /// Tells when the last byte moved.
    pub fn active(&self) -> Moment {
        self.active
    }

    /// Tells how far it has come.
    pub fn stage(&self) -> Stage {
        if self.is_half_closed() {
            Stage::HalfClosed
        } else {
            Stage::Open
        }
    }

    /// Lets both directions go on as far as they can.
    ///
    /// `kept`: the words by which the next process knows it, if that is to have it.
    pub fn advance(
        &mut self,
        shared: &mut Shared,
        kept: Option<Words<'_>>,
        now: Moment,
    ) -> Outcome {
        if self.pause_ends().is_some_and(|at| at <= now) {
            self.inbound.coalesce().resume();
            self.outbound.coalesce().resume();
        }
        let (before, was_half_closed) = (self.delivered_bytes(), self.is_half_closed());
        let is_last = self.outbound.state() == State::Finished;
        let owner = owner(kept, true);
        let (peer, target) = (&mut self.peer, &mut self.target);
        let inbound = (self.inbound).advance(peer, target, shared, owner, is_last);
        let is_last = self.inbound.state() == State::Finished;
        let owner = self::owner(kept, false);
        let outbound = (self.outbound).advance(target, peer, shared, owner, is_last);
        let after = self.delivered_bytes();
        if after != before || self.is_half_closed() != was_half_closed {
            self.active = now;
            self.is_owing = true;
            self.book(after.0 - before.0 + after.1 - before.1, now);
        }
        // Bytes of one direction answer those of the other.
        if after.0 != before.0 {
            self.outbound.coalesce().answered();
        }
        if after.1 != before.1 {
            self.inbound.coalesce().answered();
        }
        let (inbound, outbound) = match (inbound, outbound) {
            (Err(errno), _) => return Outcome::Over(Ending::Broken(Side::Peer, errno)),
            (_, Err(errno)) => return Outcome::Over(Ending::Broken(Side::Target, errno)),
            (Ok(inbound), Ok(outbound)) => (inbound, outbound),
        };
        match (self.ending(), inbound, outbound) {
            (Some(ending), ..) => Outcome::Over(ending),
            (None, Turn::Waiting, Turn::Waiting) => Outcome::Waiting,
            _ => Outcome::Yielded,
        }
    }

    /// Tells whether so much is moved that others should not wait behind it.
    pub fn is_bulk(&self) -> bool {
        self.burst_bytes >= BULK_BYTES
    }

    /// Counts the bytes that one turn has moved.
    fn book(&mut self, count: u64, now: Moment) {
        if now - self.burst_begun > BULK_TIME {
            self.burst_begun = now;
            self.burst_bytes = 0;
        }
        if count >= MESSAGE_BYTES {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.burst_bytes = self.burst_bytes.saturating_add(count);
        }
    }

    fn is_half_closed(&self) -> bool {
        self.inbound.is_over() || self.outbound.is_over()
    }

    /// How it went, if both directions are over, or an end has failed that nobody reads any more.
    fn ending(&self) -> Option<Ending> {
        let (inbound, outbound) = (self.inbound.state(), self.outbound.state());
        let told = match (inbound, outbound) {
            (State::Finished, State::Finished) => Some(Ending::Complete),
            (State::Refused(errno), _)
                if !is_disconnect(errno) || may_abort(&self.outbound, &self.peer, &self.target) =>
            {
                Some(Ending::Broken(Side::Target, errno))
            }
            (_, State::Refused(errno))
                if !is_disconnect(errno) || may_abort(&self.inbound, &self.target, &self.peer) =>
            {
                Some(Ending::Broken(Side::Peer, errno))
            }
            _ => None,
        };
        let failed = |side, end, is_unread| Some(Ending::Broken(side, failure(end, is_unread)?));
        // What the target has sent before it failed still goes to the peer, and an abort drops what is on its way.
        let is_over = || may_abort(&self.outbound, &self.peer, &self.target);
        let is_target_unread = self.target.has_failed && is_over();
        // A target that stands still must not keep the place of a peer that was reset, whose own place that is.
        let is_peer_unread = self.inbound.is_over() || self.inbound.is_held_up(&self.target);
        failed(Side::Target, &self.target, is_target_unread)
            .or(told)
            .or_else(|| failed(Side::Peer, &self.peer, is_peer_unread))
    }

    /// Returns how it ends if one of the ends has not answered for so long, though bytes are on their way to it, or if all
    /// that it still waited for is acknowledged.
    pub fn silenced(&mut self, limit: Duration) -> Option<Ending> {
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

    /// Tells whether an end may still have to acknowledge something.
    pub fn is_owing(&self) -> bool {
        self.is_owing
    }

    /// Tells when [`Connection::expired`] and [`Connection::advance`] must be asked.
    pub fn deadline(&self, limits: &Limits) -> Option<Moment> {
        let (idle, half_close) = self.deadlines(limits);
        let deadlines = [idle, half_close, self.pause_ends()];
        deadlines.into_iter().flatten().min()
    }

    /// Tells when a direction that waits for more bytes goes on; the wait began when the last byte moved.
    fn pause_ends(&self) -> Option<Moment> {
        let is_pausing = self.inbound.is_pausing() || self.outbound.is_pausing();
        is_pausing.then(|| self.active + coalesce::PAUSE)
    }

    /// Tells which limit has passed, if one has.
    pub fn expired(&mut self, limits: &Limits, now: Moment) -> Option<Ending> {
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

fn owner(kept: Option<Words<'_>>, is_inbound: bool) -> Owner {
    kept.map_or(Owner::NOBODY, |words| words.flow(is_inbound))
}

/// Tells whether a write that fails so means that the other end is there no more, and what it has sent has an end.
fn is_disconnect(errno: Errno) -> bool {
    // Any other, such as ENOBUFS, is of a living socket: nothing more may ever come from it.
    matches!(
        errno,
        Errno::EPIPE
            | Errno::ECONNRESET
            | Errno::ECONNABORTED
            | Errno::ENOTCONN
            | Errno::ETIMEDOUT
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
    )
}

/// One direction was refused by `refuser`: tells whether it is time to abort. `other` is the opposite direction, which
/// may still bring `sink` what the refuser has to say; what it has brought must arrive before the abort.
fn may_abort<W: Wire>(other: &Flow, sink: &End<W>, refuser: &End<W>) -> bool {
    match other.state() {
        State::Finished => sink.wire.is_acknowledged(),
        State::Refused(_) => true,
        // Whoever closes our stdout is done with us, though stdin may be a terminal that never ends.
        State::Open | State::Draining => refuser.wire.family() == Family::File,
    }
}

/// A reset that no read will tell of, after the end was read, or soon.
fn failure<W: Wire>(end: &End<W>, is_unread: bool) -> Option<Errno> {
    if end.has_failed && is_unread {
        end.failure.or_else(|| end.wire.take_error())
    } else {
        None
    }
}

impl Connection<Stream> {
    /// Gives both ends, the peer's first.
    pub fn streams(&self) -> (&Stream, &Stream) {
        (&self.peer.wire, &self.target.wire)
    }

    /// Adds what the peer has sent already to the header, so that both go out in one segment of so many bytes.
    pub fn add_first_bytes(&mut self, segment_bytes: usize) {
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
    pub fn keep_pipes(&mut self) -> Result<(), Errno> {
        self.inbound.keep_pipe()?;
        self.outbound.keep_pipe()
    }

    /// Writes down that what the flows hold is of the connection with these words.
    pub fn set_owners(&self, words: Words<'_>) {
        self.inbound.set_owner(words.flow(true));
        self.outbound.set_owner(words.flow(false));
    }

    /// Lets both ends go, the peer's first.
    pub fn into_ends(self) -> [End<Stream>; 2] {
        [self.peer, self.target]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::Store;
    use crate::relay::fake::Fake;

    fn connection(peer: Fake, target: Fake, now: Moment) -> Connection<Fake> {
        let mut connection = Connection::new(End::new(peer), End::new(target), now);
        let ready = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        connection.on_events(Side::Peer, ready);
        connection.on_events(Side::Target, ready);
        connection
    }

    fn run(connection: &mut Connection<Fake>, now: Moment) -> Outcome {
        let mut shared = Shared::new(Store::private().unwrap());
        loop {
            match connection.advance(&mut shared, None, now) {
                Outcome::Yielded => {}
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
        assert_eq!(run(&mut both, now), Outcome::Over(Ending::Complete));
        assert_eq!(both.delivered_bytes(), (2, 1));
    }

    #[test]
    fn the_end_of_one_direction_leaves_the_other_open() {
        let now = Moment::now();
        let mut half = connection(Fake::sending(&[Ok(b"")]), Fake::sending(&[Ok(b"c")]), now);
        assert_eq!(run(&mut half, now), Outcome::Waiting);
        assert_eq!(
            (half.target.wire.finished(), half.peer.wire.finished()),
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
            Outcome::Over(Ending::Broken(Side::Peer, Errno::ECONNRESET))
        );
    }

    #[test]
    fn a_target_that_ends_and_then_fails_ends_all() {
        let now = Moment::now();
        let mut half = connection(Fake::sending(&[]), Fake::sending(&[Ok(b"")]), now);
        assert_eq!(run(&mut half, now), Outcome::Waiting);
        half.target.wire = Fake::sending(&[]).hiding(Errno::ECONNRESET);
        half.on_events(Side::Target, EpollFlags::EPOLLERR);
        // What it has sent is on its way to the peer.
        assert_eq!(run(&mut half, now), Outcome::Waiting);
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
        assert_eq!(run(&mut broken, now), Outcome::Waiting);
        broken.target.wire = Fake::sending(&[]).hiding(Errno::EPIPE);
        broken.peer.wire = Fake::sending(&[Ok(b"too late"), Ok(b"")]);
        broken.peer.wire.is_acknowledged.set(true);
        broken.on_events(Side::Target, EpollFlags::EPOLLERR);
        broken.on_events(Side::Peer, EpollFlags::EPOLLIN);
        let ending = Ending::Broken(Side::Target, Errno::EPIPE);
        assert_eq!(run(&mut broken, now), Outcome::Over(ending));
    }

    #[test]
    fn a_target_that_takes_no_more_is_read_to_its_end_and_that_arrives_before_the_abort() {
        let now = Moment::now();
        let target = Fake::sending(&[Ok(b"answer"), Ok(b"")]).but_failing(Errno::EPIPE);
        let mut broken = connection(Fake::sending(&[Ok(b"too much")]), target, now);
        assert_eq!(run(&mut broken, now), Outcome::Waiting);
        assert_eq!(broken.peer.wire.taken(), b"answer");
        broken.peer.wire.is_acknowledged.set(true);
        let ending = Ending::Broken(Side::Target, Errno::EPIPE);
        assert_eq!(run(&mut broken, now), Outcome::Over(ending));
    }

    #[test]
    fn unanswered_small_writes_wait_for_a_millisecond_at_a_time() {
        let start = Moment::now();
        let stream = Fake::sending(&[Ok(&b"x"[..]); 40]);
        let mut one_way = connection(stream, Fake::taking(&[9; 40]), start);
        let (limits, pause) = (Limits::default(), coalesce::PAUSE);
        assert_eq!(run(&mut one_way, start), Outcome::Waiting);
        let before = one_way.delivered_bytes().0;
        assert!(before < 40);
        assert_eq!(one_way.deadline(&limits), Some(start + pause));
        assert_eq!(run(&mut one_way, start + pause / 2), Outcome::Waiting);
        assert_eq!(one_way.delivered_bytes().0, before);
        assert_eq!(run(&mut one_way, start + pause), Outcome::Waiting);
        assert!(one_way.delivered_bytes().0 > before);
    }

    #[test]
    fn answered_small_writes_never_wait() {
        let now = Moment::now();
        let messages = [Ok(&b"x"[..]); 100];
        let ends = || Fake::sending(&messages);
        let mut dialogue = connection(ends(), ends(), now);
        assert_eq!(run(&mut dialogue, now), Outcome::Waiting);
        assert_eq!(dialogue.delivered_bytes(), (100, 100));
        assert_eq!(dialogue.deadline(&Limits::default()), None);
    }

    #[test]
    fn messages_are_no_bulk_transfer_however_fast_they_follow() {
        let start = Moment::now();
        let mut one = connection(Fake::default(), Fake::default(), start);
        let turns = u64::from(BULK_BYTES) / MESSAGE_BYTES;
        for _ in 0..10 * turns {
            one.book(MESSAGE_BYTES - 1, start);
        }
        assert!(!one.is_bulk());
        for turn in 0..2 * turns {
            one.book(
                MESSAGE_BYTES,
                start + BULK_TIME / turns as u32 * 2 * turn as u32,
            );
        }
        assert!(!one.is_bulk());
        for _ in 0..turns {
            one.book(MESSAGE_BYTES, start + 9 * BULK_TIME);
        }
        assert!(one.is_bulk());
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
        run(&mut half, start + second);
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
