//! One end of a connection: what epoll said of it, and what epoll is asked for in consequence.
//!
//! Edges only, and everything from the beginning, so that a message costs no call for it. Two things are left out, because
//! each would wake a thread up that can do nothing:
//!
//! - Room to write, where sockets report it whenever the other end has read or answered, full or not: unix and vsock. They
//!   are asked for it after the first time that they were full.
//! - Bytes to read, while those that came before wait for room at the other end: one stream that fills its target had
//!   dozens of wake-ups for each one that could move something. They are asked for again when none are left.
//!
//! Of 2 010 wake-ups of one stream TCP to unix 1 117 moved nothing, and 7 of 1 646 since; 64 connections unix to unix have
//! 7 % more messages a second.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::token::Token;
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::peer::Family;
use crate::stream::Stream;

/// An end of a connection with what epoll said of it and no call has disproved since.
#[derive(Debug)]
pub(crate) struct End<W> {
    /// The descriptor.
    pub wire: W,
    /// A read may give something.
    pub is_readable: bool,
    /// A write may take something.
    pub is_writable: bool,
    /// The other end has ended its direction, or failed: read until that is seen.
    pub is_ended: bool,
    /// A short read may have left bytes: it stops at urgent ones (tcp(7)).
    pub has_urgent: bool,
    /// It has failed, or may have: there is an error to be taken, by a read or otherwise.
    pub has_failed: bool,
    /// An error that a call returned, and that no read will return again.
    pub failure: Option<Errno>,
    /// The end of the other direction was sent to it.
    pub is_finished: bool,
    /// What epoll is asked to report. A vsock target is watched for room as well from its connect until it goes to another
    /// thread: to take that back would cost each connection a call, and gained nothing when it was measured.
    pub interest: Interest,
}

impl<W: Wire> End<W> {
    /// Begins with a connected wire: there is room to write, and the first event tells of bytes to read.
    pub(crate) fn new(wire: W) -> End<W> {
        let interest = Interest::connected(wire.family());
        End {
            wire,
            is_readable: false,
            is_writable: true,
            is_ended: false,
            has_urgent: false,
            has_failed: false,
            failure: None,
            is_finished: false,
            interest,
        }
    }

    /// Takes over what epoll reported.
    pub(crate) fn on_events(&mut self, events: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.is_ended |= events.intersects(ended);
        self.has_urgent |= events.contains(EpollFlags::EPOLLPRI);
        self.has_failed |= events.contains(EpollFlags::EPOLLERR);
        self.is_readable |= events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI | ended);
        // A write to what has failed must be tried, too, to learn of it.
        self.is_writable |=
            events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
    }

    /// Returns what epoll is to report of it from now on; who asks for it remembers that in `interest`.
    ///
    /// `is_held_up`: what was read here waits for room at the other end, and more is not read before.
    pub(crate) fn wanted(&self, is_held_up: bool) -> Interest {
        // A file has one descriptor for each direction, and what it is watched for stays.
        if self.wire.family() == Family::File {
            return self.interest;
        }
        Interest {
            input: !self.is_readable || self.interest.input && !is_held_up,
            room: !self.is_writable || self.interest.room,
        }
    }
}

/// What epoll is to report of a socket, besides its end and its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Bytes to read.
    pub input: bool,
    /// Room to write.
    pub room: bool,
}

impl Interest {
    const INPUT: Interest = Interest {
        input: true,
        room: false,
    };
    const ROOM: Interest = Interest {
        input: false,
        room: true,
    };
    const ALL: Interest = Interest {
        input: true,
        room: true,
    };

    /// Returns that in a connected stream, from the beginning.
    pub(crate) fn connected(family: Family) -> Interest {
        match family {
            Family::Unix | Family::Vsock => Interest::INPUT,
            _ => Interest::ALL,
        }
    }

    /// Returns that in a stream while it is connected: room to write tells that it is, but for a unix socket, which is at
    /// once.
    pub(crate) fn connecting(family: Family) -> Interest {
        match family {
            Family::Unix => Interest::INPUT,
            _ => Interest::ALL,
        }
    }

    /// Begins to watch a stream; what is there already is reported at once. A file cannot be watched, and need not be.
    pub(crate) fn add(self, epoll: &Epoll, stream: &Stream, token: Token) -> Result<()> {
        match stream.separate_output() {
            None => register(epoll, stream.input(), self, token),
            Some(output) => {
                register(epoll, stream.input(), Interest::INPUT, token)?;
                register(epoll, output, Interest::ROOM, token)
            }
        }
    }

    /// Changes what a socket is watched for; what is there already is reported at once.
    pub(crate) fn modify(self, epoll: &Epoll, stream: &Stream, token: Token) -> Result<()> {
        let mut event = EpollEvent::new(self.flags(), token.pack());
        (epoll.modify(stream.input(), &mut event)).map_err(Error::system("watch a connection"))
    }

    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::EPOLLET | EpollFlags::EPOLLRDHUP;
        flags.set(EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI, self.input);
        flags.set(EpollFlags::EPOLLOUT, self.room);
        flags
    }
}

fn register(epoll: &Epoll, fd: BorrowedFd<'_>, interest: Interest, token: Token) -> Result<()> {
    match epoll.add(fd, EpollEvent::new(interest.flags(), token.pack())) {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(Error::system("watch a connection")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};

    use super::*;
    use crate::peer::Side;
    use crate::relay::token::Key;

    /// An epoll instance, a stream, and the same socket and its other end for the test.
    fn place() -> (Epoll, Stream, UnixStream, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        let stream = Stream::passed(here.try_clone().unwrap().into(), Family::Unix).unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        (epoll, stream, here, there)
    }

    fn reported(epoll: &Epoll) -> Option<(Token, EpollFlags)> {
        let mut events = [EpollEvent::empty()];
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
        (count > 0).then(|| (Token::unpack(events[0].data()), events[0].events()))
    }

    #[test]
    fn a_message_that_was_read_at_the_other_end_is_no_event() {
        for interest in [
            Interest::connected(Family::Unix),
            Interest::connecting(Family::Unix),
        ] {
            let (epoll, stream, mut here, mut there) = place();
            (interest.add(&epoll, &stream, Token::Session(Key::new(1, 1), Side::Peer))).unwrap();
            here.write_all(b"message").unwrap();
            there.read_exact(&mut [0; 7]).unwrap();
            assert_eq!(reported(&epoll), None);
            there.write_all(b"answer").unwrap();
            assert!(reported(&epoll).is_some());
        }
    }

    #[test]
    fn room_that_came_before_it_was_asked_for_is_reported() {
        let (epoll, stream, mut here, mut there) = place();
        let key = Key::new(1, 1);
        let interest = Interest::connected(Family::Unix);
        interest
            .add(&epoll, &stream, Token::Session(key, Side::Peer))
            .unwrap();
        let mut written = 0;
        let error = loop {
            match here.write(&[0; 4096]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        there.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(reported(&epoll), None);
        Interest::ALL
            .modify(&epoll, &stream, Token::Session(key, Side::Peer))
            .unwrap();
        let event = (Token::Session(key, Side::Peer), EpollFlags::EPOLLOUT);
        assert_eq!(reported(&epoll), Some(event));
    }

    #[test]
    fn bytes_that_came_before_they_were_asked_for_are_reported() {
        let (epoll, stream, _here, mut there) = place();
        let key = Key::new(1, 1);
        let change = |interest: Interest| {
            interest
                .modify(&epoll, &stream, Token::Session(key, Side::Peer))
                .unwrap()
        };
        Interest::INPUT
            .add(&epoll, &stream, Token::Session(key, Side::Peer))
            .unwrap();
        change(Interest::ROOM);
        assert_eq!(
            reported(&epoll).map(|(_, flags)| flags),
            Some(EpollFlags::EPOLLOUT)
        );
        there.write_all(b"message").unwrap();
        assert_eq!(reported(&epoll), None);
        change(Interest::INPUT);
        let event = (Token::Session(key, Side::Peer), EpollFlags::EPOLLIN);
        assert_eq!(reported(&epoll), Some(event));
        change(Interest::ROOM);
        drop(there);
        assert!(reported(&epoll).is_some_and(|(_, flags)| flags.contains(EpollFlags::EPOLLRDHUP)));
    }
}
