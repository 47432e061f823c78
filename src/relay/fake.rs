//! A wire of the tests, which answers each call with what its script says, as the kernel may.
//!
//! A script says what the wire sends and how much it takes, with short counts, EAGAIN, EINTR, ends and errors at any place.
//! Events come as from an edge-triggered epoll: once, after the call that met the edge, and never again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::unistd::{read, write};

use super::end::Interest;
use super::pipes::Pipe;
use super::wire::{Received, Wire};
use crate::handover::Buffer;
use crate::peer::Family;

/// What the next read meets.
#[derive(Clone, Debug)]
pub(super) enum Arrival {
    Bytes(Vec<u8>),
    Nothing,
    Interrupt,
    /// An urgent byte, which is not delivered: a read stops in front of it once, splice(2) always (tcp(7)).
    Urgent,
    /// An error that the next call knows nothing of.
    Error(Errno),
    /// An end that may not be the last arrival.
    End,
}

/// How the stream goes on after all arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// Neither bytes nor an end.
    Silence,
    End,
    /// An error, which the kernel tells once; then an end.
    Error,
    /// An error that comes before the last bytes (recvmmsg(2)).
    EarlyError,
    /// An end that the socket knows to be an error (vsock).
    HiddenError,
}

/// What the next write meets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Room {
    Bytes(usize),
    None,
    Interrupt,
    Broken(Errno),
}

#[derive(Clone, Debug)]
pub(super) struct Script {
    pub arrivals: Vec<Arrival>,
    pub last: Last,
    pub rooms: Vec<Room>,
    /// What writes meet after that.
    pub rooms_end: Room,
    pub family: Family,
}

/// A wire that follows a script.
#[derive(Debug)]
pub(super) struct Fake {
    arrivals: RefCell<VecDeque<Arrival>>,
    last: Last,
    rooms: RefCell<VecDeque<Room>>,
    rooms_end: Room,
    family: Family,
    /// Whether a read may have left bytes though there was room for more.
    is_short: bool,
    interest: Cell<Interest>,
    /// What reads and splices have taken from it.
    pub sent: RefCell<Vec<u8>>,
    pub taken: RefCell<Vec<u8>>,
    /// Edges that epoll has to report.
    pub events: Cell<EpollFlags>,
    has_told_error: Cell<bool>,
    has_told_end: Cell<bool>,
    /// What is behind an end, once.
    hidden: Cell<Option<Errno>>,
    pub broken: Cell<Option<Errno>>,
    pub finished: Cell<usize>,
    pub is_input_refused: Cell<bool>,
    pub is_acknowledged: Cell<bool>,
    pub stillness: Cell<Option<Duration>>,
    pub takes_nothing: Cell<bool>,
}

impl Fake {
    pub(super) fn new(script: Script) -> Fake {
        Fake {
            arrivals: RefCell::new(script.arrivals.into()),
            last: script.last,
            rooms: RefCell::new(script.rooms.into()),
            rooms_end: script.rooms_end,
            interest: Cell::new(Interest::connected(script.family)),
            family: script.family,
            is_short: false,
            sent: RefCell::default(),
            taken: RefCell::default(),
            events: Cell::new(EpollFlags::EPOLLIN),
            has_told_error: Cell::new(false),
            has_told_end: Cell::new(false),
            hidden: Cell::new(None),
            broken: Cell::new(None),
            finished: Cell::new(0),
            is_input_refused: Cell::new(false),
            is_acknowledged: Cell::new(false),
            stillness: Cell::new(None),
            takes_nothing: Cell::new(false),
        }
    }

    /// A vsock wire that sends these chunks, of which an empty one is an end, and takes everything.
    pub(super) fn sending(chunks: &[Result<&[u8], Errno>]) -> Fake {
        let arrival = |chunk: &Result<&[u8], Errno>| match *chunk {
            Ok([]) => Arrival::End,
            Ok(bytes) => Arrival::Bytes(bytes.to_vec()),
            Err(Errno::EINTR) => Arrival::Interrupt,
            Err(errno) => Arrival::Error(errno),
        };
        let script = Script {
            arrivals: chunks.iter().map(arrival).collect(),
            last: Last::Silence,
            rooms: Vec::new(),
            rooms_end: Room::Bytes(usize::MAX),
            family: Family::Vsock,
        };
        Fake {
            is_short: true,
            ..Fake::new(script)
        }
    }

    /// Takes that many bytes at each write, and none after that; 0 would block.
    pub(super) fn taking(room: &[usize]) -> Fake {
        let room = room.iter().map(|&count| match count {
            0 => Room::None,
            count => Room::Bytes(count),
        });
        Fake {
            rooms: RefCell::new(room.collect()),
            rooms_end: Room::None,
            ..Fake::sending(&[])
        }
    }

    /// Is of another family.
    pub(super) fn of_family(self, family: Family) -> Fake {
        Fake { family, ..self }
    }

    /// Fails at each write.
    pub(super) fn failing(self, errno: Errno) -> Fake {
        self.broken.set(Some(errno));
        self
    }

    /// Has an error behind its end.
    pub(super) fn hiding(self, errno: Errno) -> Fake {
        self.hidden.set(Some(errno));
        self
    }

    pub(super) fn taken(&self) -> Vec<u8> {
        self.taken.borrow().clone()
    }

    /// Arrivals that were not read.
    pub(super) fn unread(&self) -> usize {
        self.arrivals.borrow().len()
    }

    fn report(&self, events: EpollFlags) {
        self.events.set(self.events.get() | events);
    }

    /// What is there is reported at once.
    pub(super) fn change(&self, interest: Interest) {
        self.interest.set(interest);
        self.report_arrival();
        if interest.room {
            self.report(EpollFlags::EPOLLOUT);
        }
    }

    /// The edge at which the next read will find something.
    fn report_arrival(&self) {
        let is_over = self.arrivals.borrow().is_empty();
        match self.last {
            _ if !is_over && !self.interest.get().input => {}
            _ if self.is_at_urgent() => self.report(EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI),
            _ if !is_over => self.report(EpollFlags::EPOLLIN),
            Last::Silence => {}
            Last::End => self.report(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP),
            _ => self.report(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP),
        }
    }

    fn is_at_urgent(&self) -> bool {
        matches!(self.arrivals.borrow().front(), Some(Arrival::Urgent))
    }

    /// What a splice of so many gets.
    fn arrive_spliced(&self, length: usize) -> Result<Vec<u8>, Errno> {
        if !self.is_at_urgent() {
            return self.arrive(length);
        }
        let is_open = |arrival: &Arrival| matches!(arrival, Arrival::Nothing);
        if self.last == Last::End && !self.arrivals.borrow().iter().any(is_open) {
            return Ok(Vec::new());
        }
        self.report_arrival();
        Err(Errno::EAGAIN)
    }

    /// What a read of so many gets.
    fn arrive(&self, room: usize) -> Result<Vec<u8>, Errno> {
        let mut arrivals = self.arrivals.borrow_mut();
        while matches!(arrivals.front(), Some(Arrival::Urgent)) {
            arrivals.pop_front();
        }
        if self.last == Last::EarlyError
            && arrivals.len() <= 1
            && !self.has_told_error.replace(true)
        {
            return Err(Errno::ECONNRESET);
        }
        match arrivals.pop_front() {
            Some(Arrival::Bytes(mut bytes)) if bytes.len() > room => {
                let rest = bytes.split_off(room);
                arrivals.push_front(Arrival::Bytes(rest));
                Ok(bytes)
            }
            Some(Arrival::Bytes(bytes)) => {
                drop(arrivals);
                if bytes.len() < room {
                    self.report_arrival();
                }
                Ok(bytes)
            }
            Some(Arrival::Nothing) => {
                drop(arrivals);
                self.report_arrival();
                Err(Errno::EAGAIN)
            }
            Some(Arrival::Interrupt) => Err(Errno::EINTR),
            Some(Arrival::Error(errno)) => Err(errno),
            Some(Arrival::End) => Ok(Vec::new()),
            Some(Arrival::Urgent) | None => match self.last {
                Last::Silence => Err(Errno::EAGAIN),
                Last::Error if !self.has_told_error.replace(true) => Err(Errno::ECONNRESET),
                _ => {
                    self.has_told_end.set(true);
                    Ok(Vec::new())
                }
            },
        }
    }

    fn send(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.sent.borrow_mut().extend(&bytes);
        bytes
    }

    /// How many bytes a write of so many brings away.
    fn make_room(&self, count: usize) -> Result<usize, Errno> {
        if let Some(errno) = self.broken.get() {
            return Err(errno);
        }
        match self
            .rooms
            .borrow_mut()
            .pop_front()
            .unwrap_or(self.rooms_end)
        {
            Room::Bytes(room) => Ok(count.min(room)),
            Room::None => {
                if self.interest.get().room {
                    self.report(EpollFlags::EPOLLOUT);
                }
                Err(Errno::EAGAIN)
            }
            Room::Interrupt => Err(Errno::EINTR),
            Room::Broken(errno) => {
                self.broken.set(Some(errno));
                Err(errno)
            }
        }
    }
}

impl Wire for Fake {
    fn read(&self, buffer: &mut Buffer) -> Result<Received, Errno> {
        let bytes = self.send(self.arrive(buffer.room())?);
        Ok(Received {
            count: buffer.load(&bytes),
            is_short: self.is_short,
        })
    }

    fn write(&self, buffer: &mut Buffer) -> Result<usize, Errno> {
        let bytes = buffer.unload(self.make_room(buffer.held_bytes())?);
        self.taken.borrow_mut().extend(&bytes);
        Ok(bytes.len())
    }

    fn fill(&self, pipe: &mut Pipe, length: usize) -> Result<usize, Errno> {
        // A user with many pipes gets small ones (pipe(7)), in which no burst lasts.
        let room = fcntl(pipe.input(), FcntlArg::F_GETPIPE_SZ)? as usize;
        let bytes = self.send(self.arrive_spliced(length.min(room))?);
        assert_eq!(write(pipe.input(), &bytes), Ok(bytes.len()));
        pipe.held_bytes += bytes.len();
        Ok(bytes.len())
    }

    fn drain(&self, pipe: &mut Pipe) -> Result<usize, Errno> {
        let mut bytes = vec![0; self.make_room(pipe.held_bytes)?];
        assert_eq!(read(pipe.output(), &mut bytes), Ok(bytes.len()));
        pipe.held_bytes -= bytes.len();
        self.taken.borrow_mut().extend(&bytes);
        Ok(bytes.len())
    }

    fn finish(&mut self) -> Result<(), Errno> {
        self.finished.set(self.finished.get() + 1);
        match self.broken.get() {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }

    fn refuse_input(&self) {
        self.is_input_refused.set(true);
    }

    fn take_error(&self) -> Option<Errno> {
        let is_hidden = self.last == Last::HiddenError && self.has_told_end.get();
        let told = is_hidden && !self.has_told_error.replace(true);
        told.then_some(Errno::ECONNRESET).or(self.hidden.get())
    }

    fn is_acknowledged(&self) -> bool {
        self.is_acknowledged.get()
    }

    fn silence(&self) -> Option<Duration> {
        None
    }

    fn stillness(&self) -> Option<Duration> {
        self.stillness.get()
    }

    fn has_input(&self) -> bool {
        matches!(self.arrivals.borrow().front(), Some(Arrival::Bytes(_)))
    }

    fn takes_nothing(&self) -> bool {
        self.takes_nothing.get()
    }

    fn family(&self) -> Family {
        self.family
    }
}
