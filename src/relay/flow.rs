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

use super::burst::Burst;
use super::coalesce::Coalesce;
use super::pipes::{Pipe, Pool};
use super::record::{FlowRecord, StateRecord};
use super::wire::{End, Received, Wire};
use crate::peer::Family;

/// Operations of one flow before the others get their turn.
const BUDGET: usize = 4;
/// One read; also what a read must fill to be taken for bulk.
const BUFFER_BYTES: usize = 128 * 1024;

/// What all flows of a loop share.
#[derive(Debug)]
pub struct Tools {
    buffer: Box<[u8]>,
    pool: Pool,
}

impl Default for Tools {
    fn default() -> Tools {
        Tools {
            buffer: vec![0; BUFFER_BYTES].into(),
            pool: Pool::default(),
        }
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
enum Held {
    #[default]
    Nothing,
    Bytes(Box<Rest>),
    Piped(Box<Pipe>),
}

/// What a sink has not yet taken of a read.
#[derive(Debug)]
struct Rest {
    bytes: Box<[u8]>,
    written: usize,
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
    burst: Burst,
    coalesce: Coalesce,
    delivered_bytes: u64,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            state: State::Open,
            held: Held::Nothing,
            burst: Burst::default(),
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
    /// Gives what the next process must know of it, without the bytes that it holds.
    pub fn record(&self) -> FlowRecord {
        FlowRecord {
            state: match self.state {
                State::Open => StateRecord::Open,
                State::Draining => StateRecord::Draining,
                State::Finished => StateRecord::Finished,
                State::Refused(errno) => StateRecord::Refused(errno as i32),
            },
            delivered_bytes: self.delivered_bytes,
            held_bytes: self.held_bytes().len(),
            piped_bytes: self.held_pipe().map_or(0, |pipe| pipe.held_bytes),
        }
    }

    /// Goes on where another process has stopped.
    pub fn restore(record: &FlowRecord, held: &[u8], pipe: Option<Pipe>) -> Flow {
        Flow {
            state: match record.state {
                StateRecord::Open => State::Open,
                StateRecord::Draining => State::Draining,
                StateRecord::Finished => State::Finished,
                StateRecord::Refused(number) => State::Refused(Errno::from_raw(number)),
            },
            held: match pipe {
                Some(pipe) => Held::Piped(Box::new(pipe)),
                None if held.is_empty() => Held::Nothing,
                None => Held::Bytes(Box::new(Rest {
                    bytes: held.into(),
                    written: 0,
                })),
            },
            delivered_bytes: record.delivered_bytes,
            ..Flow::default()
        }
    }

    /// Gives the bytes that are held in memory.
    pub fn held_bytes(&self) -> &[u8] {
        match &self.held {
            Held::Bytes(rest) => &rest.bytes[rest.written..],
            _ => &[],
        }
    }

    /// Gives the pipe that holds bytes.
    pub fn held_pipe(&self) -> Option<&Pipe> {
        match &self.held {
            Held::Piped(pipe) => Some(pipe),
            _ => None,
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

    /// Gives what decides about small writes; the connection knows of answers and of the time.
    pub fn coalesce(&mut self) -> &mut Coalesce {
        &mut self.coalesce
    }

    /// Moves bytes until one end blocks or the budget is used up.
    ///
    /// `is_last`: the other direction is finished, and so closing the sink will tell it the end.
    /// Errors: the source failed, and its bytes will never be complete.
    pub fn advance<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        tools: &mut Tools,
        is_last: bool,
    ) -> Result<Turn, Errno> {
        for _ in 0..BUDGET {
            let step = match self.held {
                Held::Nothing => match self.state {
                    State::Open => self.take(source, sink, tools)?,
                    State::Draining => self.send_end(sink, is_last),
                    State::Finished | State::Refused(_) => Step::Blocked,
                },
                _ => self.deliver(source, sink, tools),
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
        tools: &mut Tools,
    ) -> Result<Step, Errno> {
        // Nothing is read ahead of a sink that is full, but of a source that has ended: it may have failed.
        let may_read = sink.is_writable && !self.coalesce.is_pausing();
        if !source.is_readable || !(may_read || source.is_ended) {
            return Ok(Step::Blocked);
        }
        let length = self.burst.splice_bytes();
        let result = match length.and_then(|length| Some((tools.pool.take()?, length))) {
            Some((pipe, length)) => self.fill(source, pipe, length, tools),
            None => self.copy(source, sink, tools),
        };
        match result {
            Ok(0) => match hidden_error(source) {
                Some(error) => Err(error),
                None => {
                    self.state = State::Draining;
                    Ok(Step::Moved)
                }
            },
            Ok(_) | Err(Errno::EINTR) => Ok(Step::Moved),
            Err(Errno::EAGAIN) => {
                source.is_readable = false;
                Ok(Step::Blocked)
            }
            Err(error) => Err(error),
        }
    }

    /// Copies through the shared buffer, and goes over to splice when the source fills it.
    fn copy<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        tools: &mut Tools,
    ) -> Result<usize, Errno> {
        let Received { count, is_part } = source.wire.read(&mut tools.buffer)?;
        if count == 0 {
            return Ok(0);
        }
        let is_full = count == tools.buffer.len();
        (self.burst).after_read(is_full, source.wire.family(), sink.wire.family());
        source.is_readable = is_full || is_part || source.is_ended || source.has_parts;
        let written = match sink.is_writable {
            true => self.write(source, sink, &tools.buffer[..count]),
            false => 0,
        };
        if written < count && !self.is_over() {
            let bytes = tools.buffer[written..count].into();
            self.held = Held::Bytes(Box::new(Rest { bytes, written: 0 }));
        }
        Ok(count)
    }

    /// Moves what is there into a pipe.
    fn fill<W: Wire>(
        &mut self,
        source: &mut End<W>,
        mut pipe: Pipe,
        length: usize,
        tools: &mut Tools,
    ) -> Result<usize, Errno> {
        let result = source.wire.fill(&mut pipe, length);
        if let Ok(count) = result {
            self.burst.after_splice(count, source.wire.family());
        }
        if pipe.held_bytes > 0 {
            self.held = Held::Piped(Box::new(pipe));
        } else {
            tools.pool.give_back(pipe);
        }
        result
    }

    /// Writes what is held.
    fn deliver<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        tools: &mut Tools,
    ) -> Step {
        if !sink.is_writable {
            return Step::Blocked;
        }
        let mut held = std::mem::take(&mut self.held);
        let is_empty = match &mut held {
            Held::Nothing => true,
            Held::Bytes(rest) => {
                rest.written += self.write(source, sink, &rest.bytes[rest.written..]);
                rest.written == rest.bytes.len()
            }
            Held::Piped(pipe) => {
                let result = sink.wire.drain(pipe);
                self.delivered(source, sink, result);
                pipe.held_bytes == 0
            }
        };
        match held {
            Held::Piped(pipe) if is_empty => tools.pool.give_back(*pipe),
            held if !is_empty && !self.is_over() => self.held = held,
            _ => {}
        }
        Step::Moved
    }

    fn write<W: Wire>(&mut self, source: &End<W>, sink: &mut End<W>, bytes: &[u8]) -> usize {
        let result = sink.wire.write(bytes);
        self.delivered(source, sink, result)
    }

    /// Books what the sink took; a sink that fails ends this direction, and only this one: what it has still
    /// sent towards us is read by the other flow.
    fn delivered<W: Wire>(
        &mut self,
        source: &End<W>,
        sink: &mut End<W>,
        result: Result<usize, Errno>,
    ) -> usize {
        match result {
            Ok(count) => {
                self.delivered_bytes += count as u64;
                if sink.wire.family() == Family::Vsock {
                    self.coalesce.wrote(count);
                }
                return count;
            }
            Err(Errno::EAGAIN) => sink.is_writable = false,
            Err(Errno::EINTR) => {}
            Err(error) => {
                // EPIPE says nothing of the other direction; any other error is of the whole socket.
                sink.failure = Some(error).filter(|&error| error != Errno::EPIPE);
                self.state = State::Refused(error);
                source.wire.refuse_input();
            }
        }
        0
    }

    /// Half-closes onward.
    fn send_end<W: Wire>(&mut self, sink: &mut End<W>, is_last: bool) -> Step {
        if is_last && sink.wire.family() != Family::File {
            self.state = State::Finished;
            return Step::Moved;
        }
        self.state = match sink.wire.finish() {
            Ok(()) => State::Finished,
            Err(error) => State::Refused(error),
        };
        Step::Moved
    }
}

/// Gives the error that an end really was, where the kernel knows of one.
fn hidden_error<W: Wire>(source: &End<W>) -> Option<Errno> {
    // A failed write has taken the error away from the socket, and left an end in its place (tcp(7)).
    source.failure.or_else(|| match source.wire.family() {
        // A VM that was killed reads as an end, with the error on the socket (drivers/vhost/vsock.c,
        // vhost_vsock_reset_orphans). Other families give the error to read(2) itself.
        Family::Vsock => source.wire.take_error(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::fake::Fake;

    fn advance(
        flow: &mut Flow,
        source: &mut End<Fake>,
        sink: &mut End<Fake>,
    ) -> Result<Turn, Errno> {
        source.is_readable = true;
        flow.advance(source, sink, &mut Tools::default(), false)
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
}
