//! One end of one connection of the load, at the peer or at the target: what it sends, what it expects, and when it is
//! done. It never waits; the engine calls it when the socket is ready.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use crate::board::{Board, Count};
use crate::greeting::{self, Greeting, Service};
use crate::outflow::Outflow;
use crate::pattern::Start;
use crate::socket;

/// What a session asks of its engine.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on watching it.
    Keep,
    /// It is done or broken: drop it.
    Close,
    /// The greeting asks for a service of another thread.
    HandOver,
}

/// What an engine lends to the session that it calls, and what the session leaves there.
#[derive(Debug)]
pub struct Scratch {
    /// Room for one read.
    pub buffer: Vec<u8>,
    /// Nanoseconds from each question to its answer.
    pub latencies: Vec<u32>,
    /// Answers that were complete.
    pub answered: u64,
    /// Peers that would ask again close instead.
    pub is_last_answer: bool,
}

/// What a peer does after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAnswer {
    /// Asks again at once.
    AskAgain,
    /// Stays connected and silent.
    Hold,
    /// Closes.
    Close,
}

/// How a connection to a machine with hybrid vsock begins, `CONNECT PORT`, and the answer of its monitor.
const HYBRID_REQUEST: &[u8] = b"CONNECT ";
const HYBRID_ANSWER: &[u8] = b"OK 1\n";

/// What this end is for.
#[derive(Debug)]
enum Role {
    /// Target: the greeting is not complete yet.
    Greeting {
        bytes: [u8; greeting::LENGTH],
        have: usize,
    },
    /// Target: waits for the end of the flow; belongs to a thread of its own.
    AnswerAfterEnd { delay_ms: u32 },
    /// Either: streams until the board says stop.
    Bulk { is_peer: bool, is_sender: bool },
    /// Target: answers each complete message.
    Echo { size_bytes: u64 },
    /// Peer: has sent a message and times the answer.
    Ask {
        size_bytes: u64,
        asked: Instant,
        after: AfterAnswer,
    },
}

/// One end of one connection.
#[derive(Debug)]
pub struct Session {
    file: File,
    board: Arc<Board>,
    role: Role,
    out: Outflow,
    incoming: Start,
    received: u64,
    stream: u32,
}

impl Session {
    /// The target's end of a connection that the relay has just made.
    pub fn accepted(file: File, board: Arc<Board>) -> Self {
        let role = Role::Greeting {
            bytes: [0; greeting::LENGTH],
            have: 0,
        };
        Self::new(file, board, role, 0, Start::outbound(0), Start::inbound(0))
    }

    /// The peer's end of a stream; its number must be a lane of the board.
    pub fn bulk_peer(
        file: File,
        board: Arc<Board>,
        stream: u32,
        inbound: bool,
        outbound: bool,
    ) -> Self {
        let role = Role::Bulk {
            is_peer: true,
            is_sender: inbound,
        };
        let mut session = Self::new(
            file,
            board,
            role,
            stream,
            Start::inbound(stream),
            Start::outbound(stream),
        );
        session.out.allowed = if inbound { u64::MAX } else { 0 };
        session.greet(Service::Bulk { inbound, outbound })
    }

    /// The peer's end of questions and answers. A question goes out in two writes when `first_write` is not 0.
    pub fn asker(
        file: File,
        board: Arc<Board>,
        stream: u32,
        size_bytes: u32,
        first_write: u64,
        after: AfterAnswer,
    ) -> Self {
        let role = Role::Ask {
            size_bytes: size_bytes.into(),
            asked: Instant::now(),
            after,
        };
        let mut session = Self::new(
            file,
            board,
            role,
            stream,
            Start::inbound(stream),
            Start::outbound(stream),
        );
        session.out.allowed = size_bytes.into();
        session.out.message = size_bytes.into();
        session.out.first_write = first_write;
        session.greet(Service::Echo { size_bytes })
    }

    fn new(
        file: File,
        board: Arc<Board>,
        role: Role,
        stream: u32,
        outgoing: Start,
        incoming: Start,
    ) -> Self {
        let out = Outflow::new(outgoing);
        Self {
            file,
            board,
            role,
            out,
            incoming,
            received: 0,
            stream,
        }
    }

    fn greet(mut self, service: Service) -> Self {
        let stream = self.stream;
        self.out.greet(Greeting { service, stream });
        self
    }

    /// The socket, to be watched.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What to wait for.
    pub fn interest(&self) -> EpollFlags {
        match self.out.is_drained() {
            true => EpollFlags::EPOLLIN,
            false => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }

    /// The delay of an answer that waits for the end, if that is what the peer wants.
    pub fn answer_delay_ms(&self) -> Option<u32> {
        match self.role {
            Role::AnswerAfterEnd { delay_ms } => Some(delay_ms),
            _ => None,
        }
    }

    /// The socket, the board and the number, for a thread that goes on alone.
    pub fn into_parts(self) -> (File, Arc<Board>, u32, u64) {
        (self.file, self.board, self.stream, self.received)
    }

    /// Takes the socket down so that nothing of it stays in the kernel.
    pub fn discard(self) {
        socket::discard_on_close(&self.file);
    }

    /// Does what the socket is ready for: at most one read, and the writes that are due.
    pub fn on_ready(&mut self, events: EpollFlags, scratch: &mut Scratch) -> Next {
        let is_readable =
            events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        if is_readable {
            match self.file.read(&mut scratch.buffer) {
                Ok(0) => return self.on_end(None),
                Ok(length) => {
                    let buffer = std::mem::take(&mut scratch.buffer);
                    let next = self.on_bytes(&buffer[..length], scratch);
                    scratch.buffer = buffer;
                    if next != Next::Keep {
                        return next;
                    }
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return self.on_end(Some(error)),
            }
        }
        match self.flush() {
            Ok(()) => Next::Keep,
            Err(error) if is_transient(&error) => Next::Keep,
            Err(error) => self.on_end(Some(error)),
        }
    }

    /// Writes what may be written: all of a message, but only one chunk of a stream, so that streams take turns.
    fn flush(&mut self) -> io::Result<()> {
        if let Role::Bulk {
            is_sender: true, ..
        } = self.role
        {
            return self.flush_stream();
        }
        while !self.out.is_drained() {
            self.out.write(&mut self.file)?;
        }
        Ok(())
    }

    fn flush_stream(&mut self) -> io::Result<()> {
        if self.board.is_stopping() && self.out.has_greeted() {
            self.out.allowed = self.out.sent;
            self.count_of_sent().has_ended.store(true, Relaxed);
            return Ok(());
        }
        let written = self.out.write(&mut self.file)?;
        self.count_of_sent().sent.fetch_add(written, Relaxed);
        Ok(())
    }

    fn count_of_sent(&self) -> &Count {
        let lane = &self.board.lanes[self.stream as usize];
        if self.is_peer() {
            &lane.inbound
        } else {
            &lane.outbound
        }
    }

    fn count_of_received(&self) -> &AtomicU64 {
        let lane = &self.board.lanes[self.stream as usize];
        if self.is_peer() {
            &lane.outbound.received
        } else {
            &lane.inbound.received
        }
    }

    fn is_peer(&self) -> bool {
        matches!(
            self.role,
            Role::Bulk { is_peer: true, .. } | Role::Ask { .. }
        )
    }

    fn on_bytes(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Next {
        match &mut self.role {
            Role::Greeting { have: 0, .. } if bytes.starts_with(HYBRID_REQUEST) => {
                // It comes in one write, and nothing behind it before the answer.
                match self.file.write_all(HYBRID_ANSWER) {
                    Ok(()) => Next::Keep,
                    Err(error) => self.on_end(Some(error)),
                }
            }
            Role::Greeting {
                bytes: greeting,
                have,
            } => {
                let taken = bytes.len().min(greeting::LENGTH - *have);
                greeting[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                *have += taken;
                if *have < greeting::LENGTH {
                    return Next::Keep;
                }
                let greeting = *greeting;
                self.on_greeting(&greeting, &bytes[taken..], scratch)
            }
            Role::AnswerAfterEnd { .. } => {
                self.check(bytes);
                Next::Keep
            }
            Role::Bulk { .. } => {
                self.check(bytes);
                self.count_of_received()
                    .fetch_add(bytes.len() as u64, Relaxed);
                Next::Keep
            }
            Role::Echo { size_bytes } => {
                let size_bytes = *size_bytes;
                self.check(bytes);
                self.out.allowed = self.received / size_bytes * size_bytes;
                Next::Keep
            }
            Role::Ask { .. } => self.on_answer(bytes, scratch),
        }
    }

    fn on_greeting(
        &mut self,
        greeting: &[u8; greeting::LENGTH],
        rest: &[u8],
        scratch: &mut Scratch,
    ) -> Next {
        let Some(greeting) = Greeting::decode(greeting) else {
            self.board.add_wrong(greeting::LENGTH as u64);
            self.board
                .fail(|| "the target got a greeting that no peer sent".into());
            return Next::Close;
        };
        self.stream = greeting.stream;
        self.incoming = Start::inbound(greeting.stream);
        self.out.start = Start::outbound(greeting.stream);
        self.role = match greeting.service {
            Service::Bulk { outbound, .. } => {
                self.out.allowed = if outbound { u64::MAX } else { 0 };
                Role::Bulk {
                    is_peer: false,
                    is_sender: outbound,
                }
            }
            Service::Echo { size_bytes } => Role::Echo {
                size_bytes: size_bytes.into(),
            },
            Service::AnswerAfterEnd { delay_ms } => Role::AnswerAfterEnd { delay_ms },
        };
        if !rest.is_empty() {
            self.on_bytes(rest, scratch);
        }
        match self.role {
            Role::Bulk { .. } | Role::AnswerAfterEnd { .. } => Next::HandOver,
            _ => Next::Keep,
        }
    }

    fn on_answer(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Next {
        self.check(bytes);
        let Role::Ask {
            size_bytes,
            asked,
            after,
        } = &mut self.role
        else {
            return Next::Keep;
        };
        if self.received < self.out.allowed {
            return Next::Keep;
        }
        let now = Instant::now();
        let nanoseconds = now.duration_since(*asked).as_nanos();
        scratch
            .latencies
            .push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
        scratch.answered += 1;
        *asked = now;
        match after {
            AfterAnswer::AskAgain if scratch.is_last_answer => return Next::Close,
            AfterAnswer::AskAgain => self.out.allowed += *size_bytes,
            AfterAnswer::Hold => {}
            AfterAnswer::Close => return Next::Close,
        }
        Next::Keep
    }

    fn check(&mut self, bytes: &[u8]) {
        self.board
            .add_wrong(self.incoming.count_wrong(self.received, bytes));
        self.received += bytes.len() as u64;
    }

    /// The other side has ended or broken the connection. Whether that is a failure depends on what was still to come.
    fn on_end(&mut self, error: Option<io::Error>) -> Next {
        let how = || {
            error
                .as_ref()
                .map_or("ended".to_string(), |error| format!("broke ({error})"))
        };
        match &self.role {
            Role::Greeting { have: 0, .. } | Role::AnswerAfterEnd { .. } => {}
            Role::Greeting { .. } => self
                .board
                .fail(|| format!("a connection {} within the greeting", how())),
            Role::Echo { size_bytes } if self.received % size_bytes == 0 => {}
            Role::Echo { .. } => self
                .board
                .fail(|| format!("a connection {} within a message", how())),
            Role::Bulk { is_peer: true, .. } => self
                .board
                .fail(|| format!("a stream {} at the peer", how())),
            Role::Bulk { is_peer: false, .. } => self
                .board
                .fail(|| format!("a stream {} at the target", how())),
            Role::Ask { .. } => self
                .board
                .fail(|| format!("a connection {} before its answer", how())),
        }
        Next::Close
    }
}

/// No end, only nothing to be had now.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
