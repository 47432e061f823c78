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

use super::pipes::{Pipe, Pool};
use super::wire::{End, Wire};
use crate::stream::Family;

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
    Bytes {
        bytes: Box<[u8]>,
        written: usize,
    },
    Piped(Pipe),
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
    is_bulk: bool,
    delivered_bytes: u64,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            state: State::Open,
            held: Held::Nothing,
            is_bulk: false,
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

    /// Moves bytes until one end blocks or the budget is used up.
    ///
    /// Errors: the source failed, and its bytes will never be complete.
    pub fn advance<W: Wire>(
        &mut self,
        source: &mut End<W>,
        sink: &mut End<W>,
        tools: &mut Tools,
    ) -> Result<Turn, Errno> {
        for _ in 0..BUDGET {
            let step = match self.held {
                Held::Nothing => match self.state {
                    State::Open => self.take(source, sink, tools)?,
                    State::Draining => self.send_end(sink),
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
        if !source.is_readable || !(sink.is_writable || source.is_ended) {
            return Ok(Step::Blocked);
        }
        let pipe = if self.is_bulk {
            tools.pool.take()
        } else {
            None
        };
        let result = match pipe {
            Some(pipe) => self.fill(source, pipe, tools),
            None => self.copy(source, sink, tools),
        };
        match result {
            Ok(0) => match source.wire.hidden_error() {
                Some(error) => Err(error),
                None => {
                    self.state = State::Draining;
                    Ok(Step::Moved)
                }
            },
            Ok(_) | Err(Errno::EINTR) => Ok(Step::Moved),
            Err(Errno::EAGAIN) => {
                source.is_readable = false;
                self.is_bulk = false;
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
        let count = source.wire.read(&mut tools.buffer)?;
        if count == 0 {
            return Ok(0);
        }
        let is_full = count == tools.buffer.len();
        self.is_bulk = is_full && is_spliced(source.wire.family(), sink.wire.family());
        if !is_full && !source.is_ended && source.wire.is_emptied_by_short_read() {
            source.is_readable = false;
        }
        let written = match sink.is_writable {
            true => self.write(source, sink, &tools.buffer[..count]),
            false => 0,
        };
        if written < count && !self.is_over() {
            self.held = Held::Bytes {
                bytes: tools.buffer[written..count].into(),
                written: 0,
            };
        }
        Ok(count)
    }

    /// Moves what is there into a pipe.
    fn fill<W: Wire>(
        &mut self,
        source: &mut End<W>,
        mut pipe: Pipe,
        tools: &mut Tools,
    ) -> Result<usize, Errno> {
        let result = source.wire.fill(&mut pipe);
        if pipe.held_bytes > 0 {
            self.held = Held::Piped(pipe);
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
            Held::Bytes { bytes, written } => {
                *written += self.write(source, sink, &bytes[*written..]);
                *written == bytes.len()
            }
            Held::Piped(pipe) => {
                let result = sink.wire.drain(pipe);
                self.delivered(source, sink, result);
                pipe.held_bytes == 0
            }
        };
        match held {
            Held::Piped(pipe) if is_empty => tools.pool.give_back(pipe),
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
                return count;
            }
            Err(Errno::EAGAIN) => sink.is_writable = false,
            Err(Errno::EINTR) => {}
            Err(error) => {
                self.state = State::Refused(error);
                source.wire.refuse_input();
            }
        }
        0
    }

    /// Half-closes onward.
    fn send_end<W: Wire>(&mut self, sink: &mut End<W>) -> Step {
        self.state = match sink.wire.finish() {
            Ok(()) => State::Finished,
            Err(error) => State::Refused(error),
        };
        Step::Moved
    }
}

/// Tells whether bulk data goes through a pipe. Copying wins by a factor of two from unix to TCP, and out of
/// vsock, which has no splice of its own and allocates for the whole length asked.
fn is_spliced(source: Family, sink: Family) -> bool {
    match (source, sink) {
        (Family::File | Family::Vsock, _) | (_, Family::File) => false,
        (Family::Unix, Family::Tcp) => false,
        _ => true,
    }
}
