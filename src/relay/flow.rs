//! One direction of a connection.
//!
//! ```text
//! Open ──end read──▶ Draining ──all written, end sent on──▶ Finished
//!   └────────── sink refuses ──────────▶ Refused ◀──────────────┘ (never from Finished)
//! ```
//!
//! A flow reads only when it holds nothing, so what it holds is bounded by one read, and a failed read loses
//! nothing that was read before. The end is sent on once, after the last byte.

use std::sync::Arc;

use nix::errno::Errno;

use super::pipes::{Pipe, Pool};
use super::policy::coalesce::Coalesce;
use super::policy::splice::Splice;
use super::wire::{End, Received, Wire};
use crate::handover::{Buffer, Owner, Store};
use crate::peer::Family;

/// Operations of one flow before the others get their turn.
const BUDGET: usize = 4;

/// What all flows of a loop share.
#[derive(Debug)]
pub struct Shared {
    store: Arc<Store>,
    /// The buffer that bytes are copied through, while no flow holds it.
    buffer: Option<Box<Buffer>>,
    pool: Pool,
}

impl Shared {
    /// Begins without a buffer and without pipes.
    pub fn new(store: Arc<Store>) -> Shared {
        Shared {
            store,
            buffer: None,
            pool: Pool::default(),
        }
    }

    /// Gives what keeps connections for the next process.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Gives the pipes that nobody uses at the moment.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    fn take_buffer(&mut self, owner: Owner) -> Result<Box<Buffer>, Errno> {
        let mut buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => self.store.buffer()?,
        };
        buffer.clear(owner);
        Ok(buffer)
    }

    fn take_pipe(&mut self, owner: Owner) -> Option<Box<Pipe>> {
        let mut pipe = self.pool.take(&self.store)?;
        // The next process would go on with the connection, without what is in a pipe that it does not find.
        if owner != Owner::NOBODY && pipe.keep().is_err() {
            self.pool.give_back(pipe);
            return None;
        }
        pipe.set_owner(owner);
        Some(pipe)
    }
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
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
pub enum Held {
    /// None.
    #[default]
    Nothing,
    /// In a buffer.
    Copied(Box<Buffer>),
    /// In a pipe.
    Piped(Box<Pipe>),
}

/// Why a flow stopped for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Only an event can change anything.
    Waiting,
    /// There was more to do, and others come first.
    Yielded,
}

/// One direction: what it holds and what it has delivered.
#[derive(Debug)]
pub struct Flow {
    state: State,
    held: Held,
    splice: Splice,
    coalesce: Coalesce,
    delivered_bytes: u64,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            state: State::Open,
            held: Held::Nothing,
            splice: Splice::default(),
            coalesce: Coalesce::default(),
            delivered_bytes: 0,
        }
    }
}

/// What one operation came to.
enum Step {
    /// Something changed.
    Moved,
    /// The source or the sink must become ready first.
    Blocked,
}

impl Flow {
    /// Begins with bytes to deliver that are not the source's.
    pub fn holding(header: Box<Buffer>) -> Flow {
        Flow {
            held: Held::Copied(header),
            ..Flow::default()
        }
    }

    /// Gives the buffer that it holds.
    pub fn buffer(&mut self) -> Option<&mut Buffer> {
        match &mut self.held {
            Held::Copied(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// Goes on where another process has stopped.
    pub fn restore(state: State, delivered_bytes: u64, held: Held) -> Flow {
        let mut flow = Flow {
            state,
            delivered_bytes,
            ..Flow::default()
        };
        if !flow.is_over() {
            flow.held = held;
        }
        flow
    }

    /// Tells how many bytes it holds.
    pub fn held_bytes(&self) -> usize {
        match &self.held {
            Held::Nothing => 0,
            Held::Copied(buffer) => buffer.held_bytes(),
            Held::Piped(pipe) => pipe.held_bytes,
        }
    }

    /// Has the next process find the pipe that it holds.
    pub fn keep_pipe(&mut self) -> Result<(), Errno> {
        match &mut self.held {
            Held::Piped(pipe) => pipe.keep(),
            Held::Nothing | Held::Copied(_) => Ok(()),
        }
    }

    /// Writes down whose bytes it holds.
    pub fn set_owner(&self, owner: Owner) {
        match &self.held {
            Held::Nothing => {}
            Held::Copied(buffer) => buffer.set_owner(owner),
            Held::Piped(pipe) => pipe.set_owner(owner),
        }
    }

    /// Gives the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Gives the bytes that the sink has taken.
    pub fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }

    /// Tells whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Finished | State::Refused(_))
    }

    /// Tells whether the source is left alone for a moment, so that small writes become larger.
    pub fn is_pausing(&self) -> bool {
        self.coalesce.is_pausing()
    }

    /// Tells whether what it holds waits for room, so that nothing more is read.
    pub fn is_held_up<W>(&self, sink: &End<W>) -> bool {
        !matches!(self.held, Held::Nothing) && !sink.is_writable
    }

    /// Gives what decides about small writes; the connection knows of answers and of the time.
    pub fn coalesce(&mut self) -> &mut Coalesce {
        &mut self.coalesce
    }

    /// Moves bytes until one end blocks or the budget is used up.
    ///
    /// `owner`: what the next process knows it by. `is_last`: the other direction is finished, and so closing the sink will
    /// tell it the end.
    /// Errors: the source failed, and its bytes will never be complete.
    pub fn advance<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        shared: &mut Shared,
        owner: Owner,
        is_last: bool,
    ) -> Result<Turn, Errno> {
        for _ in 0..BUDGET {
            let step = match self.held {
                Held::Nothing => match self.state {
                    State::Open => self.take(source, sink, shared, owner)?,
                    State::Draining => self.send_end(sink, is_last),
                    State::Finished | State::Refused(_) => Step::Blocked,
                },
                _ => self.deliver(source, sink, shared),
            };
            if let Step::Blocked = step {
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
    ) -> Result<Step, Errno> {
        // Nothing is read ahead of a sink that is full, but of a source that has ended: it may have failed.
        let may_read = sink.is_writable && !self.coalesce.is_pausing();
        if !source.is_readable || !(may_read || source.is_ended) {
            return Ok(Step::Blocked);
        }
        // splice(2) never gets past an urgent byte: it takes what is before it, and then nothing ever again
        // (tcp_read_sock in net/ipv4/tcp.c). A read does.
        let length = (self.splice.splice_bytes()).filter(|_| !source.has_urgent);
        let pipe = length.and_then(|length| Some((shared.take_pipe(owner)?, length)));
        let is_spliced = pipe.is_some();
        let result = match pipe {
            Some((pipe, length)) => self.fill(source, pipe, length, shared),
            None => self.copy(source, sink, shared, owner),
        };
        // In front of an urgent byte that no event has told of yet, splice(2) finds nothing, and even an end if there is one
        // behind it. So whether a source has ended is asked of a read.
        let is_in_doubt = result == Ok(0) || result == Err(Errno::EAGAIN) && source.is_ended;
        if is_spliced && is_in_doubt {
            self.splice = Splice::default();
            return Ok(Step::Moved);
        }
        match (result, source.failure) {
            (Ok(0), _) => match hidden_error(source) {
                Some(error) => Err(error),
                None => {
                    self.state = State::Draining;
                    Ok(Step::Moved)
                }
            },
            (Ok(_) | Err(Errno::EINTR), _) => Ok(Step::Moved),
            (Err(Errno::EAGAIN), Some(error)) if source.is_ended => Err(error),
            (Err(Errno::EAGAIN), _) => {
                source.is_readable = false;
                Ok(Step::Blocked)
            }
            (Err(error), None) => {
                // It is told before the bytes that came before it (recvmmsg(2)): those are read first.
                source.failure = Some(error);
                source.is_ended = true;
                source.has_failed = true;
                Ok(Step::Moved)
            }
            (Err(error), Some(_)) => Err(error),
        }
    }

    /// Copies through the shared buffer, and goes over to splice when the source fills it.
    fn copy<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        shared: &mut Shared,
        owner: Owner,
    ) -> Result<usize, Errno> {
        let mut buffer = shared.take_buffer(owner)?;
        let result = source.wire.read(&mut buffer);
        if let Ok(Received { count, is_short }) = result {
            let is_full = count == buffer.room();
            (self.splice).after_read(is_full, source.wire.family(), sink.wire.family());
            source.is_readable = is_full || is_short || source.is_ended || source.has_urgent;
            if count > 0 && sink.is_writable {
                self.write(source, sink, &mut buffer);
            }
        }
        self.hold_or_give_back(buffer, shared);
        result.map(|received| received.count)
    }

    /// Keeps a buffer for the bytes that are left in it; without any, or if nobody wants them, others get it.
    fn hold_or_give_back(&mut self, mut buffer: Box<Buffer>, shared: &mut Shared) {
        if buffer.held_bytes() > 0 && !self.is_over() {
            self.held = Held::Copied(buffer);
            return;
        }
        if buffer.held_bytes() > 0 {
            buffer.clear(Owner::NOBODY);
        }
        shared.buffer.get_or_insert(buffer);
    }

    /// Moves what is there into a pipe.
    fn fill<W: Wire>(
        &mut self,
        source: &mut End<W>,
        mut pipe: Box<Pipe>,
        length: usize,
        shared: &mut Shared,
    ) -> Result<usize, Errno> {
        let result = source.wire.fill(&mut pipe, length);
        if let Ok(count) = result {
            self.splice.after_splice(count, source.wire.family());
        }
        if pipe.held_bytes > 0 {
            self.held = Held::Piped(pipe);
        } else {
            shared.pool.give_back(pipe);
        }
        result
    }

    /// Writes what is held.
    fn deliver<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        shared: &mut Shared,
    ) -> Step {
        if !sink.is_writable {
            return Step::Blocked;
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
                    shared.pool.give_back(pipe);
                } else if !self.is_over() {
                    self.held = Held::Piped(pipe);
                }
            }
        }
        Step::Moved
    }

    fn write<W: Wire>(&mut self, source: &End<W>, sink: &mut End<W>, buffer: &mut Buffer) {
        let result = sink.wire.write(buffer);
        self.delivered(source, sink, result);
    }

    /// Books what the sink took; a sink that fails ends this direction, and only this one: what it has still
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

    /// Half-closes onward.
    fn send_end<W: Wire>(&mut self, sink: &mut End<W>, is_last: bool) -> Step {
        if is_last && sink.wire.family() != Family::File {
            self.state = State::Finished;
            return Step::Moved;
        }
        let result = sink.wire.finish();
        sink.is_finished = result.is_ok();
        self.state = match result {
            Ok(()) => State::Finished,
            Err(error) => State::Refused(error),
        };
        Step::Moved
    }
}

/// Gives the error that an end really was, where the kernel knows of one.
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
            (sink.wire.taken(), sink.wire.finished()),
            (b"ab".to_vec(), 0)
        );
        sink.is_writable = true;
        assert_eq!(
            advance(&mut flow, &mut source, &mut sink),
            Ok(Turn::Waiting)
        );
        assert_eq!(
            (sink.wire.taken(), sink.wire.finished()),
            (b"abc".to_vec(), 1)
        );
        assert_eq!((flow.state(), flow.delivered_bytes()), (State::Finished, 3));
        advance(&mut flow, &mut source, &mut sink).unwrap();
        assert_eq!(sink.wire.finished(), 1);
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
            (sink.wire.taken(), sink.wire.finished()),
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
        assert_eq!(sink.wire.finished(), 0);
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
            End::new(Fake::failing(Errno::EPIPE)),
        );
        let mut flow = Flow::default();
        assert_eq!(
            advance(&mut flow, &mut source, &mut sink),
            Ok(Turn::Waiting)
        );
        assert_eq!(flow.state(), State::Refused(Errno::EPIPE));
        assert!(source.wire.is_input_refused());
        assert_eq!((flow.delivered_bytes(), sink.wire.finished()), (0, 0));
    }

    #[test]
    fn an_end_after_a_failed_write_to_the_same_wire_is_an_error() {
        let mut peer = End::new(Fake::sending(&[Ok(b"abc")]));
        let mut target = End::new(Fake::sending(&[Ok(b"")]).but_failing(Errno::ECONNRESET));
        advance(&mut Flow::default(), &mut peer, &mut target).unwrap();
        assert_eq!(
            advance(&mut Flow::default(), &mut target, &mut peer),
            Err(Errno::ECONNRESET)
        );
        assert_eq!(peer.wire.finished(), 0);
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
        assert!(shared.take_pipe(Owner::NOBODY).is_some());
    }
}
