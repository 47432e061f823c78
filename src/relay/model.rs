//! Connections against a kernel that answers each call with anything that it may answer.
//!
//! A script says what a wire sends and how much it takes, with short counts, EAGAIN, EINTR, ends and errors at any place.
//! Events come as from an edge-triggered epoll: once, after the call that met the edge, and never again. What must hold
//! whatever the scripts are stands in [`check`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::unistd::{read, write};
use proptest::prelude::*;

use super::connection::Connection;
use super::end::{End, Interest};
use super::ending::Ending;
use super::flow::Turn;
use super::pipes::Pipe;
use super::shared::Shared;
use super::token::Side;
use super::wire::{Received, Wire};
use crate::clock::Moment;
use crate::handover::{Buffer, Store};
use crate::peer::Family;

/// What the next read meets.
#[derive(Clone, Debug)]
enum Arrival {
    Bytes(usize),
    Nothing,
    Interrupt,
    /// An urgent byte, which is not delivered: a read stops in front of it once, splice(2) always (tcp(7)).
    Urgent,
}

/// How the stream goes on after all arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
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

/// What the next write meets; after the script everything is taken.
#[derive(Clone, Copy, Debug)]
enum Room {
    Bytes(usize),
    None,
    Interrupt,
    Broken(Errno),
}

#[derive(Clone, Debug)]
struct Script {
    arrivals: Vec<Arrival>,
    last: Last,
    rooms: Vec<Room>,
    family: Family,
}

/// A wire that follows a script.
#[derive(Debug)]
struct Model {
    arrivals: RefCell<VecDeque<Arrival>>,
    last: Last,
    rooms: RefCell<VecDeque<Room>>,
    family: Family,
    interest: Cell<Interest>,
    sent: Cell<usize>,
    taken: RefCell<Vec<u8>>,
    /// Edges that epoll has to report.
    events: Cell<EpollFlags>,
    has_told_error: Cell<bool>,
    has_told_end: Cell<bool>,
    broken: Cell<Option<Errno>>,
    finished: Cell<usize>,
}

/// The byte at a place of a stream.
fn byte(place: usize) -> u8 {
    (place % 251) as u8
}

impl Model {
    fn new(script: &Script) -> Model {
        Model {
            arrivals: RefCell::new(script.arrivals.iter().cloned().collect()),
            last: script.last,
            rooms: RefCell::new(script.rooms.iter().copied().collect()),
            family: script.family,
            interest: Cell::new(Interest::connected(script.family)),
            sent: Cell::new(0),
            taken: RefCell::default(),
            events: Cell::new(EpollFlags::EPOLLIN),
            has_told_error: Cell::new(false),
            has_told_end: Cell::new(false),
            broken: Cell::new(None),
            finished: Cell::new(0),
        }
    }

    fn report(&self, events: EpollFlags) {
        self.events.set(self.events.get() | events);
    }

    /// What is there is reported at once.
    fn change(&self, interest: Interest) {
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

    /// How many bytes a splice of so many gets.
    fn arrive_spliced(&self, length: usize) -> Result<usize, Errno> {
        if !self.is_at_urgent() {
            return self.arrive(length);
        }
        let is_open = |arrival: &Arrival| matches!(arrival, Arrival::Nothing);
        if self.last == Last::End && !self.arrivals.borrow().iter().any(is_open) {
            return Ok(0);
        }
        self.report_arrival();
        Err(Errno::EAGAIN)
    }

    /// How many bytes a read of so many gets.
    fn arrive(&self, room: usize) -> Result<usize, Errno> {
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
            Some(Arrival::Bytes(count)) if count > room => {
                arrivals.push_front(Arrival::Bytes(count - room));
                Ok(room)
            }
            Some(Arrival::Bytes(count)) => {
                drop(arrivals);
                if count < room {
                    self.report_arrival();
                }
                Ok(count)
            }
            Some(Arrival::Nothing) => {
                drop(arrivals);
                self.report_arrival();
                Err(Errno::EAGAIN)
            }
            Some(Arrival::Interrupt) => Err(Errno::EINTR),
            Some(Arrival::Urgent) | None => match self.last {
                Last::Silence => Err(Errno::EAGAIN),
                Last::Error if !self.has_told_error.replace(true) => Err(Errno::ECONNRESET),
                _ => {
                    self.has_told_end.set(true);
                    Ok(0)
                }
            },
        }
    }

    fn send(&self, count: usize) -> Vec<u8> {
        let start = self.sent.replace(self.sent.get() + count);
        (start..start + count).map(byte).collect()
    }

    /// How many bytes a write of so many brings away.
    fn make_room(&self, count: usize) -> Result<usize, Errno> {
        if let Some(errno) = self.broken.get() {
            return Err(errno);
        }
        match self.rooms.borrow_mut().pop_front() {
            None => Ok(count),
            Some(Room::Bytes(room)) => Ok(count.min(room)),
            Some(Room::None) => {
                if self.interest.get().room {
                    self.report(EpollFlags::EPOLLOUT);
                }
                Err(Errno::EAGAIN)
            }
            Some(Room::Interrupt) => Err(Errno::EINTR),
            Some(Room::Broken(errno)) => {
                self.broken.set(Some(errno));
                Err(errno)
            }
        }
    }

    fn total(script: &Script) -> usize {
        let bytes = |arrival: &Arrival| match arrival {
            Arrival::Bytes(count) => *count,
            _ => 0,
        };
        script.arrivals.iter().map(bytes).sum()
    }
}

impl Wire for Model {
    fn read(&self, buffer: &mut Buffer) -> Result<Received, Errno> {
        let count = self.arrive(buffer.room())?;
        buffer.load(&self.send(count));
        Ok(Received {
            count,
            is_short: false,
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
        let count = self.arrive_spliced(length.min(room))?;
        assert_eq!(write(pipe.input(), &self.send(count)), Ok(count));
        pipe.held_bytes += count;
        Ok(count)
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

    fn refuse_input(&self) {}

    fn take_error(&self) -> Option<Errno> {
        let is_hidden = self.last == Last::HiddenError && self.has_told_end.get();
        (is_hidden && !self.has_told_error.replace(true)).then_some(Errno::ECONNRESET)
    }

    fn is_acknowledged(&self) -> bool {
        true
    }

    fn silence(&self) -> Option<Duration> {
        None
    }

    fn stillness(&self) -> Option<Duration> {
        None
    }

    fn family(&self) -> Family {
        self.family
    }
}

/// Runs a connection until it is over, or nothing can happen any more; gives its ending, and both wires.
fn run(peer: &Script, target: &Script) -> (Option<Ending>, Connection<Model>) {
    let mut now = Moment::now();
    let ends = (End::new(Model::new(peer)), End::new(Model::new(target)));
    let mut connection = Connection::new(ends.0, ends.1, now);
    let mut shared = Shared::new(Store::private().unwrap());
    for _ in 0..100_000 {
        for side in [Side::Peer, Side::Target] {
            let end = match side {
                Side::Peer => connection.ends().0,
                Side::Target => connection.ends().1,
            };
            let events = end.wire.events.replace(EpollFlags::empty());
            connection.on_events(side, events);
        }
        // Small writes wait for a moment of the clock.
        let deadline = connection.deadline(&super::Limits::default());
        now = deadline.map_or(now, |at| at.max(now));
        let outcome = connection.advance(&mut shared, None, now);
        for side in [Side::Peer, Side::Target] {
            let wanted = connection.wanted(side);
            let end = connection.end_mut(side);
            if std::mem::replace(&mut end.interest, wanted) != wanted {
                end.wire.change(wanted);
            }
        }
        let (peer, target) = connection.ends();
        let events = peer.wire.events.get() | target.wire.events.get();
        let is_still =
            events.is_empty() && connection.deadline(&super::Limits::default()).is_none();
        match outcome {
            ControlFlow::Break(ending) => return (Some(ending), connection),
            ControlFlow::Continue(Turn::Waiting) if is_still => return (None, connection),
            _ => {}
        }
    }
    panic!("it goes on for ever: {connection:?}");
}

/// What must hold of the direction from `source` to `sink`.
fn check(
    ending: Option<Ending>,
    (source, source_script): (&Model, &Script),
    sink: &Model,
    is_last_end_by_close: bool,
) -> Result<(), TestCaseError> {
    let taken = sink.taken.borrow();
    let total = Model::total(source_script);
    let is_right = taken
        .iter()
        .enumerate()
        .all(|(place, got)| *got == byte(place));
    prop_assert!(
        is_right && taken.len() <= source.sent.get(),
        "bytes that were not sent"
    );
    let finished = sink.finished.get();
    prop_assert!(finished <= 1, "{finished} ends were sent on");
    let is_clean = source_script.last == Last::End;
    let is_told_end = finished == 1 || is_last_end_by_close && ending == Some(Ending::Complete);
    if is_told_end {
        prop_assert!(is_clean, "an end though {:?}", source_script.last);
        prop_assert_eq!(taken.len(), total, "an end before the last byte");
    }
    let is_sink_whole = !sink.broken.get().is_some_and(|_| true);
    let both_go_on = ending.is_none() || ending == Some(Ending::Complete);
    if both_go_on && is_sink_whole {
        prop_assert_eq!(taken.len(), total, "bytes stay behind");
        prop_assert_eq!(is_told_end, is_clean, "an end stays behind");
    }
    Ok(())
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Tcp), Just(Family::Unix), Just(Family::Vsock)]
}

fn script() -> impl Strategy<Value = Script> {
    let arrival = prop_oneof![
        4 => (1..200usize).prop_map(Arrival::Bytes),
        // Enough to fill a buffer, which begins a burst.
        2 => (100_000..300_000usize).prop_map(Arrival::Bytes),
        2 => Just(Arrival::Nothing),
        1 => Just(Arrival::Interrupt),
        1 => Just(Arrival::Urgent),
    ];
    let room = prop_oneof![
        4 => (1..100_000usize).prop_map(Room::Bytes),
        4 => Just(Room::None),
        1 => Just(Room::Interrupt),
    ];
    let broken = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Errno::EPIPE)),
        1 => Just(Some(Errno::ECONNRESET)),
        1 => Just(Some(Errno::ENOBUFS)),
    ];
    let last = prop_oneof![
        1 => Just(Last::Silence),
        6 => Just(Last::End),
        1 => Just(Last::Error),
        1 => Just(Last::EarlyError),
        1 => Just(Last::HiddenError),
    ];
    let arrivals = prop::collection::vec(arrival, 0..8);
    let rooms = prop::collection::vec(room, 0..8);
    (arrivals, last, rooms, broken, family()).prop_map(
        |(arrivals, last, mut rooms, broken, family)| {
            rooms.extend(broken.map(Room::Broken));
            let is_there =
                |arrival: &Arrival| family == Family::Tcp || !matches!(arrival, Arrival::Urgent);
            Script {
                // vsock has no urgent bytes, and a unix socket passes over them.
                arrivals: arrivals.into_iter().filter(is_there).collect(),
                // Only vsock hides errors behind an end.
                last: match last {
                    Last::HiddenError if family != Family::Vsock => Last::Error,
                    last => last,
                },
                rooms,
                family,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_kernel_answers(peer in script(), target in script()) {
        let (ending, connection) = run(&peer, &target);
        let ends = connection.ends();
        let (peer_wire, target_wire) = (&ends.0.wire, &ends.1.wire);
        check(ending, (peer_wire, &peer), target_wire, target_wire.finished.get() == 0)?;
        check(ending, (target_wire, &target), peer_wire, peer_wire.finished.get() == 0)?;
        let is_clean = |script: &Script| script.last == Last::End
            && !script.rooms.iter().any(|room| matches!(room, Room::Broken(_)));
        if is_clean(&peer) && is_clean(&target) {
            prop_assert_eq!(ending, Some(Ending::Complete));
        }
        let has_failed = |script: &Script| !matches!(script.last, Last::End | Last::Silence);
        if has_failed(&peer) || has_failed(&target) {
            prop_assert_ne!(ending, Some(Ending::Complete), "an error that nobody hears of");
        }
        let runs_short = |wire: &Model| wire.broken.get() == Some(Errno::ENOBUFS);
        if runs_short(peer_wire) || runs_short(target_wire) {
            prop_assert!(ending.is_some(), "it waits for a socket that lives");
        }
    }
}
