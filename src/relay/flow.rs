//! One direction of a connection.
//!
//! ```text
//! Open ──end read──▶ Draining ──all written, end sent on──▶ Finished
//!   └────────── sink refuses ──────────▶ Refused ◀──────────────┘ (never from Finished)
//! ```
//!
//! A flow reads only when it holds nothing, so what it holds is bounded by one read, and a failed read loses
//! nothing that was read before. The end is sent on once, after the last byte.

use nix::errno::Errno;

use super::end::End;
use super::pipes::Pipe;
use super::policy::coalesce::Coalesce;
use super::policy::splice::Splice;
use super::shared::Shared;
use super::wire::{Received, Wire};
use crate::handover::{Buffer, Owner};
use crate::peer::Family;

/// Operations of one flow before the others get their turn. A request and its answer need two; with 2, 4 and 16 neither
/// streams nor messages nor short connections differed by more than two runs of the same program do.
const BUDGET: usize = 4;

/// What a turn of a flow, a connection or a session came to that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Only an event or the deadline can change anything.
    Waiting,
    /// There is more to do after the others.
    Yielded,
    /// A machine has answered that was looked up by its name, of a session alone: [`Session::confirm`] goes on, once names
    /// were read again.
    ///
    /// [`Session::confirm`]: super::session::Session::confirm
    Reached,
}

impl Turn {
    /// Returns what two turns came to together.
    pub(crate) fn and(self, other: Turn) -> Turn {
        match (self, other) {
            (Turn::Waiting, Turn::Waiting) => Turn::Waiting,
            _ => Turn::Yielded,
        }
    }
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The source may still send.
    Open,
    /// The source has ended; what is held must be written, then the end sent on.
    Draining,
    /// The end was sent on: nothing is left to do.
    Finished,
    /// The sink takes nothing more, though there was more to come.
    Refused(Errno),
}

/// Bytes that were read and not yet written.
#[derive(Debug, Default)]
pub(crate) enum Held {
    /// None.
    #[default]
    Nothing,
    /// In a buffer.
    Copied(Box<Buffer>),
    /// In a pipe.
    Piped(Box<Pipe>),
}

/// One direction: what it holds and what it has delivered.
#[derive(Debug)]
pub(crate) struct Flow {
    state: State,
    held: Held,
    splice: Splice,
    coalesce: Coalesce,
    delivered_bytes: u64,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow::restore(State::Open, 0, Held::Nothing)
    }
}

impl Flow {
    /// Begins with bytes to deliver that are not the source's.
    pub(crate) fn holding(header: Box<Buffer>) -> Flow {
        Flow::restore(State::Open, 0, Held::Copied(header))
    }

    /// Goes on where another process has stopped.
    pub(crate) fn restore(state: State, delivered_bytes: u64, held: Held) -> Flow {
        let mut flow = Flow {
            state,
            held: Held::Nothing,
            splice: Splice::default(),
            coalesce: Coalesce::default(),
            delivered_bytes,
        };
        if !flow.is_over() {
            flow.held = held;
        }
        flow
    }

    /// Returns the buffer that it holds.
    pub(crate) fn buffer(&mut self) -> Option<&mut Buffer> {
        match &mut self.held {
            Held::Copied(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// Returns how many bytes it holds.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.held {
            Held::Nothing => 0,
            Held::Copied(buffer) => buffer.held_bytes(),
            Held::Piped(pipe) => pipe.held_bytes,
        }
    }

    /// Has the next process find the pipe that it holds.
    pub(crate) fn keep_pipe(&mut self) -> Result<(), Errno> {
        match &mut self.held {
            Held::Piped(pipe) => pipe.keep(),
            Held::Nothing | Held::Copied(_) => Ok(()),
        }
    }

    /// Writes down whose bytes it holds.
    pub(crate) fn set_owner(&self, owner: Owner) {
        match &self.held {
            Held::Nothing => {}
            Held::Copied(buffer) => buffer.set_owner(owner),
            Held::Piped(pipe) => pipe.set_owner(owner),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }

    /// Returns whether nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Finished | State::Refused(_))
    }

    /// Returns whether the source is left alone for a moment, so that small writes become larger.
    pub(crate) fn is_pausing(&self) -> bool {
        self.coalesce.is_pausing()
    }

    /// Returns whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.held, Held::Nothing)
    }

    /// Returns whether what it holds waits for room, so that nothing more is read.
    pub(crate) fn is_held_up<W>(&self, sink: &End<W>) -> bool {
        !self.is_empty() && !sink.is_writable
    }

    /// Returns what decides about small writes; the connection knows of answers and of the time.
    pub(crate) fn coalesce(&mut self) -> &mut Coalesce {
        &mut self.coalesce
    }

    /// Moves bytes until one end blocks or the budget is used up.
    ///
    /// `owner`: what the next process knows it by. `is_last`: the other direction is finished, and so closing the sink will
    /// tell it the end.
    /// Errors: the source failed, and its bytes will never be complete.
    pub(crate) fn advance<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        shared: &mut Shared,
        owner: Owner,
        is_last: bool,
    ) -> Result<Turn, Errno> {
        for _ in 0..BUDGET {
            let turn = match (&self.held, self.state) {
                (Held::Nothing, State::Open) => self.take(source, sink, shared, owner)?,
                (Held::Nothing, State::Draining) => self.send_end(sink, is_last),
                (Held::Nothing, State::Finished | State::Refused(_)) => Turn::Waiting,
                _ => self.deliver(source, sink, shared),
            };
            if turn == Turn::Waiting {
                return Ok(Turn::Waiting);
            }
        }
        Ok(Turn::Yielded)
    }

    /// Reads once, and passes on what came.
    fn take<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        shared: &mut Shared,
        owner: Owner,
    ) -> Result<Turn, Errno> {
        // Nothing is read ahead of a sink that is full, but of a source that has ended: it may have failed.
        let may_read = sink.is_writable && !self.coalesce.is_pausing();
        if !source.is_readable || !(may_read || source.is_ended) {
            return Ok(Turn::Waiting);
        }
        // splice(2) never gets past an urgent byte: it takes what is before it, and then nothing ever again
        // (tcp_read_sock in net/ipv4/tcp.c). A read does.
        let length = (self.splice.splice_bytes()).filter(|_| !source.has_urgent);
        match length.and_then(|length| Some((shared.take_pipe(owner)?, length))) {
            Some((pipe, length)) => self.take_spliced(source, pipe, length, shared),
            None => self.take_copied(source, sink, shared, owner),
        }
    }

    /// Moves what is there into a pipe.
    fn take_spliced<W: Wire>(
        &mut self,
        source: &mut End<W>,
        mut pipe: Box<Pipe>,
        length: usize,
        shared: &mut Shared,
    ) -> Result<Turn, Errno> {
        let result = source.wire.fill(&mut pipe, length);
        if let Ok(count) = result {
            self.splice.after_splice(count, source.wire.family());
        }
        if pipe.held_bytes > 0 {
            self.held = Held::Piped(pipe);
        } else {
            shared.pool().give_back(pipe);
        }
        match result {
            // In front of an urgent byte that no event has told of yet, splice(2) finds nothing, and even an end if there is
            // one behind it. So whether a source has ended is asked of a read.
            Ok(0) => self.ask_a_read(),
            Err(Errno::EAGAIN) if source.is_ended => self.ask_a_read(),
            Err(Errno::EAGAIN) => {
                source.is_readable = false;
                Ok(Turn::Waiting)
            }
            Ok(_) | Err(Errno::EINTR) => Ok(Turn::Yielded),
            Err(errno) => failed(source, errno),
        }
    }

    fn ask_a_read(&mut self) -> Result<Turn, Errno> {
        self.splice = Splice::default();
        Ok(Turn::Yielded)
    }

    /// Copies through the shared buffer, and goes over to splice when the source fills it.
    fn take_copied<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        shared: &mut Shared,
        owner: Owner,
    ) -> Result<Turn, Errno> {
        let mut buffer = shared.take_buffer(owner)?;
        let result = source.wire.read(&mut buffer);
        if let Ok(Received { count, is_short }) = result {
            let is_full = count == buffer.room();
            self.splice
                .after_read(is_full, source.wire.family(), sink.wire.family());
            // A short read has emptied the socket (epoll(7)), but for what stops one: see `is_short` and `has_urgent`. And
            // an end is not a byte: it is there to be read after all of them.
            source.is_readable = is_full || is_short || source.is_ended || source.has_urgent;
            if count > 0 && sink.is_writable {
                self.write(source, sink, &mut buffer);
            }
        }
        self.hold_or_give_back(buffer, shared);
        match result.map(|received| received.count) {
            Ok(0) => self.end(source),
            Ok(_) | Err(Errno::EINTR) => Ok(Turn::Yielded),
            Err(Errno::EAGAIN) => match source.failure {
                // All that came before the error was read by now.
                Some(errno) if source.is_ended => Err(errno),
                _ => {
                    source.is_readable = false;
                    Ok(Turn::Waiting)
                }
            },
            Err(errno) => failed(source, errno),
        }
    }

    /// The source has ended, unless the kernel knows better.
    fn end<W: Wire>(&mut self, source: &End<W>) -> Result<Turn, Errno> {
        match hidden_error(source) {
            Some(errno) => Err(errno),
            None => {
                self.state = State::Draining;
                Ok(Turn::Yielded)
            }
        }
    }

    /// Keeps a buffer for the bytes that are left in it; without any, or if nobody wants them, others get it.
    fn hold_or_give_back(&mut self, buffer: Box<Buffer>, shared: &mut Shared) {
        if buffer.held_bytes() > 0 && !self.is_over() {
            self.held = Held::Copied(buffer);
        } else {
            shared.give_buffer(buffer);
        }
    }

    /// Writes what is held.
    fn deliver<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        shared: &mut Shared,
    ) -> Turn {
        if !sink.is_writable {
            return Turn::Waiting;
        }
        match std::mem::take(&mut self.held) {
            Held::Nothing => {}
            Held::Copied(mut buffer) => {
                self.write(source, sink, &mut buffer);
                self.hold_or_give_back(buffer, shared);
            }
            Held::Piped(mut pipe) => {
                let result = sink.wire.drain(&mut pipe);
                self.delivered(source, sink, result);
                if pipe.held_bytes == 0 {
                    shared.pool().give_back(pipe);
                } else if !self.is_over() {
                    self.held = Held::Piped(pipe);
                }
            }
        }
        Turn::Yielded
    }

    fn write<W: Wire>(&mut self, source: &End<W>, sink: &mut End<W>, buffer: &mut Buffer) {
        let result = sink.wire.write(buffer);
        self.delivered(source, sink, result);
    }

    /// Notes what the sink took; a sink that fails ends this direction, and only this one: what it has still
    /// sent towards us is read by the other flow.
    fn delivered<W: Wire>(
        &mut self,
        source: &End<W>,
        sink: &mut End<W>,
        result: Result<usize, Errno>,
    ) {
        match result {
            Ok(count) => {
                self.delivered_bytes += count as u64;
                if sink.wire.family() == Family::Vsock {
                    self.coalesce.wrote(count);
                }
            }
            Err(Errno::EAGAIN) => sink.is_writable = false,
            Err(Errno::EINTR) => {}
            Err(error) => {
                // EPIPE says nothing of the other direction; any other error is of the whole socket.
                if error != Errno::EPIPE {
                    sink.failure = Some(error);
                }
                self.state = State::Refused(error);
                source.wire.refuse_input();
            }
        }
    }

    /// Half-closes onward. The last end of a connection is sent by its close, which saves a call; but when the store has the
    /// sockets as well, that is not the last close, and closing.rs makes up for it.
    fn send_end<W: Wire>(&mut self, sink: &mut End<W>, is_last: bool) -> Turn {
        if is_last && sink.wire.family() != Family::File {
            self.state = State::Finished;
            return Turn::Yielded;
        }
        let result = sink.wire.finish();
        sink.is_finished = result.is_ok();
        self.state = match result {
            Ok(()) => State::Finished,
            Err(error) => State::Refused(error),
        };
        Turn::Yielded
    }
}

/// A call on the source returned an error. recvmmsg(2) returns it before the bytes that came before it: those are read
/// first, so only a second error, or nothing, or an end behind the first one, ends the flow.
fn failed<W: Wire>(source: &mut End<W>, errno: Errno) -> Result<Turn, Errno> {
    if source.failure.is_some() {
        return Err(errno);
    }
    source.failure = Some(errno);
    source.is_ended = true;
    source.has_failed = true;
    Ok(Turn::Yielded)
}

/// Returns the error that an end really was, where the kernel knows of one.
fn hidden_error<W: Wire>(source: &End<W>) -> Option<Errno> {
    // A failed write has taken the error away from the socket, and left an end in its place (tcp(7)). But that is EPIPE if
    // the end had come before the reset (tcp_reset in net/ipv4/tcp_input.c): then all is there.
    let failure = source.failure.filter(|&error| error != Errno::EPIPE);
    failure.or_else(|| match source.wire.family() {
        // A VM that was killed reads as an end, with the error on the socket (drivers/vhost/vsock.c,
        // vhost_vsock_reset_orphans). Other families give the error to read(2) itself.
        Family::Vsock => source.wire.take_error(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::handover::Store;
    use crate::relay::fake::Fake;

    fn advance(
        flow: &mut Flow,
        source: &mut End<Fake>,
        sink: &mut End<Fake>,
    ) -> Result<Turn, Errno> {
        source.is_readable = true;
        flow.advance(
            source,
            sink,
            &mut Shared::new(Store::private().unwrap()),
            Owner::NOBODY,
            false,
        )
    }

    #[test]
    fn the_end_is_sent_on_once_and_after_the_last_byte() {
        let (mut source, mut sink) = (
            End::new(Fake::sending(&[Ok(b"abc"), Ok(b"")])),
            End::new(Fake::taking(&[2, 0, 9])),
        );
        let mut flow = Flow::default();
        assert_eq!(
            advance(&mut flow, &mut source, &mut sink),
            Ok(Turn::Waiting)
        );
        assert_eq!(
            (sink.wire.taken(), sink.wire.finished.get()),
            (b"ab".to_vec(), 0)
        );
        sink.is_writable = true;
        assert_eq!(
            advance(&mut flow, &mut source, &mut sink),
            Ok(Turn::Waiting)
        );
        assert_eq!(
            (sink.wire.taken(), sink.wire.finished.get()),
            (b"abc".to_vec(), 1)
        );
        assert_eq!((flow.state(), flow.delivered_bytes()), (State::Finished, 3));
        advance(&mut flow, &mut source, &mut sink).unwrap();
        assert_eq!(sink.wire.finished.get(), 1);
    }

    #[test]
    fn a_header_comes_first() {
        let (mut source, mut sink) = (
            End::new(Fake::sending(&[Ok(b"def"), Ok(b"")])),
            End::new(Fake::taking(&[2, 3, 9, 9])),
        );
        let store = Store::private().unwrap();
        let mut header = store.buffer().unwrap();
        header.load(b"HEAD");
        let mut flow = Flow::holding(header);
        flow.buffer().unwrap().load(b"abc");
        advance(&mut flow, &mut source, &mut sink).unwrap();
        advance(&mut flow, &mut source, &mut sink).unwrap();
        assert_eq!(sink.wire.taken(), b"HEADabcdef");
        assert_eq!(flow.state(), State::Finished);
    }

    #[test]
    fn a_source_that_fails_has_delivered_what_came_before_and_no_end() {
        let (mut source, mut sink) = (
            End::new(Fake::sending(&[Ok(b"abc"), Err(Errno::ECONNRESET)])),
            End::new(Fake::taking(&[9])),
        );
        let mut flow = Flow::default();
        assert_eq!(
            advance(&mut flow, &mut source, &mut sink),
            Err(Errno::ECONNRESET)
        );
        assert_eq!(
            (sink.wire.taken(), sink.wire.finished.get()),
            (b"abc".to_vec(), 0)
        );
    }

    #[test]
    fn an_end_that_hides_an_error_is_an_error() {
        let mut source = End::new(Fake::sending(&[Ok(b"abc"), Ok(b"")]).hiding(Errno::ECONNRESET));
        let mut sink = End::new(Fake::taking(&[9]));
        assert_eq!(
            advance(&mut Flow::default(), &mut source, &mut sink),
            Err(Errno::ECONNRESET)
        );
        assert_eq!(sink.wire.finished.get(), 0);
    }

    #[test]
    fn a_source_that_was_reset_after_its_end_has_delivered_all() {
        let script = [Ok(&b"abc"[..]), Err(Errno::EPIPE), Ok(b"def"), Ok(b"")];
        let (mut source, mut sink) = (
            End::new(Fake::sending(&script)),
            End::new(Fake::taking(&[9, 9])),
        );
        let mut flow = Flow::default();
        while advance(&mut flow, &mut source, &mut sink) == Ok(Turn::Yielded) {}
        assert_eq!(
            (sink.wire.taken(), flow.state()),
            (b"abcdef".to_vec(), State::Finished)
        );
        assert!(source.has_failed);
    }

    #[test]
    fn a_sink_that_refuses_ends_this_direction_and_tells_the_source() {
        let (mut source, mut sink) = (
            End::new(Fake::sending(&[Ok(b"abc"), Ok(b"d")])),
            End::new(Fake::taking(&[]).failing(Errno::EPIPE)),
        );
        let mut flow = Flow::default();
        assert_eq!(
            advance(&mut flow, &mut source, &mut sink),
            Ok(Turn::Waiting)
        );
        assert_eq!(flow.state(), State::Refused(Errno::EPIPE));
        assert!(source.wire.is_input_refused.get());
        assert_eq!((flow.delivered_bytes(), sink.wire.finished.get()), (0, 0));
    }

    #[test]
    fn an_end_after_a_failed_write_to_the_same_wire_is_an_error() {
        let mut peer = End::new(Fake::sending(&[Ok(b"abc")]));
        let mut target = End::new(Fake::sending(&[Ok(b"")]).failing(Errno::ECONNRESET));
        advance(&mut Flow::default(), &mut peer, &mut target).unwrap();
        assert_eq!(
            advance(&mut Flow::default(), &mut target, &mut peer),
            Err(Errno::ECONNRESET)
        );
        assert_eq!(peer.wire.finished.get(), 0);
    }

    #[test]
    fn nothing_is_read_ahead_of_a_full_sink() {
        let (mut source, mut sink) = (
            End::new(Fake::sending(&[Ok(b"abc"), Ok(b"def")])),
            End::new(Fake::taking(&[0])),
        );
        let mut flow = Flow::default();
        advance(&mut flow, &mut source, &mut sink).unwrap();
        advance(&mut flow, &mut source, &mut sink).unwrap();
        assert_eq!(source.wire.unread(), 1);
    }

    #[test]
    fn a_flow_with_more_to_do_yields_after_its_budget() {
        let chunks = vec![Ok(&b"x"[..]); 100];
        let (mut source, mut sink) = (
            End::new(Fake::sending(&chunks)),
            End::new(Fake::taking(&[1; 100])),
        );
        source.is_ended = true;
        assert_eq!(
            advance(&mut Flow::default(), &mut source, &mut sink),
            Ok(Turn::Yielded)
        );
        assert_eq!(source.wire.unread(), 100 - BUDGET);
    }

    #[test]
    fn interrupted_calls_are_tried_again() {
        let script = [
            Err(Errno::EINTR),
            Ok(&b"abc"[..]),
            Err(Errno::EINTR),
            Ok(b""),
        ];
        let (mut source, mut sink) = (
            End::new(Fake::sending(&script)),
            End::new(Fake::taking(&[9])),
        );
        let mut flow = Flow::default();
        source.is_ended = true;
        while advance(&mut flow, &mut source, &mut sink) == Ok(Turn::Yielded) {}
        assert_eq!(
            (sink.wire.taken(), flow.state()),
            (b"abc".to_vec(), State::Finished)
        );
    }

    #[test]
    fn bytes_of_a_connection_that_outlives_the_process_are_in_no_pipe_that_does_not() {
        // Nothing new is kept by a process that has only taken connections over.
        let (store, _) = Store::adopt(Store::with_queues().stored(), usize::MAX).unwrap();
        assert!(!store.keeps_at_once());
        let owner = Owner::of(1 << 32 | 1);
        let mut shared = Shared::new(store.clone());
        let pipe = shared.take_pipe(owner).unwrap();
        nix::unistd::write(pipe.input().as_fd(), b"abc").unwrap();
        let (next, inherited) = Store::adopt(store.stored(), usize::MAX).unwrap();
        let found = inherited.pipes.into_iter().filter_map(|(kept, ends)| {
            let (owner, pipe) = Pipe::adopt(&next, kept, ends)?;
            Some((owner, pipe.held_bytes))
        });
        assert_eq!(found.collect::<Vec<_>>(), [(owner, 3)]);

        let mut shared = Shared::new(Store::private().unwrap());
        assert!(shared.take_pipe(owner).is_none());
        let pipe = shared.take_pipe(Owner::NOBODY);
        assert!(pipe.is_some(), "see pipe-user-pages-soft in pipe(7)");
    }
}
